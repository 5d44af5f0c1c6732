from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.metrics import panoptic
from seggen_core.metrics.boundary import boundary_width
from seggen_core.metrics.panoptic import (
    PanopticCounter,
    PanopticCounts,
    count_panoptic,
    panoptic_quality,
)
from seggen_core.taxonomy import IGNORE_INDEX


def row(*runs: tuple[int, int, int]) -> PanopticMap:
    """A map of one row, from (class, instance, length)."""
    classes = np.concatenate([np.full(n, c, np.uint8) for c, _, n in runs])[None]
    return PanopticMap(
        classes, np.concatenate([np.full(n, i, np.uint16) for _, i, n in runs])[None]
    )


VOID = IGNORE_INDEX << 16


def literal_counts(  # noqa: PLR0912 (a transcription)
    prediction: PanopticMap, truth: PanopticMap, num_classes: int, crowd: int | None
) -> list[list[float]]:
    """panopticapi's pq_compute_single_core for one image, line by line.

    `crowd` is a segment id of the truth.
    """
    pan_gt, pan_pred = truth.segment_ids(), prediction.segment_ids()
    gt_segms = {
        int(s): {"category_id": int(s) >> 16, "iscrowd": int(s == crowd)}
        for s in np.unique(pan_gt)
        if s != VOID
    }
    pred_segms = {int(s): {"category_id": int(s) >> 16} for s in np.unique(pan_pred) if s != VOID}
    for label, segment in gt_segms.items():
        segment["area"] = int((pan_gt == label).sum())
    for label, segment in pred_segms.items():
        segment["area"] = int((pan_pred == label).sum())
    gt_pred_map = Counter(zip(pan_gt.ravel().tolist(), pan_pred.ravel().tolist(), strict=True))
    iou, tp, fp, fn = ([0.0] * num_classes for _ in range(4))
    gt_matched, pred_matched = set(), set()
    for (gt_label, pred_label), intersection in gt_pred_map.items():
        if gt_label not in gt_segms or pred_label not in pred_segms:
            continue
        if gt_segms[gt_label]["iscrowd"] == 1:
            continue
        if gt_segms[gt_label]["category_id"] != pred_segms[pred_label]["category_id"]:
            continue
        union = (
            pred_segms[pred_label]["area"]
            + gt_segms[gt_label]["area"]
            - intersection
            - gt_pred_map.get((VOID, pred_label), 0)
        )
        value = intersection / union
        if value > 0.5:
            tp[gt_segms[gt_label]["category_id"]] += 1
            iou[gt_segms[gt_label]["category_id"]] += value
            gt_matched.add(gt_label)
            pred_matched.add(pred_label)
    crowd_labels_dict = {}
    for gt_label, gt_info in gt_segms.items():
        if gt_label in gt_matched:
            continue
        if gt_info["iscrowd"] == 1:
            crowd_labels_dict[gt_info["category_id"]] = gt_label
            continue
        fn[gt_info["category_id"]] += 1
    for pred_label, pred_info in pred_segms.items():
        if pred_label in pred_matched:
            continue
        intersection = gt_pred_map.get((VOID, pred_label), 0)
        if pred_info["category_id"] in crowd_labels_dict:
            intersection += gt_pred_map.get(
                (crowd_labels_dict[pred_info["category_id"]], pred_label), 0
            )
        if intersection / pred_info["area"] > 0.5:
            continue
        fp[pred_info["category_id"]] += 1
    return [iou, tp, fp, fn]


def lists(counts: PanopticCounts) -> list[list[float]]:
    return [
        a.tolist()
        for a in (counts.iou, counts.true_positives, counts.false_positives, counts.false_negatives)
    ]


def test_a_perfect_prediction_has_100_whatever_its_instance_numbers() -> None:
    truth, prediction = row((0, 0, 5), (1, 1, 4), (1, 2, 3)), row((0, 0, 5), (1, 9, 4), (1, 4, 3))
    quality = panoptic_quality(count_panoptic(prediction, truth=truth, num_classes=3))
    assert (quality.pq, quality.sq, quality.rq, quality.num_classes) == (100, 100, 100, 2)


def test_hand_worked_matches_and_misses() -> None:
    # Instance 1: IoU 6/10. Instance 2 (8 pixels): best overlap 4 of union 8, just not more than
    # half, so missed twice over.
    truth = row((1, 1, 10), (1, 2, 8), (0, 0, 2))
    prediction = row((1, 1, 6), (0, 0, 4), (1, 2, 4), (1, 3, 4), (0, 0, 2))
    counts = count_panoptic(prediction, truth=truth, num_classes=2)
    # Stuff: true 2, predicted 6, intersection 2: IoU 1/3, one missed and one too many.
    assert lists(counts) == [[0, 0.6], [0, 1], [1, 2], [1, 1]]
    quality = panoptic_quality(counts)
    assert quality.pq == pytest.approx(100 * (0 + 0.6 / 2.5) / 2)
    assert quality.sq == pytest.approx(100 * (0 + 0.6) / 2) and quality.rq == pytest.approx(
        100 * (0 + 1 / 2.5) / 2
    )
    things = panoptic_quality(counts, classes=[False, True])
    assert things.pq == pytest.approx(24) and things.num_classes == 1


