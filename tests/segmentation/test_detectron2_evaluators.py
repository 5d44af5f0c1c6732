"""detectron2's evaluators and our metrics give equal figures on the same predictions."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.metrics.instance import Instances, average_precision
from seggen_core.metrics.panoptic import count_panoptic, panoptic_quality
from seggen_core.metrics.semantic import (
    class_accuracy,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    mean_iou,
    pixel_accuracy,
)
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import Sample, SampleStore
from tests.exports.project import TAXONOMY, THINGS, make_sample, write_store
from tests.exports.test_coco import expected_things
from tests.segmentation.detectron2_project import make_detectron2_project

pytest.importorskip(
    "detectron2", reason="detectron2 isn't on the package index: docs/detectron2.md installs it"
)

from detectron2 import structures
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, COCOPanopticEvaluator, SemSegEvaluator

from seggen_core.segmentation.detectron2 import register

C = len(TAXONOMY)
SEED = 5


def enlarged(sample: Sample, factor: int) -> Sample:
    """A sample whose objects are small, medium and large to COCO."""

    def larger(array: np.ndarray) -> np.ndarray:
        return array.repeat(factor, 0).repeat(factor, 1)

    maps = larger(sample.segmentation_map), larger(sample.instance_map)
    return replace(
        sample, image=larger(sample.image), segmentation_map=maps[0], instance_map=maps[1]
    )


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProjectPaths]:
    paths = make_detectron2_project(tmp_path_factory.mktemp("evaluators"))
    shutil.rmtree(paths.real("test"))
    samples = [enlarged(make_sample(f"test-{i}", i), 1 + 6 * (i % 3)) for i in range(6)]
    write_store(paths.real("test"), samples, dataset="folder", split="test")
    names = register(paths.root)
    yield paths
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def samples(paths: ProjectPaths) -> list[Sample]:
    return list(SampleStore(paths.real("test")))


def shifted(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask that is moved by up to a tenth of the image."""
    reach = max(1, len(mask) // 10)
    down, across = rng.integers(-reach, reach + 1, 2).tolist()
    return np.roll(mask, (down, across), (0, 1))


def test_semantic_figures_are_equal(paths: ProjectPaths, samples: list[Sample]) -> None:
    rng = np.random.default_rng(SEED)
    evaluator = SemSegEvaluator("seggen_real_test_semantic", distributed=False)
    evaluator.reset()
    confusion = np.zeros((C, C), np.int64)
    for entry, sample in zip(DatasetCatalog.get("seggen_real_test_semantic"), samples, strict=True):
        truth = sample.segmentation_map
        predicted = shifted(np.where(truth == 255, 1, truth), rng)
        scores = torch.nn.functional.one_hot(torch.from_numpy(predicted).long(), C).permute(2, 0, 1)
        evaluator.process([entry], [{"sem_seg": scores}])
        confusion += confusion_matrix(predicted, truth=truth, num_classes=C)
    theirs = evaluator.evaluate()["sem_seg"]
    ours = {
        "mIoU": mean_iou(confusion),
        "fwIoU": frequency_weighted_iou(confusion),
        "mACC": class_accuracy(confusion).mean(),
        "pACC": pixel_accuracy(confusion),
    }
    ours |= {f"IoU-{c.name}": iou for c, iou in zip(TAXONOMY, class_iou(confusion), strict=True)}
    assert 0 < ours["mIoU"] < 100
    assert {name: theirs[name] for name in ours} == pytest.approx(ours, abs=1e-10)


def predicted_segments(sample: Sample, rng: np.random.Generator) -> PanopticMap:
    """Segments of the truth that are moved, one missing, one of another class; void in between."""
    classes = np.full_like(sample.segmentation_map, 255)
    instances = np.zeros_like(sample.instance_map)
    for train_id in (0, 1):
        classes[shifted(sample.segmentation_map == train_id, rng)] = train_id
    things = list(expected_things(sample).items())
    missing, wrong = rng.integers(len(things), size=2).tolist()
    for index, ((train_id, _), mask) in enumerate(things):
        if index == missing:
            continue
        place = shifted(mask, rng)
        other = THINGS[(THINGS.index(train_id) + 1) % 2]
        classes[place] = other if index == wrong else train_id
        instances[place] = index + 1
    return PanopticMap(classes, np.where(np.isin(classes, THINGS), instances, 0).astype(np.uint16))


def test_panoptic_figures_are_equal(
    paths: ProjectPaths, samples: list[Sample], tmp_path: Path
) -> None:
    pytest.importorskip("panopticapi", reason="panopticapi isn't on the package index")
    rng = np.random.default_rng(SEED)
    name = "seggen_real_test_panoptic"
    evaluator = COCOPanopticEvaluator(name, str(tmp_path))
    evaluator.reset()
    counts = []
    for entry, sample in zip(DatasetCatalog.get(name), samples, strict=True):
        predicted = predicted_segments(sample, rng)
        codes, ids = np.unique(predicted.segment_ids(), return_inverse=True)
        ids = ids.reshape(predicted.instance_map.shape) + 1
        infos = []
        for segment_id, code in enumerate(codes.tolist(), start=1):
            if code >> 16 == 255:
                ids[ids == segment_id] = 0
                continue
            is_thing = code >> 16 in THINGS
            infos.append({"id": segment_id, "category_id": code >> 16, "isthing": is_thing})
        evaluator.process([entry], [{"panoptic_seg": (torch.from_numpy(ids), infos)}])
        truth = PanopticMap(
            sample.segmentation_map,
            np.where(np.isin(sample.segmentation_map, THINGS), sample.instance_map, 0),
        )
        crowds = [(train_id, 0) for train_id in THINGS]
        counts.append(count_panoptic(predicted, truth=truth, num_classes=C, crowds=crowds))
    theirs = evaluator.evaluate()["panoptic_seg"]
    total = counts[0]
    for count in counts[1:]:
        total += count
    is_thing = np.isin(np.arange(C), THINGS)
    ours = {}
    for ending, classes in (("", None), ("_th", is_thing), ("_st", ~is_thing)):
        quality = panoptic_quality(total, classes=classes)
        ours |= {f"PQ{ending}": quality.pq, f"SQ{ending}": quality.sq, f"RQ{ending}": quality.rq}
    assert all(0 < value < 100 for value in ours.values()), ours
    assert dict(theirs) == pytest.approx(ours, abs=1e-10)


def found_instances(sample: Sample, rng: np.random.Generator) -> tuple[Instances, Instances]:
    """Predicted and true instances: some moved, some twice, some of another class."""
    things = list(expected_things(sample).items())
    truth = Instances(
        np.stack([mask for _, mask in things]),
        np.array([THINGS.index(train_id) for (train_id, _), _ in things]),
        crowds=np.array([instance == 0 for (_, instance), _ in things]),
    )
    masks, classes = [], []
    for _ in range(3):
        for class_id, mask in zip(truth.class_ids.tolist(), truth.masks, strict=True):
            masks.append(shifted(mask, rng))
            classes.append(class_id if rng.random() < 0.8 else 1 - class_id)
    scores = rng.random(len(masks)).astype(np.float32)
    return Instances(np.stack(masks), np.array(classes), scores=scores), truth


@pytest.mark.parametrize("fast", [False, True], ids=["pycocotools", "detectron2's own"])
def test_instance_figures_are_equal(
    paths: ProjectPaths, samples: list[Sample], tmp_path: Path, fast: bool
) -> None:
    if fast:
        pytest.importorskip("detectron2._C", reason="detectron2 is not compiled")
    rng = np.random.default_rng(SEED)
    name = "seggen_real_test_instance"
    options: dict[str, Any] = {"distributed": False, "use_fast_impl": fast}
    evaluator = COCOEvaluator(name, tasks=("segm",), output_dir=str(tmp_path), **options)
    evaluator.reset()
    pairs = []
    for entry, sample in zip(DatasetCatalog.get(name), samples, strict=True):
        predicted, truth = found_instances(sample, rng)
        pairs.append((predicted, truth))
        masks = torch.from_numpy(predicted.masks)
        fields = {
            "pred_masks": masks,
            "pred_boxes": structures.BitMasks(masks).get_bounding_boxes(),
            "scores": torch.from_numpy(predicted.scores),
            "pred_classes": torch.from_numpy(predicted.class_ids),
        }
        instances = structures.Instances(sample.segmentation_map.shape, **fields)
        evaluator.process([entry], [{"instances": instances}])
    theirs = evaluator.evaluate()["segm"]
    result = average_precision(pairs, num_classes=len(THINGS))
    ours = {"AP": result.ap, "AP50": result.ap50, "AP75": result.ap75, "APs": result.ap_small}
    ours |= {"APm": result.ap_medium, "APl": result.ap_large}
    for place, train_id in enumerate(THINGS):
        ours[f"AP-{TAXONOMY[train_id].name}"] = result.per_class[place]
    assert 0 < ours["AP"] < 100
    assert dict(theirs) == pytest.approx(ours, abs=1e-10, nan_ok=True)
    assert json.loads((tmp_path / "coco_instances_results.json").read_text())
