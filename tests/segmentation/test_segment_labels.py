"""Labels with instances on their way from the store to the masks that a segmenter is to find."""

import numpy as np
import pytest
import torch

from seggen_core.config import SegmenterConfig, SyntheticAugmentConfig
from seggen_core.errors import ConfigError
from seggen_core.segmentation.augment import NUM_DRAWS, AugmentConfig, augment_batch
from seggen_core.segmentation.geometry import RandomCrop
from seggen_core.segmentation.segment_labels import (
    VOID,
    check_task,
    class_ids,
    mask_targets,
    renumbered,
    require_classes,
    segment_labels,
)
from seggen_core.segmentation.synthetic_augment import augment_synthetic
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

THINGS = (False, False, True, True)
SKY, GRASS, CAR, TREE = (k << 16 for k in range(4))


def test_segment_ids_have_instances_of_things_alone() -> None:
    classes = np.array([[0, 2, 2, 3, IGNORE_INDEX]], np.uint8)
    instances = np.array([[5, 1, 65535, 0, 7]], np.uint16)
    labels = segment_labels(classes, instances, things=THINGS)
    assert labels.dtype == np.int32
    assert labels.tolist() == [[SKY, CAR + 1, CAR + 65535, TREE, VOID]]
    np.testing.assert_array_equal(class_ids(labels), classes)
    assert segment_labels(classes, None, things=THINGS).tolist() == [[SKY, CAR, CAR, TREE, VOID]]


def test_targets_leave_out_void_and_crowds_and_by_task_stuff() -> None:
    labels = torch.tensor([[[SKY, CAR + 1, CAR + 2], [VOID, TREE, CAR + 1]]])
    masks, classes = mask_targets(labels, task="panoptic", things=THINGS)
    assert classes[0].tolist() == [0, 2, 2]
    assert masks[0].tolist() == [
        [[1, 0, 0], [0, 0, 0]],
        [[0, 1, 0], [0, 0, 1]],
        [[0, 0, 1], [0, 0, 0]],
    ]
    masks, classes = mask_targets(labels, task="instance", things=THINGS)
    assert classes[0].tolist() == [2, 2] and masks[0].shape == (2, 2, 3)


def test_segments_that_a_crop_hides_are_empty_masks_of_panoptic_targets_alone() -> None:
    labels, whole = torch.tensor([[[SKY, SKY]]]), [torch.tensor([SKY, CAR + 4, TREE, VOID])]
    masks, classes = mask_targets(labels, task="panoptic", things=THINGS, segments=whole)
    assert classes[0].tolist() == [0, 2] and masks[0].flatten(1).sum(1).tolist() == [2, 0]
    masks, classes = mask_targets(labels, task="instance", things=THINGS, segments=whole)
    assert masks[0].shape == (0, 1, 2) and len(classes[0]) == 0


def test_renumbered_instances_are_told_apart_from_those_beside_them() -> None:
    beside = np.array([[CAR + 1, TREE + 2, CAR, VOID]], np.int32)
    labels = np.array([[CAR + 1, CAR + 2, CAR + 1, TREE, SKY, VOID]], np.int32)
    shifted = renumbered(labels, beside=beside)
    assert shifted.tolist() == [[CAR + 3, CAR + 4, CAR + 3, TREE, SKY, VOID]]
    plain = np.zeros((2, 2), np.uint8)
    assert renumbered(plain, beside=plain) is plain


def test_more_instances_than_16_bits_hold_are_an_error() -> None:
    many = (CAR + np.arange(40000, dtype=np.int32)).reshape(200, 200)
    with pytest.raises(ConfigError, match="instances meet in one picture; at most 65535"):
        renumbered(many, beside=many)


def test_zoom_keeps_the_largest_segment_ids_exactly() -> None:
    ids = np.array([254 << 16 | 65535, 254 << 16 | 65534, VOID, CAR + 1], np.int32)
    labels = torch.from_numpy(np.kron(ids.reshape(2, 2), np.ones((8, 8), np.int32)))[None]
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    draws = torch.full((1, NUM_DRAWS), 0.5)
    config = AugmentConfig(random_flip=False, random_scale=(0.5, 0.5))
    _, zoomed = augment_batch(images, segmentation_maps=labels, config=config, draws=draws)
    assert set(zoomed.unique().tolist()) == set(ids.tolist())
    assert zoomed[0, 0, 0] == VOID


@pytest.mark.parametrize("resize", ["short_side", "scale_jitter"])
def test_crops_pad_with_void_and_keep_ids(resize: str) -> None:
    labels = np.kron(np.array([[SKY, CAR + 300]], np.int32), np.ones((10, 10), np.int32))
    tree = {"resize": resize, "crop_size": 48, "short_side": 12, "max_category_share": 0.9}
    crop = RandomCrop(SegmenterConfig.model_validate(tree))
    image = np.zeros((10, 20, 3), np.uint8)
    cropped = crop(image, labels, rng=np.random.default_rng(0)).mask
    assert cropped.dtype == np.int32 and cropped.shape == (48, 48)
    assert set(np.unique(cropped).tolist()) <= {SKY, CAR + 300, VOID} and cropped[-1, -1] == VOID


def test_spliced_and_occluded_pairs_never_join_two_objects() -> None:
    labels = np.full((24, 24), SKY, np.int32)
    labels[4:20, 4:20] = CAR + 1
    pair = np.zeros((24, 24, 3), np.uint8), labels
    always = {"splice": 1.0, "splice_grids": ((2, 2),), "occlusion": 1.0, "perspective": 1.0}
    config = SyntheticAugmentConfig.model_validate(always | {"noise": 0.0})
    rng = np.random.default_rng(1)
    (_, mixed), *_ = augment_synthetic([pair], pool=[pair] * 4, config=config, rng=rng)
    cars = [int(i) for i in np.unique(mixed) if i >> 16 == 2]
    assert mixed.dtype == np.int32 and 4 <= len(cars) <= 5


def test_a_task_that_needs_things_says_so() -> None:
    stuff = Taxonomy.from_names(stuff=["sky"], things=[])
    check_task("panoptic", taxonomy=stuff)
    with pytest.raises(ConfigError, match="none of the classes is a thing"):
        check_task("instance", taxonomy=stuff)


def test_an_arm_without_classes_is_refused_where_they_are_needed() -> None:
    require_classes("panoptic", arm="a", key="judge.variant")
    with pytest.raises(ConfigError, match=r"--arm is a, whose task is instance: it gives no"):
        require_classes("instance", arm="a", key="--arm")