def test_void_is_taken_out_of_unions_and_excuses_what_lies_mostly_in_it() -> None:
    truth = row((1, 1, 4), (IGNORE_INDEX, 0, 6), (0, 0, 10))
    # 10 pixels, of which 6 void: IoU 4 / (4 + 10 - 4 - 6) = 1.
    assert lists(count_panoptic(row((1, 1, 10), (0, 0, 10)), truth=truth, num_classes=2)) == [
        [1, 1],
        [1, 1],
        [0, 0],
        [0, 0],
    ]
    # Another instance with 3 of 5 pixels in void is excused, one with 3 of 6 isn't.
    for length, excess in ((2, 0), (3, 1)):
        prediction = row((1, 1, 4), (IGNORE_INDEX, 0, 3), (1, 2, 3 + length), (0, 0, 10 - length))
        assert count_panoptic(prediction, truth=truth, num_classes=2).false_positives.tolist() == [
            0,
            excess,
        ]


def test_a_crowd_is_never_missed_and_excuses_its_class_alone() -> None:
    truth = row((1, 7, 10), (0, 0, 10))
    inside, other = row((1, 1, 3), (1, 2, 7), (0, 0, 10)), row((2, 1, 10), (0, 0, 10))
    assert lists(count_panoptic(inside, truth=truth, num_classes=3, crowds={(1, 7)})) == [
        [1, 0, 0],
        [1, 0, 0],
        [0] * 3,
        [0] * 3,
    ]
    assert count_panoptic(
        other, truth=truth, num_classes=3, crowds={(1, 7)}
    ).false_positives.tolist() == [0, 0, 1]
    assert count_panoptic(inside, truth=truth, num_classes=3).true_positives.tolist() == [
        1,
        1,
        0,
    ]  # a crowd would not match


def test_all_crowds_of_a_class_excuse() -> None:
    truth, prediction = row((1, 7, 4), (1, 8, 4), (0, 0, 5)), row((1, 1, 10), (0, 0, 3))
    counts = count_panoptic(prediction, truth=truth, num_classes=2, crowds={(1, 7), (1, 8)})
    assert lists(counts) == [[0.6, 0], [1, 0], [0, 0], [0, 0]]
    one = count_panoptic(prediction, truth=truth, num_classes=2, crowds={(1, 7)})
    assert lists(one) == [[0.6, 0], [1, 0], [0, 1], [0, 1]]


def test_ignored_pixels_are_void_whatever_their_instance_ids() -> None:
    truth = row((IGNORE_INDEX, 3, 4), (IGNORE_INDEX, 5, 4), (0, 0, 2))
    prediction = row((IGNORE_INDEX, 9, 2), (1, 1, 6), (0, 0, 2))
    assert lists(count_panoptic(prediction, truth=truth, num_classes=2)) == [
        [1, 0], [1, 0], [0, 0], [0, 0],
    ]  # fmt: skip


def draw(seed: int) -> tuple[PanopticMap, PanopticMap]:
    """Return a prediction and the truth, of four classes."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([0, 1, 2, 3, IGNORE_INDEX], (2, 5, 5)).astype(np.uint8)
    instances = (rng.integers(1, 4, (2, 5, 5)) * (blocks % 2)).astype(np.uint16)
    grown = [np.kron(a, np.ones((6, 6), a.dtype)) for a in (blocks[0], instances[0])]
    truth = PanopticMap(*grown)
    changed = np.kron(rng.random((10, 10)) < 0.25, np.ones((3, 3), bool))
    prediction = PanopticMap(
        np.where(changed, np.kron(blocks[1], np.ones((6, 6), np.uint8)), grown[0]),
        np.where(changed, np.kron(instances[1], np.ones((6, 6), np.uint16)), grown[1]),
    )
    return prediction, truth


def rim(mask: np.ndarray, *, width: int) -> np.ndarray:
    """The boundary of a mask as boundary-iou-api cuts it off, by erosions of 3x3, one a pixel."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3), bool), iterations=width)


@pytest.mark.parametrize("seed", range(12))
def test_counts_are_those_of_panopticapi(seed: int) -> None:
    prediction, truth = draw(seed)
    segments = [int(s) for s in np.unique(truth.segment_ids()) if 0 < s >> 16 < 4]
    crowd = segments[seed % len(segments)] if seed % 3 else None
    crowds = () if crowd is None else {(crowd >> 16, crowd & 65535)}
    counts = lists(count_panoptic(prediction, truth=truth, num_classes=4, crowds=crowds))
    for mine, theirs in zip(counts, literal_counts(prediction, truth, 4, crowd), strict=True):
        assert mine == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [1, 3])
