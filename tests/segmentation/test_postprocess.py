"""From queries to segments and instances, by hand and against a loop over pixels."""

import numpy as np
import pytest
import torch

from seggen_core.config import PostprocessConfig
from seggen_core.segmentation.postprocess import panoptic_segments, thing_instances
from seggen_core.taxonomy import IGNORE_INDEX

THINGS = np.array([False, True, True])
CONFIG = PostprocessConfig()


def logits(rows: list[list[float]]) -> torch.Tensor:
    """Class logits whose softmax is `rows`."""
    return torch.tensor(rows).clamp(min=1e-9).log()


def mask_logits(rows: list[list[float]]) -> torch.Tensor:
    """Mask logits [Q, 1, W] whose sigmoid is `rows`."""
    return torch.tensor(rows)[:, None].clamp(1e-6, 1 - 1e-6).logit()


def test_segments_by_hand() -> None:
    classes = logits(
        [
            [0.9, 0.1, 0, 0],  # stuff
            [0.95, 0, 0, 0.05],  # the same stuff again: one segment
            [0, 0.85, 0, 0.15],  # a thing
            [0, 0.9, 0, 0.1],  # another one of this class
            [0, 0, 0.8, 0.2],  # not above 0.8
            [0, 0, 0.1, 0.9],  # no object
        ]
    )
    masks = mask_logits(
        [
            [0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
            [0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.4],
            [0.1, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1],
            [0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1],
            [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.99, 0.1],
            [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.99, 0.1],
        ]
    )
    panoptic = panoptic_segments(classes, masks=masks, things=THINGS, config=CONFIG)
    void = IGNORE_INDEX
    assert panoptic.segmentation_map.tolist() == [[0, 0, 0, 1, 1, 1, void, void]]
    assert panoptic.instance_map.tolist() == [[0, 0, 0, 1, 1, 2, 0, 0]]
    lower = PostprocessConfig(object_mask_threshold=0.7)
    panoptic = panoptic_segments(classes, masks=masks, things=THINGS, config=lower)
    assert panoptic.segmentation_map[0, 6] == 2 and panoptic.instance_map[0, 6] == 3


def test_a_segment_that_others_cover_is_left_out_and_its_pixels_are_void() -> None:
    classes = logits([[0, 0.99, 0, 0.01], [0, 0, 0.9, 0.1]])
    # The second one has a mask of 5 pixels, and the first one wins 2 of them.
    masks = mask_logits([[0.9, 0.9, 0.1, 0.1, 0.1], [0.9, 0.9, 0.9, 0.9, 0.9]])
    panoptic = panoptic_segments(classes, masks=masks, things=THINGS, config=CONFIG)
    assert panoptic.segmentation_map.tolist() == [[1, 1, 255, 255, 255]]
    lenient = PostprocessConfig(overlap_threshold=0.6)
    panoptic = panoptic_segments(classes, masks=masks, things=THINGS, config=lenient)
    assert panoptic.segmentation_map.tolist() == [[1, 1, 2, 2, 2]]


def test_without_a_sure_query_all_is_void() -> None:
    classes = logits([[0.3, 0.3, 0.3, 0.1]])
    panoptic = panoptic_segments(classes, masks=mask_logits([[0.9]]), things=THINGS, config=CONFIG)
    assert panoptic.segmentation_map.tolist() == [[255]] and panoptic.instance_map.tolist() == [[0]]


@pytest.mark.parametrize("seed", range(8))
def test_random_queries_as_a_loop_over_queries_gives_them(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    classes = 3 * torch.randn(12, 4, generator=generator)
    coarse = 4 * torch.randn(12, 1, 5, 5, generator=generator) - 3
    masks = torch.nn.functional.interpolate(coarse, size=(20, 20), mode="bilinear")[:, 0]
    config = PostprocessConfig(object_mask_threshold=0.5, overlap_threshold=0.4)
    panoptic = panoptic_segments(classes, masks=masks, things=THINGS, config=config)
    probabilities, shapes = classes.softmax(-1).numpy(), masks.sigmoid().numpy()
    sure = [q for q in range(12) if probabilities[q].argmax() < 3 and probabilities[q].max() > 0.5]
    expected: dict[int, np.ndarray] = {}
    kinds: dict[int, int] = {}
    owner = np.array([probabilities[q].max() * shapes[q] for q in sure]).argmax(0)
    for place, q in enumerate(sure):
        mine, kind = owner == place, int(probabilities[q].argmax())
        visible = mine & (shapes[q] >= 0.5)
        if visible.any() and mine.sum() / (shapes[q] >= 0.5).sum() >= 0.4:
            name = q if THINGS[kind] else -1 - kind
            expected[name] = expected.get(name, np.zeros((20, 20), bool)) | visible
            kinds[name] = kind
    segments = {int(i): panoptic.segment_ids() == i for i in np.unique(panoptic.segment_ids())}
    segments = {i: mask for i, mask in segments.items() if i >> 16 != IGNORE_INDEX}
    assert len(expected) >= 1 and len(segments) == len(expected)
    for name, mask in expected.items():
        assert any(
            i >> 16 == kinds[name] and (mask == segment_mask).all()
            for i, segment_mask in segments.items()
        )


def test_instances_are_the_best_pairs_of_query_and_class_and_no_stuff() -> None:
    classes = logits([[0.6, 0.3, 0.05, 0.05], [0.01, 0.5, 0.4, 0.09]])
    masks = mask_logits([[0.9, 0.7, 0.2], [0.1, 0.2, 0.8]])
    few = PostprocessConfig(num_instances=3)
    instances = thing_instances(classes, masks=masks, things=THINGS, config=few)
    # The three best are stuff (0.6), left out afterwards, and both things of the second query.
    assert instances.class_ids.tolist() == [1, 2]
    np.testing.assert_allclose(instances.scores, [0.5 * 0.8, 0.4 * 0.8], rtol=1e-5)
    assert instances.masks.tolist() == [[[False, False, True]]] * 2
    everything = thing_instances(classes, masks=masks, things=THINGS, config=CONFIG)
    assert sorted(everything.class_ids.tolist()) == [1, 1, 2, 2]
    best = everything.scores[[k for k, m in enumerate(everything.masks) if m[0, 0]]]
    np.testing.assert_allclose(sorted(best), [0.05 * 0.8, 0.3 * 0.8], rtol=1e-5)


def test_a_query_without_a_pixel_has_score_zero() -> None:
    instances = thing_instances(
        logits([[0, 0.9, 0, 0.1]]), masks=mask_logits([[0.2]]), things=THINGS, config=CONFIG
    )
    assert instances.scores.tolist() == [0, 0] and not instances.masks.any()
