"""Average precision, against pycocotools and by hand."""

import copy

import numpy as np
import pytest
from pycocotools import coco, cocoeval
from pycocotools import mask as mask_api
from scipy import ndimage

from seggen_core.metrics.boundary import boundary_width
from seggen_core.metrics.instance import (
    AveragePrecision,
    Instances,
    PrecisionCounter,
    average_precision,
)

SIZE = (160, 200)
NUM_CLASSES = 4


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def instances(masks: list[np.ndarray], classes: list[int], **changes: list) -> Instances:
    stacked = np.stack(masks) if masks else np.zeros((0, *SIZE), bool)
    columns = {name: np.array(values) for name, values in changes.items()}
    return Instances(stacked, np.array(classes, int), **columns)


def draw_images(seed: int, *, count: int) -> list[tuple[Instances, Instances]]:
    """Return images with ragged boxes; predictions are moved, of other classes, tied or absent."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        true: list[tuple] = []
        predicted: list[tuple] = []
        for _ in range(rng.integers(0, 8)):
            mask = box(*rng.integers(0, 120, 2), *rng.integers(3, 120, 2)) & (
                rng.random(SIZE) < 0.97
            )
            class_id = int(rng.integers(NUM_CLASSES))
            if mask.any():
                true.append((mask, class_id, rng.random() < 0.15))
            for _ in range(rng.integers(0, 4)):
                moved = np.roll(mask, rng.integers(-6, 7, 2).tolist(), (0, 1))
                other = int(rng.integers(NUM_CLASSES))
                score = round(float(rng.random()), 1 if seed % 2 else 9)
                predicted.append((moved, class_id if rng.random() < 0.8 else other, score))
        images.append(
            (
                instances(
                    [p[0] for p in predicted],
                    [p[1] for p in predicted],
                    scores=[p[2] for p in predicted],
                ),
                instances([t[0] for t in true], [t[1] for t in true], crowds=[t[2] for t in true]),
            )
        )
    return images


class BoundaryEval(cocoeval.COCOeval):
    """pycocotools' evaluation with the smaller one of mask IoU and boundary IoU."""

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:  # noqa: N802, N803
        """Boundaries are cut off as boundary-iou-api does it: by erosions of 3x3, one a pixel."""
        iou = super().computeIoU(imgId, catId)
        if not len(iou):
            return iou
        predicted = sorted(self._dts[imgId, catId], key=lambda d: -d["score"])[:100]
        wanted = self._gts[imgId, catId]
        rims = [[self._rim(a) for a in group] for group in (predicted, wanted)]
        crowds = [a["iscrowd"] for a in wanted]
        rim_iou = mask_api.iou(*rims, crowds)
        return np.where(np.array(crowds, bool), iou, np.minimum(iou, rim_iou))

    @staticmethod
    def _rim(annotation: dict) -> dict:
        mask = mask_api.decode(annotation["segmentation"]).astype(bool)
        times, square = boundary_width(mask.shape), np.ones((3, 3), bool)
        inside = ndimage.binary_erosion(mask, structure=square, iterations=times)
        return mask_api.encode(np.asfortranarray(mask & ~inside, np.uint8))