def test_boundary_counts_take_the_smaller_iou(seed: int, width: int) -> None:
    prediction, truth = draw(seed)
    counts = count_panoptic(prediction, truth=truth, num_classes=4, boundary=width)
    iou, positives = np.zeros(4), np.zeros(4, int)
    valid = truth.segmentation_map != IGNORE_INDEX
    for true_id in set(np.unique(truth.segment_ids()).tolist()) - {VOID}:
        for predicted_id in set(np.unique(prediction.segment_ids()).tolist()) - {VOID}:
            a, b = truth.segment_ids() == true_id, prediction.segment_ids() == predicted_id
            if true_id >> 16 != predicted_id >> 16 or not (a & b).any():
                continue
            pairs = [(a, b), (rim(a, width=width), rim(b, width=width))]
            value = min((x & y).sum() / (x | y & valid).sum() for x, y in pairs)
            if value > 0.5:
                iou[true_id >> 16] += value
                positives[true_id >> 16] += 1
    np.testing.assert_allclose(counts.iou, iou, rtol=1e-12)
    assert counts.true_positives.tolist() == positives.tolist()
    whole = count_panoptic(prediction, truth=truth, num_classes=4)
    assert (counts.true_positives + counts.false_negatives).tolist() == (
        whole.true_positives + whole.false_negatives
    ).tolist()
    assert panoptic_quality(counts).pq <= panoptic_quality(whole).pq


def test_counts_of_images_add_up() -> None:
    one = count_panoptic(row((0, 0, 5)), truth=row((0, 0, 5)), num_classes=2)
    two = count_panoptic(row((1, 1, 5)), truth=row((0, 0, 5)), num_classes=2)
    assert lists(one + two) == [[1, 0], [1, 0], [0, 1], [1, 0]]
    assert panoptic_quality(one + two).pq == pytest.approx(100 * (1 / 1.5 + 0) / 2)


@pytest.mark.parametrize("boundaries", [False, True])
@pytest.mark.parametrize("pixels", [1, 2500, 1 << 19])
def test_pictures_counted_together_give_the_same_to_the_last_digit(
    pixels: int, boundaries: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panoptic, "BATCH_PIXELS", pixels)
    counter, expected = PanopticCounter(4, boundaries=boundaries), []
    for seed in range(24):
        prediction, truth = draw(seed)
        cut = (slice(0, 30 - seed), slice(0, 17 + seed // 2))
        prediction, truth = (
            PanopticMap(m.segmentation_map[cut], m.instance_map[cut]) for m in (prediction, truth)
        )
        segments = [int(s) for s in np.unique(truth.segment_ids()) if s >> 16 < 4]
        crowds = {(s >> 16, s & 0xFFFF) for s in segments[: seed % 3]}
        counter.add(prediction, truth=truth, crowds=crowds)
        width = boundary_width(truth.segmentation_map.shape) if boundaries else None
        options = {"num_classes": 4, "crowds": crowds, "boundary": width}
        expected.append(count_panoptic(prediction, truth=truth, **options))
    total = expected[0]
    for counts in expected[1:]:
        total = total + counts
    assert lists(counter.counts()) == lists(total) == lists(counter.counts())
    assert total.true_positives.sum() > 10 and total.false_negatives.sum() > 10


def test_a_counter_names_bad_classes_and_may_have_seen_nothing() -> None:
    counter = PanopticCounter(2)
    assert lists(counter.counts()) == [[0, 0]] * 4
    with pytest.raises(ValueError, match=r"\(1, 4\), the truth \(1, 5\)"):
        counter.add(row((0, 0, 4)), truth=row((0, 0, 5)))
    counter.add(row((1, 9, 4)), truth=row((2, 0, 4)))
    with pytest.raises(ValueError, match=r"the truth holds ids \[2\]; expected 0 to 1 or 255"):
        counter.counts()


def test_nothing_there_is_nan() -> None:
    nothing = row((IGNORE_INDEX, 0, 4))
    quality = panoptic_quality(count_panoptic(nothing, truth=nothing, num_classes=2))
    assert np.isnan([quality.pq, quality.sq, quality.rq]).all() and quality.num_classes == 0


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 4\), the truth \(1, 5\)"):
        count_panoptic(row((0, 0, 4)), truth=row((0, 0, 5)), num_classes=2)
    with pytest.raises(ValueError, match=r"the truth holds ids \[2\]; expected 0 to 1 or 255"):
        count_panoptic(row((0, 0, 4)), truth=row((2, 0, 4)), num_classes=2)
