"""What the labels of a whole split show: an encoding that is another one, a task without errors.

Each sample may be sound while the split isn't. Masks of 0 and 255 with a class list of ids 0 and 1
are an example: 255 is ignored by convention, background alone is left, and every score is 100.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from seggen_core.config import SegGenConfig, Split
from seggen_core.datasets.reader import DatasetReader

_MAX_NAMED = 10
_ONE_VALUE = "Check the masks: they hold nothing else."


@dataclass(frozen=True)
class SplitLabels:
    """The labels of one split.

    Attributes:
        split: its name.
        class_pixels: pixels per train id.
        unlisted_share: mean share of a sample's pixels that are ignored by convention alone.
    """

    split: Split
    class_pixels: Sequence[int]
    unlisted_share: float


@dataclass(frozen=True)
class LabelFault:
    """One fault of a split.

    Attributes:
        what: what was found, what was expected and what to do.
        is_fatal: the scores would mean something else, or nothing.
    """

    what: str
    is_fatal: bool


def label_faults(
    labels: SplitLabels, *, reader: DatasetReader, config: SegGenConfig
) -> list[LabelFault]:
    """Return what is wrong with the labels of a split.

    - Fatal: more pixels than `max_unlisted_share` are ignored by convention alone.
    - Fatal, of train: some are, and a class that the user listed has no pixel.
    - Fatal, of train: one class alone has pixels, so that no score can be wrong.
    - Of train: a listed class has no pixel. Listed are the classes of the user's own list, and of a
      published dataset those that `classes` in params.yaml names.
    """
    conventions = reader.conventions
    limit = config.dataset.max_unlisted_share
    limit = conventions.max_unlisted_share if limit is None else limit
    share, split = labels.unlisted_share, labels.split
    has_pixels = [c for c in reader.taxonomy if labels.class_pixels[c.train_id]]
    absent = [c for c in reader.taxonomy if not labels.class_pixels[c.train_id]]
    if not conventions.has_own_classes:
        absent = [c for c in absent if c.slug in config.classes]
    names, hint = _listed([c.name for c in absent]), conventions.unlisted if share else _ONE_VALUE
    faults: list[LabelFault] = []
    if share > limit:
        faults.append(
            LabelFault(
                f"{share:.1%} of the {split} pixels are ignored by convention alone; expected at "
                f"most {limit:.0%}. {conventions.unlisted}",
                is_fatal=True,
            )
        )
    if split != "train" or not has_pixels:
        return faults
    if absent and share and conventions.has_own_classes and not faults:
        faults.append(
            LabelFault(
                f"{names}: no training pixel, while {_percent(share)} of the training pixels are "
                f"ignored by convention alone; they may be these. {conventions.unlisted}",
                is_fatal=True,
            )
        )
    if len(has_pixels) == 1:
        faults.append(
            LabelFault(
                f"every labelled training pixel is {has_pixels[0].name!r}, so that no score can be "
                f"wrong; expected pixels of two classes or more. {hint}",
                is_fatal=True,
            )
        )
    if absent:
        remedy = (
            "take them out of the class list, or add samples that have them"
            if conventions.has_own_classes
            else "take them out of 'classes' in params.yaml, or raise dataset.num_train"
        )
        faults.append(
            LabelFault(
                f"{names}: no training pixel; expected some of every listed class: {remedy}",
                is_fatal=False,
            )
        )
    return faults


def _listed(names: list[str]) -> str:
    listed = ", ".join(f"{name!r}" for name in names[:_MAX_NAMED])
    return listed + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
