"""The weak-class sensor: which partitions it asks for, how often, and with what."""

import json
from pathlib import Path

import dagster as dg
import yaml

from dagster_dvc.manifest import load_manifest
from dagster_dvc.resource import DvcProject
from dagster_project.defs.evaluation import build_weak_class_sensor, weakest_classes
from dagster_project.resources import WeakClassPolicy


def evaluate(root: Path, cursor: str | None) -> tuple[list[dg.RunRequest], str | None]:
    resources = {
        "dvc": DvcProject(project_dir=str(root)),
        "weak_class_policy": WeakClassPolicy(arm="masksyn", weakest=2),
    }
    with dg.build_sensor_context(cursor=cursor, resources=resources) as context:
        answers = list(build_weak_class_sensor(load_manifest(root))(context))
        return [answer for answer in answers if isinstance(answer, dg.RunRequest)], context.cursor


def test_the_weakest_classes_get_more_samples_once_per_evaluation(project: Path) -> None:
    assert evaluate(project, None) == ([], None)
    report = project / "data" / "reports" / "evaluate" / "masksyn" / "metrics.json"
    report.parent.mkdir(parents=True)
    iou = {"sky": 98.0, "car": 26.5, "person": 18.1, "tree": 19.4, "house": None}
    report.write_text(json.dumps({"per_class_iou": iou}))
    requests, cursor = evaluate(project, None)
    assert [request.partition_key for request in requests] == ["person", "tree"]
    config = requests[0].run_config["ops"]["masksyn"]["config"]
    twice = (
        2 * yaml.safe_load((project / "params.yaml").read_text())["masksyn"]["samples_per_source"]
    )
    assert config == {"params": {"masksyn.samples_per_source": twice}}
    assert requests[0].asset_selection == [dg.AssetKey("masksyn")]
    assert evaluate(project, cursor)[0] == []


def test_ties_and_classes_without_a_score() -> None:
    iou = {"b": 10.0, "a": 10.0, "c": 5.0, "d": None, "e": 1.0}
    assert weakest_classes(iou, count=2, among={"a": 0, "b": 0, "c": 0, "d": 0}) == {
        "c": 5.0,
        "a": 10.0,
    }
