import numpy as np
import pytest

from seggen_core.errors import ConfigError
from seggen_core.metrics.semantic import (
    average,
    class_accuracy,
    class_iou,
    confusion_matrix,
    frequency_weighted_iou,
    group_iou,
    group_scores,
    mean_iou,
    pixel_accuracy,
    summarize,
    zero_shot_scores,
)

# Four classes: 0 and 1 are confused, 2 is predicted but never true, 3 is in neither.
TRUTH = np.array([[0, 0, 0, 0], [0, 1, 1, 1], [255, 255, 255, 1]], np.uint8)
PREDICTION = np.array([[0, 0, 0, 1], [2, 1, 1, 0], [0, 1, 2, 1]], np.uint8)
CONFUSION = np.array([[3, 1, 1, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_confusion_matrix_by_hand() -> None:
    counted = confusion_matrix(PREDICTION, truth=TRUTH, num_classes=4)
    assert counted.dtype == np.int64
    np.testing.assert_array_equal(counted, CONFUSION)


def test_scores_by_hand() -> None:
    # Class 0: 3 of 5 + 4 - 3 = 6 pixels; class 1: 3 of 4 + 4 - 3 = 5; class 2: 0 of 1; class 3
    # doesn't occur.
    np.testing.assert_allclose(class_iou(CONFUSION), [50, 60, 0, np.nan])
    assert mean_iou(CONFUSION) == pytest.approx((50 + 60 + 0) / 3)
    assert pixel_accuracy(CONFUSION) == pytest.approx(100 * 6 / 9)
    np.testing.assert_allclose(class_accuracy(CONFUSION), [60, 75, np.nan, np.nan])
    assert frequency_weighted_iou(CONFUSION) == pytest.approx((5 * 50 + 4 * 60) / 9)


def test_summary_names_classes_and_has_null_for_what_has_no_value() -> None:
    summary = summarize(
        CONFUSION, slugs=["sky", "road", "car", "bus"], things=[False, False, True, True]
    )
    assert summary["per_class_iou"] == {"sky": 50, "road": 60, "car": 0, "bus": None}
    assert (summary["miou_stuff"], summary["miou_things"], summary["mean_class_accuracy"]) == (
        55,
        0,
        67.5,
    )
    empty = summarize(np.zeros((1, 1), np.int64), slugs=["sky"], things=[False])
    assert empty["miou"] is empty["pixel_accuracy"] is empty["frequency_weighted_iou"] is None


def test_average_leaves_out_what_is_missing() -> None:
    runs = [{"miou": 40.0, "per_class_iou": {"sky": 80.0, "car": None, "bus": None}}]
    runs += [{"miou": 50.0, "per_class_iou": {"sky": 90.0, "car": 10.0, "bus": None}}]
    assert average(runs) == {"miou": 45.0, "per_class_iou": {"sky": 85.0, "car": 10.0, "bus": None}}


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_a_literal_implementation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(2, 7))
    truth = rng.integers(0, num_classes, (3, 9, 11)).astype(np.uint8)
    prediction = np.where(
        rng.random(truth.shape) < 0.6, truth, rng.integers(0, num_classes, truth.shape)
    ).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.2] = 255
    pairs = [(int(t), int(p)) for t, p in zip(truth.flat, prediction.flat, strict=True) if t != 255]

    expected = []
    for c in range(num_classes):
        both = sum(t == c and p == c for t, p in pairs)
        either = sum(c in (t, p) for t, p in pairs)
        expected.append(100 * both / either)
    confusion = sum(
        confusion_matrix(p, truth=t, num_classes=num_classes)
        for t, p in zip(truth, prediction, strict=True)
    )
    np.testing.assert_allclose(class_iou(confusion), expected)
    assert mean_iou(confusion) == pytest.approx(np.mean(expected))
    assert pixel_accuracy(confusion) == pytest.approx(
        100 * sum(t == p for t, p in pairs) / len(pairs)
    )
    weighted = sum(expected[t] for t, _ in pairs) / len(pairs)
    assert frequency_weighted_iou(confusion) == pytest.approx(weighted)


@pytest.mark.parametrize(
    "prediction, truth, message",
    [
        ([0, 4], [0, 1], "prediction holds ids 0 to 4"),
        ([0, 255], [0, 1], "prediction holds ids 0 to 255"),
        ([0, 1], [0, 4], "truth holds ids 0 to 4"),
        ([0, 1], [0, -1], "truth holds ids -1 to 0"),
        ([0], [0, 1], "expected one shape"),
    ],
)
def test_refuses_what_it_cannot_count(
    prediction: list[int], truth: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(prediction), truth=np.array(truth), num_classes=4)


def test_groups_of_classes_by_hand() -> None:
    """Confusing two classes of a group is right; a pixel of no group counts where it is taken for
    one.
    """
    confusion = np.array([[4, 2, 0, 1], [1, 3, 0, 0], [0, 0, 5, 5], [2, 0, 3, 7]])
    scores = group_scores(
        confusion,
        slugs=["car", "bus", "person", "sky"],
        groups={"vehicle": ["bus", "car"], "human": ["person"]},
    )
    assert scores == {
        "vehicle": round(100 * 10 / 13, 4),
        "human": round(100 * 5 / 13, 4),
        "mean": round(100 * 15 / 26, 4),
    }
    every = group_iou(confusion, groups=[[0], [1], [2], [3]])
    np.testing.assert_array_equal(every, class_iou(confusion))
    nothing = np.zeros((2, 2), np.int64)
    assert group_scores(nothing, slugs=["a", "b"], groups={"g": ["b"]}) == {"g": None, "mean": None}
    with pytest.raises(ConfigError, match=r"evaluate\.groups has tram"):
        group_scores(confusion, slugs=["a", "b", "c", "d"], groups={"g": ["tram"]})


def test_zero_shot_scores_by_hand() -> None:
    summary = {"per_class_iou": {"car": 80.0, "bus": 60.0, "cow": 30.0, "sofa": None}}
    assert zero_shot_scores(summary, unseen=["cow"]) == {
        "miou_seen": 70.0,
        "miou_unseen": 30.0,
        "miou_harmonic": 42.0,
    }
    nothing = {"per_class_iou": {"car": 0.0, "cow": 0.0}}
    assert zero_shot_scores(nothing, unseen=["cow"])["miou_harmonic"] == 0.0
    assert zero_shot_scores(summary, unseen=["sofa"]) == {
        "miou_seen": 56.6667,
        "miou_unseen": None,
        "miou_harmonic": None,
    }
    assert (
        zero_shot_scores(summary, unseen=["cow"], left_out=list(summary["per_class_iou"])[:1])[
            "miou_seen"
        ]
        != zero_shot_scores(summary, unseen=["cow"])["miou_seen"]
    )
    for name in ("unseen", "left_out"):
        wrong = {"unseen": ["cow"]} | {name: ["tram"]}
        with pytest.raises(ConfigError, match=rf"zero_shot\.{name} has tram"):
            zero_shot_scores(summary, **wrong)
