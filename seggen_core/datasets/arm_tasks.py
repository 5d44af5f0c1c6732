"""What the tasks of arms need: samples that show things need instance maps.

Training and scoring stop where a sample has none, but the generators train for hours before them.
So `seggen validate` and `seggen plan` look here first.
"""

from collections.abc import Sequence

from seggen_core.config import SegGenConfig
from seggen_core.datasets.label_checks import SplitLabels
from seggen_core.taxonomy import SegmentationClass, Taxonomy

_FROM_COLOR_MAPS = ("masksyn", "imgsyn")
_MAX_NAMED = 10


def source_faults(config: SegGenConfig, *, taxonomy: Taxonomy) -> list[str]:
    """Return the arms whose task their synthetic samples can't serve, or the dataset's classes.

    Args:
        config: the arms.
        taxonomy: the classes of the dataset.

    Returns:
        A sentence for each arm: what it asks for, why that can't be had and what to write.
    """
    faults = []
    for name, task in _segment_tasks(config).items():
        arm = config.variants[name]
        things = _things(taxonomy, known=arm.known_classes)
        if task == "instance" and not things:
            faults.append(
                f"variants.{name}: the task is instance, and none of the classes is a thing; mark "
                "things in the class list (is_thing), or write task: panoptic or semantic"
            )
        drawn = [m for m in arm.methods if m in _FROM_COLOR_MAPS]
        if things and drawn and config.dataset.color_map != "panoptic":
            faults.append(
                f"variants.{name}: the task is {task}, and samples of {' and '.join(drawn)} have "
                "no instances, because dataset.color_map is semantic; write color_map: panoptic, "
                "or task: semantic"
            )
        shown = {thing.slug for thing in things}
        cut = [m for m in arm.methods if m not in _FROM_COLOR_MAPS]
        if shown & set(config.classes) and cut:
            faults.append(
                f"variants.{name}: the task is {task}, and samples of {' and '.join(cut)} have no "
                "instances, because attention tells a class from the rest and no thing from "
                "another; write task: semantic, or let the arm read other samples"
            )
    return faults


def instance_faults(config: SegGenConfig, *, labels: SplitLabels, taxonomy: Taxonomy) -> list[str]:
    """Return what asks for instance maps that samples of a split don't have, in sentences.

    Args:
        config: the arms, and what colour maps show.
        labels: of the split.
        taxonomy: the classes of the dataset.
    """
    lacking, faults = labels.pixels_without_instances, []
    if labels.split == "train" and config.dataset.color_map == "panoptic" and lacking.any():
        faults.append(
            "dataset.color_map is panoptic, and samples have no instance map; expected one for "
            "each: write color_map: semantic, or use a dataset with instances (docs/datasets.md)"
        )
    arms, shown = [], set()
    for name, task in _segment_tasks(config).items():
        arm = config.variants[name]
        if labels.split == "train" and arm.real == "none":
            continue
        things = _things(taxonomy, known=arm.known_classes)
        if names := {thing.name for thing in things if lacking[thing.train_id]}:
            arms.append(f"{name} ({task})")
            shown |= names
    if arms:
        listed = ", ".join(repr(name) for name in sorted(shown)[:_MAX_NAMED])
        faults.append(
            f"the tasks of the arms {', '.join(arms)} need instance maps, and samples show things "
            f"({listed}) and have none; expected a dataset with instances (docs/datasets.md), or "
            "task: semantic"
        )
    return faults


def _segment_tasks(config: SegGenConfig) -> dict[str, str]:
    """Return the task of each arm that tells things apart."""
    tasks = {name: config.train_seg.for_arm(arm).task for name, arm in config.variants.items()}
    return {name: task for name, task in tasks.items() if task != "semantic"}


def _things(taxonomy: Taxonomy, *, known: Sequence[str]) -> list[SegmentationClass]:
    return [c for c in taxonomy if c.is_thing and (not known or c.slug in known)]
