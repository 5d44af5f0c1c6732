"""Checks of stages: what they stop, and what they say of several stages at once."""

from pathlib import Path

import dagster as dg
import pytest

from dagster_dvc.blueprint import Blueprint, CheckOutcome, StageCheck
from dagster_dvc.checks import summarize
from dagster_dvc.definitions import build_dvc_definitions
from dagster_dvc.graph import StageNode
from dagster_dvc.manifest import load_manifest
from dagster_dvc.resource import DvcProject
from dagster_dvc.status import changed_stages


def look(root: Path, node: StageNode) -> CheckOutcome:
    """Fails where a stage wrote the word "broken", and warns of "doubtful"."""
    words = {out: (root / out).read_text().strip() for out in node.outs}
    bad = {out: word for out, word in words.items() if word in ("broken", "doubtful")}
    if not bad:
        return CheckOutcome(passed=True, description="all is well", metadata={"files": len(words)})
    out, word = next(iter(bad.items()))
    severity = dg.AssetCheckSeverity.ERROR if word == "broken" else dg.AssetCheckSeverity.WARN
    return CheckOutcome(
        passed=False, description=f"{out} is {word}", metadata={"example": out}, severity=severity
    )


CHECK = StageCheck(
    "sound",
    "Nothing is broken",
    blocking=True,
    applies=lambda group: group == "masksyn",
    evaluate=look,
)


def definitions(root: Path) -> dg.Definitions:
    blueprint = Blueprint(load_manifest(root), [CHECK])
    return dg.Definitions.merge(
        build_dvc_definitions(DvcProject(str(root)), blueprint=blueprint, job="everything"),
        dg.Definitions(executor=dg.in_process_executor),
    )


def make_write(root: Path, word: str) -> None:
    """Let masksyn@car write `word`, others what they always do."""
    script = (root / "stage.sh").read_text().splitlines()
    kept = [line for line in script if "# word" not in line]
    (root / "stage.sh").write_text(
        "\n".join([*kept, f"[ $name != masksyn@car ] || echo {word} > $out # word"]) + "\n"
    )


def test_a_broken_sample_stops_the_graph(project: Path) -> None:
    make_write(project, "broken")
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions(project).resolve_job_def("everything")
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        assert not result.success
        failed = [
            evaluation
            for evaluation in result.get_asset_check_evaluations()
            if not evaluation.passed
        ]
        assert [(e.check_name, e.metadata["example"].value) for e in failed] == [
            ("sound", "data/synthetic/masksyn/car")
        ]
        # The arm that reads masksyn hasn't been run, the one beside it has.
        changed = changed_stages(project)
        assert "train_seg@masksyn" in changed
        assert "train_seg@baseline" not in changed

        # Nor does it the second time, though DVC has nothing to do for masksyn any more.
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        assert not result.success
        assert "train_seg@masksyn" in changed_stages(project)

        make_write(project, "doubtful")
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        assert result.success, "a warning stops nothing"
        assert changed_stages(project) == {}


def test_a_partition_with_a_broken_sample_fails_its_run(project: Path) -> None:
    make_write(project, "broken")
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions(project).resolve_implicit_global_asset_job_def()
        for partition, sound in (("bus", True), ("car", False)):
            result = job.execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey("masksyn")],
                partition_key=partition,
                raise_on_error=False,
            )
            assert result.success is sound
            assert {e.check_name: e.passed for e in result.get_asset_check_evaluations()}[
                "sound"
            ] is sound


@pytest.mark.parametrize(
    "words, expected", [(("a", "b"), "all 2 stages pass"), (("doubtful", "broken"), "masksyn@bus:")]
)
def test_several_stages_at_once(project: Path, words: tuple[str, str], expected: str) -> None:
    manifest = load_manifest(project)
    nodes = [manifest.stages["masksyn@car"], manifest.stages["masksyn@bus"]]
    for node, word in zip(nodes, words, strict=True):
        path = project / node.outs[0]
        path.unlink()  # it is a link into DVC's cache
        path.write_text(word)
    outcome = summarize({node.name: look(project, node) for node in nodes})
    assert expected in outcome.description
    assert outcome.severity == dg.AssetCheckSeverity.ERROR