def coco_figures(
    images: list[tuple[Instances, Instances]],
    evaluator: type[cocoeval.COCOeval] = cocoeval.COCOeval,
) -> list[float]:
    """Return AP, AP50, AP75, APs, APm, APl as pycocotools computes them, NaN for no value."""
    truth, detections, annotations = coco.COCO(), [], []
    for image_id, (predicted, true) in enumerate(images, start=1):
        for group, target in ((true, annotations), (predicted, detections)):
            for k, mask in enumerate(group.masks):
                if not mask.any() and group is true:
                    continue
                run_lengths = mask_api.encode(np.asfortranarray(mask, np.uint8))
                entry = {"image_id": image_id, "category_id": int(group.class_ids[k])}
                entry |= {"segmentation": run_lengths, "area": float(mask_api.area(run_lengths))}
                entry["id"] = len(target) + 1
                entry["iscrowd"] = int(group.crowds is not None and group.crowds[k])
                if group.scores is not None:
                    entry["score"] = float(group.scores[k])
                target.append(entry)
    truth.dataset = {
        "images": [{"id": k + 1, "height": SIZE[0], "width": SIZE[1]} for k in range(len(images))],
        "annotations": annotations,
        "categories": [{"id": c} for c in range(NUM_CLASSES)],
    }
    truth.createIndex()
    evaluation = evaluator(truth, truth.loadRes(copy.deepcopy(detections)), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [100 * v if v >= 0 else np.nan for v in evaluation.stats[:6].tolist()]


def figures(result: AveragePrecision) -> list[float]:
    return [
        result.ap,
        result.ap50,
        result.ap75,
        result.ap_small,
        result.ap_medium,
        result.ap_large,
    ]


@pytest.mark.parametrize("seed", range(12))
def test_figures_are_those_of_pycocotools(seed: int) -> None:
    images = draw_images(seed, count=12)
    computed = figures(average_precision(iter(images), num_classes=NUM_CLASSES))
    np.testing.assert_array_equal(computed, coco_figures(images))
    assert 0 < computed[0] < computed[1] < 100


@pytest.mark.parametrize("seed", range(4))
def test_boundary_figures_are_those_of_pycocotools_with_boundary_iou(seed: int) -> None:
    images = draw_images(seed, count=8)
    computed = figures(average_precision(images, num_classes=NUM_CLASSES, boundary=True))
    np.testing.assert_array_equal(computed, coco_figures(images, BoundaryEval))
    assert computed[0] < figures(average_precision(images, num_classes=NUM_CLASSES))[0]


def test_more_than_100_predictions_of_a_class_and_one_without_a_pixel() -> None:
    true = instances([box(0, 0, 40, 40), box(60, 60, 30, 30)], [0, 0])
    many = [box(k % 100, k, 5, 5) for k in range(110)] + [box(60, 60, 30, 30), box(0, 0, 40, 40)]
    scores = [0.5] * 110 + [0.1, 0.9]
    empty = np.zeros(SIZE, bool)
    predicted = instances([*many, empty], [0] * 113, scores=[*scores, 0.95])
    ours = figures(average_precision([(predicted, true)], num_classes=1))
    np.testing.assert_array_equal(ours, coco_figures([(predicted, true)]))
    # The right one with score 0.1 is the 113th; the empty one comes before the other.
    assert ours[0] == pytest.approx(100 * 51 / 101 / 2)


def test_a_counter_keeps_no_mask() -> None:
    counter = PrecisionCounter(NUM_CLASSES)
    for predicted, true in draw_images(0, count=5):
        counter.add(predicted, true=true)
    class_matches = [m for matches in counter._matches for m in matches]
    sizes = [array.nbytes for m in class_matches for array in vars(m).values()]
    assert sum(sizes) == 24 * sum(len(m.scores) for m in class_matches)


def test_a_perfect_and_a_moved_prediction_by_hand() -> None:
    true = instances([box(0, 0, 40, 40), box(60, 60, 10, 10)], [0, 1])
    moved = box(0, 10, 40, 40)  # IoU 30 / 50: right at the thresholds 0.50, 0.55 and 0.60
    predicted = instances([moved, box(60, 60, 10, 10)], [0, 1], scores=[0.9, 0.4])
    result = average_precision([(predicted, true)], num_classes=3)
    assert result.per_class[:2] == pytest.approx((30, 100)) and np.isnan(result.per_class[2])
    assert result.ap == pytest.approx(65) and result.ap50 == pytest.approx(100)
    assert result.ap75 == pytest.approx(50)
    assert result.ap_small == pytest.approx(100) and result.ap_medium == pytest.approx(30)
    assert np.isnan(result.ap_large)


def test_a_crowd_is_neither_missed_nor_a_mistake() -> None:
    crowd = instances([box(0, 0, 80, 80), box(100, 100, 20, 20)], [0, 0], crowds=[True, False])
    inside = [box(5, 5, 20, 20), box(40, 40, 20, 20), box(100, 100, 20, 20)]
    predicted = instances(inside, [0, 0, 0], scores=[0.9, 0.8, 0.7])
    assert average_precision([(predicted, crowd)], num_classes=1).ap == pytest.approx(100)
    apart = instances(list(crowd.masks), [0, 0])
    assert average_precision([(predicted, apart)], num_classes=1).ap < 50


def test_without_true_instances_there_is_no_value_and_without_predictions_zero() -> None:
    some, none = instances([box(0, 0, 9, 9)], [0], scores=[1.0]), instances([], [], scores=[])
    assert np.isnan(figures(average_precision([(some, instances([], []))], num_classes=1))).all()
    result = average_precision([(none, instances([box(0, 0, 9, 9)], [0]))], num_classes=1)
    assert result.ap == result.ap_small == 0


def test_bad_input_is_named() -> None:
    true = instances([box(0, 0, 9, 9)], [0])
    with pytest.raises(ValueError, match="predicted instances have no scores"):
        average_precision([(true, true)], num_classes=1)
    foreign = instances([box(0, 0, 9, 9)], [3], scores=[1.0])
    with pytest.raises(ValueError, match=r"predicted classes are \[3\]; expected 0 to 1"):
        average_precision([(foreign, true)], num_classes=2)
    small = Instances(np.ones((1, 4, 4), bool), np.array([0]), scores=np.array([1.0]))
    with pytest.raises(ValueError, match=r"\(4, 4\), true ones \(160, 200\)"):
        average_precision([(small, true)], num_classes=1)
