"""Panoptic and instance arms from the store to the table, as DVC runs the stages, at tiny size."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import ValidationError

from seggen_core.cli import main
from seggen_core.colors.panoptic import PanopticMap
from seggen_core.config import SegGenConfig
from seggen_core.errors import CheckError, ConfigError
from seggen_core.metrics.instance import Instances
from seggen_core.metrics.panoptic import PanopticCounts, count_panoptic, panoptic_quality
from seggen_core.metrics.segments import PanopticScores, SegmentPrediction
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arms import TrainedArm
from seggen_core.segmentation.model_task import TASK_FILE
from seggen_core.stages import ablation, evaluate, judge, train_seg
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from seggen_core.taxonomy import IGNORE_INDEX
from tests.minimal_config import judged_by, minimal_config
from tests.segmentation.conftest import SIZE, TAXONOMY, picture
from tests.segmentation.tiny import TINY_HRNET, TINY_MASK2FORMER

REAL = "data/real/train/index.parquet"
PLAIN = {"model": "mask2former", "strategy": "plain", "reads": [REAL, REAL]}
MIXED = {"model": "mask2former", "strategy": "replace", "reads": ["data/synthetic/masksyn"] * 2}
ARMS = {
    "semantic": PLAIN,
    "panoptic": PLAIN | {"task": "panoptic"},
    "masksyn": MIXED | {"task": "panoptic", "synthetic_augment": {"splice": 1.0}},
    "instance": PLAIN | {"task": "instance"},
}
LENIENT = {"object_mask_threshold": 0.0, "overlap_threshold": 0.0}


def settings(**changes: Any) -> SegGenConfig:
    tree: dict[str, Any] = {
        "classes": ["car", "grass", "sky"],
        "train_seg": {
            "common": {
                "num_steps": 2,
                "batch_size": 2,
                "checkpoint_every": 2,
                "validate_every": 2,
                "postprocess": LENIENT,
            },
            "hrnet": {"backbone_kwargs": TINY_HRNET, "stem_stride": 2},
            "mask2former": {"learning_rate": 1e-4, "architecture": TINY_MASK2FORMER},
        },
        "variants": ARMS,
        "ablation": {"baseline": "panoptic"},
        "judge": {"variant": "panoptic"},
        "evaluate": {"num_pictures": 2},
        "checks": {"min_val_miou": 0, "min_val_pq": 0, "min_val_ap": 0},
    }
    dataset = {"name": "scenes", "image_size": SIZE, "subset_seeds": [0]}
    return minimal_config(dataset, **(tree | changes))


def add_instances(folder: Path, *, crowd: bool = False) -> None:
    """Write a store again with two cars in each picture, the left and the right half of one."""
    old = SampleStore(folder)
    with SampleStoreWriter(folder.with_name("new"), num_classes=len(TAXONOMY)) as writer:
        for sample in old:
            car = sample.segmentation_map == 2
            halves = 1 + (np.cumsum(car.any(0)) > car.any(0).sum() // 2)
            instances = np.where(car, 0 if crowd else halves, 0).astype(np.uint16)
            mask = sample.segmentation_map.copy()
            mask[0, 0] = IGNORE_INDEX
            writer.add(Sample(sample.key, sample.image, mask, instances, sample.metadata))
        writer.finish(manifest={})
    shutil.rmtree(folder)
    folder.with_name("new").rename(folder)


@pytest.fixture
def things(project: ProjectPaths) -> ProjectPaths:
    """The tiny project, whose samples tell cars apart."""
    for split in ("train", "val", "test"):
        add_instances(project.real(split))
    for slug in TAXONOMY.slugs:
        add_instances(project.synthetic("masksyn", slug))
    return project


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_arms_of_all_tasks_from_the_store_to_the_table(
    things: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings()
    for arm, variant in ARMS.items():
        train_seg.run(config, paths=things, item=arm)
        evaluate.run(config, paths=things, item=arm)
        metrics = read(things.checkpoint(arm) / "metrics.json")
        name = {"panoptic": "val_pq", "instance": "val_ap"}.get(variant.get("task", ""), "val_miou")
        assert name in metrics and name in metrics["seeds"]["0"]
        assert name in pd.read_csv(things.checkpoint(arm) / "history.csv")
    assert TrainedArm.read(things, variant="masksyn").task == "panoptic"

    # The figures are those of the predictions that were written.
    panoptic = things.report("evaluate", "panoptic")
    figures = read(panoptic / "metrics.json")
    assert figures["pq"] == pytest.approx(pq_of_files(panoptic / "coco"), abs=1e-4)
    assert figures["ap_pan"] == pytest.approx(ap_of_files(panoptic / "coco")[0], abs=1e-4)
    instance = things.report("evaluate", "instance")
    figures = read(instance / "metrics.json")
    names = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
    expected = ap_of_files(instance / "coco")
    assert [figures[n] for n in names] == [
        None if v < 0 else pytest.approx(v, abs=1e-4) for v in expected
    ]
    assert set(figures["per_class_ap"]) == set(TAXONOMY.slugs)
    assert figures["per_class_ap"]["sky"] is None and "pq" not in figures
    assert (panoptic / "predictions.png").is_file()

    ablation.run(config, paths=things, item=None)
    text = (things.ablation / "ablation.md").read_text()
    headings = ("## Panoptic segmentation", "Semantic segmentation", "## Instance segmentation")
    places = [text.index(heading) for heading in headings]
    assert places[0] < places[1] and all(f" {h} " in text for h in ("PQ", "APpan", "AP50", "mIoU"))
    table = pd.read_csv(things.ablation / "ablation.csv").set_index("variant")
    assert list(table.index) == ["panoptic", "masksyn"]
    assert table.loc["masksyn", "compared_with"] == "panoptic"
    delta = table.loc["masksyn", "pq"] - table.loc["panoptic", "pq"]
    assert table.loc["masksyn", "delta_pq"] == pytest.approx(delta, abs=2e-4)
    plots = pd.read_csv(things.ablation / "plots.csv").set_index("variant")
    assert plots["task"].to_dict() == {
        arm: variant.get("task", "semantic") for arm, variant in ARMS.items()
    }
    assert plots["score"].notna().all()
    for name in ("ablation", "panoptic_ablation", "instance_ablation", "semantic_per_class"):
        expected_file = name != "panoptic_ablation"
        assert (things.ablation / f"{name}.png").is_file() == expected_file
    assert "ap" in read(things.ablation / "arms" / "instance.json")

    monkeypatch.chdir(things.root)
    check_applied(things)

    judge.run(config, paths=things, item="masksyn")
    with pytest.raises(ConfigError, match="task is instance: it gives no class to every pixel"):
        judge.run(judged_by(config, "instance"), paths=things, item="masksyn")
    floor = settings(checks={"min_val_pq": 100})
    with pytest.raises(CheckError, match=r"validation PQ .* \(limit: checks.min_val_pq"):
        evaluate.run(floor, paths=things, item="panoptic")


def check_applied(things: ProjectPaths) -> None:
    """Check that arms applied to a picture find what evaluation scored, also without task.json."""
    reports = {task: things.report("evaluate", task) / "coco" for task in ("panoptic", "instance")}
    photo = things.root / "photo.png"
    store, evaluated = SampleStore(things.real("test")), reports["panoptic"] / "seed0"
    Image.fromarray(store.read_image(store.keys()[0])).save(photo)
    (things.checkpoint("panoptic") / "seed0" / TASK_FILE).unlink()
    command = ["predict", str(photo), "--arm"]
    assert main([*command, "panoptic", "--out", "panoptic"]) == 0
    annotations = [
        read(f / "panoptic.json")["annotations"][0] for f in (Path("panoptic"), evaluated)
    ]
    assert annotations[0]["segments_info"] == annotations[1]["segments_info"]
    assert main([*command, "instance", "--out", "instance"]) == 0
    rows = [r for r in read(reports["instance"] / "seed0" / "instances.json") if r["image_id"] == 1]
    applied = read(Path("instance") / "instances.json")
    assert [r | {"score": pytest.approx(r["score"])} for r in rows] == applied


def ap_of_files(folder: Path) -> list[float]:
    """Return AP, AP50, AP75, APs, APm, APl of COCO files in percent, by pycocotools."""
    truth = COCO(str(folder / "truth" / "instances.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(folder / "seed0" / "instances.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [100 * value if value >= 0 else -1 for value in evaluation.stats[:6]]


def pq_of_files(folder: Path) -> float:
    """Return PQ of panoptic PNG and JSON files, read as panopticapi reads them."""
    empty = (np.zeros(len(TAXONOMY), np.int64) for _ in range(3))
    total = PanopticCounts(np.zeros(len(TAXONOMY)), *empty)
    trees = [read(folder / name / "panoptic.json") for name in ("seed0", "truth")]
    for predicted, wanted in zip(*(tree["annotations"] for tree in trees), strict=True):
        maps = []
        for name, row in (("seed0", predicted), ("truth", wanted)):
            rgb = np.array(Image.open(folder / name / "panoptic" / row["file_name"]), int)
            ids = rgb @ [1, 256, 65536]
            listed = {s["id"]: s for s in row["segments_info"]}
            assert set(np.unique(ids).tolist()) - {0} == set(listed)
            classes = np.full(ids.shape, IGNORE_INDEX, np.uint8)
            for segment_id, segment in listed.items():
                classes[ids == segment_id] = segment["category_id"] - 1
                assert segment["area"] == (ids == segment_id).sum()
            maps.append(PanopticMap(classes, ids.astype(np.uint16)))
        total += count_panoptic(maps[0], truth=maps[1], num_classes=len(TAXONOMY))
    return panoptic_quality(total).pq


def test_missing_instance_maps_are_named_before_the_training(project: ProjectPaths) -> None:
    message = r"task panoptic needs instance maps, and 6 of 6 samples of .*train show things"
    with pytest.raises(ConfigError, match=message):
        train_seg.run(settings(), paths=project, item="panoptic")
    for split in ("train", "val", "test"):
        add_instances(project.real(split))
    with pytest.raises(ConfigError, match=r"samples of .*masksyn.*color_map: panoptic"):
        train_seg.run(settings(), paths=project, item="masksyn")


def test_images_without_a_thing_and_with_crowds_alone_train_and_score(
    things: ProjectPaths,
) -> None:
    for split in ("train", "test"):
        add_instances(things.real(split), crowd=True)
    config = settings()
    train_seg.run(config, paths=things, item="instance")
    evaluate.run(config, paths=things, item="instance")
    metrics = read(things.report("evaluate", "instance") / "metrics.json")
    assert metrics["ap"] is None
    truth = read(things.report("evaluate", "instance") / "coco" / "truth" / "instances.json")
    assert truth["annotations"] and all(a["iscrowd"] for a in truth["annotations"])


def test_hrnet_tells_no_instances_apart() -> None:
    with pytest.raises(ValidationError, match=r"variants\.x: the task is panoptic, and hrnet"):
        settings(variants={"x": PLAIN | {"model": "hrnet", "task": "panoptic"}})


def test_predictions_of_another_task_are_refused() -> None:
    image, mask = picture(0)
    truth = PanopticMap(mask, np.zeros(mask.shape, np.uint16))
    none = Instances(np.zeros((0, *mask.shape), bool), np.zeros(0, int), scores=np.zeros(0))
    prediction = SegmentPrediction("a", image, truth, none)
    with pytest.raises(ConfigError, match="prediction of a has instances alone"):
        PanopticScores(TAXONOMY).add(prediction)
