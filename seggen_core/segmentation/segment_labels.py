"""The labels that segmenters train on, for each task.

For the task "semantic" they are train ids, uint8. For "panoptic" and "instance" they are segment
ids, int32: class * 65536 + instance, as `PanopticMap.segment_ids` gives them, and VOID where a
pixel is ignored. A thing without an instance id belongs to a crowd.
"""

from collections.abc import Sequence

import numpy as np
import torch

from seggen_core.config import Task
from seggen_core.errors import ConfigError
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

VOID = IGNORE_INDEX << 16
"""Segment id of ignored pixels."""

_MAX_INSTANCE = 0xFFFF


def ignored_value(labels: np.ndarray) -> int:
    """Return what an ignored pixel holds in labels of this kind."""
    return IGNORE_INDEX if labels.dtype == np.uint8 else VOID


def class_ids(labels: np.ndarray) -> np.ndarray:
    """Return the train ids of labels, uint8 [H, W]; IGNORE_INDEX where they are ignored."""
    return labels if labels.dtype == np.uint8 else (labels >> 16).astype(np.uint8)


def segment_labels(
    segmentation_map: np.ndarray, instance_map: np.ndarray | None, *, things: Sequence[bool]
) -> np.ndarray:
    """Return the segment ids of uint8 and uint16 [H, W] maps: int32 [H, W].

    Without an instance map, things belong to crowds. Stuff has no instances.
    """
    ids = segmentation_map.astype(np.int32) << 16
    if instance_map is not None:
        is_thing = np.zeros(256, bool)
        is_thing[: len(things)] = things
        ids |= np.where(is_thing[segmentation_map], instance_map, np.uint16(0))
    ids[segmentation_map == IGNORE_INDEX] = VOID
    return ids


def renumbered(labels: np.ndarray, *, beside: np.ndarray) -> np.ndarray:
    """Return labels whose instances have other ids than those of `beside`.

    Two pictures that are joined to one may number their instances alike.

    Raises:
        ConfigError: more instances meet than 16 bits can number.
    """
    if labels.dtype == np.uint8:
        return labels
    other_ids = np.unique(beside & _MAX_INSTANCE)
    ids, places = np.unique(labels & _MAX_INSTANCE, return_inverse=True)
    used_ids = set(other_ids.tolist())
    free = (
        instance_id for instance_id in range(1, _MAX_INSTANCE + 1) if instance_id not in used_ids
    )
    numbers = [0 if instance_id == 0 else next(free, -1) for instance_id in ids.tolist()]
    if -1 in numbers:
        raise ConfigError(
            f"{len(other_ids) + len(ids)} instances meet in one picture; at most {_MAX_INSTANCE} "
            "can be told apart: leave synthetic_augment off for this arm"
        )
    return (labels & ~_MAX_INSTANCE) | np.array(numbers, np.int32)[places].reshape(labels.shape)


def check_task(task: Task, *, taxonomy: Taxonomy) -> None:
    """Raise ConfigError where the classes have no thing and the task is to find things."""
    if task == "instance" and not any(c.is_thing for c in taxonomy):
        raise ConfigError(
            "the task is instance and none of the classes is a thing; "
            "set task: semantic or panoptic (or say which classes are things: docs/datasets.md)"
        )


def require_classes(task: Task, *, arm: str, key: str) -> None:
    """Check that an arm's segmenters give every pixel a class.

    Args:
        task: of the arm.
        arm: its name.
        key: where the user named it.

    Raises:
        ConfigError: they tell things apart and nothing else.
    """
    if task == "instance":
        raise ConfigError(
            f"{key} is {arm}, whose task is instance: it gives no class to every pixel; name an "
            "arm with task semantic or panoptic"
        )


def require_instances(
    store: SampleStore, *, keys: Sequence[str], task: Task, labels: LabelSpace
) -> None:
    """Check that samples have the instance maps that a task needs.

    Raises:
        ConfigError: one of them has none, and shows things.
    """
    if task == "semantic" or not keys:
        return
    rows = store.index.set_index("key").loc[list(keys)]
    things = [c.train_id for c in labels.dataset if c.is_thing and _is_known(c.slug, labels)]
    shown = np.array(rows["class_pixel_counts"].tolist()).reshape(len(rows), -1)[:, things].any(1)
    lacking = rows.index[(rows["instances_bytes"] == 0).to_numpy() & shown]
    if len(lacking):
        raise ConfigError(
            f"task {task} needs instance maps, and {len(lacking)} of {len(rows)} samples of "
            f"{store.folder} show things and have none, e.g. {lacking[0]}: set task: semantic, or "
            "use data with instances (for masksyn and imgsyn, a dataset with instances and "
            "color_map: panoptic)"
        )


def _is_known(slug: str, labels: LabelSpace) -> bool:
    return not labels.known or slug in labels.known


def mask_targets(
    labels: torch.Tensor,
    *,
    task: Task,
    things: Sequence[bool],
    segments: Sequence[torch.Tensor] | None = None,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the masks that a segmenter is to find, and their classes, as Mask2Former's authors do.

    Void and crowds are no target. "instance" leaves out stuff.

    Args:
        labels: int64 [B, H, W], segment ids.
        task: "panoptic" or "instance".
        things: by train id.
        segments: int64 [n] for each sample, the segments of the sample before it was cropped. They
            are targets of "panoptic" even where the crop shows nothing of them, with an empty mask.
            None takes those that are shown.

    Returns:
        per sample float32 [n, H, W] of 0 and 1, and int64 [n].
    """
    is_thing = torch.tensor([*things, *[False] * (IGNORE_INDEX + 1 - len(things))])
    masks, classes = [], []
    for place, ids in enumerate(labels):
        whole = segments is not None and task == "panoptic"
        wanted = segments[place].to(ids.device) if segments is not None and whole else ids.unique()
        kind, instance = wanted >> 16, wanted & _MAX_INSTANCE
        thing = is_thing.to(ids.device)[kind]
        keep = (kind != IGNORE_INDEX) & ~(thing & (instance == 0))
        if task == "instance":
            keep &= thing
        wanted = wanted[keep]
        masks.append((ids == wanted[:, None, None]).float())
        classes.append(wanted >> 16)
    return masks, classes
