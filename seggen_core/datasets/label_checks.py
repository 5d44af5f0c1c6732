"""What the labels of a whole split show: an encoding that is another one, a task without errors.

Each sample may be sound while the split isn't. Masks of 0 and 255 with a class list of ids 0 and 1
are an example: 255 is ignored by convention, background alone is left, and every score is 100.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from seggen_core.config import SegGenConfig, Split
from seggen_core.datasets.reader import DatasetReader
from seggen_core.datasets.sample import RawSample, RgbEncoding
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass

_MAX_NAMED = 10
_ONE_VALUE = "Check the masks: they hold nothing else."

Color = tuple[int, int, int]


class SampleLabels(NamedTuple):
    """What one sample adds to the labels of its split."""

    pixels: np.ndarray
    """int64 [256], pixels per train id; IGNORE_INDEX among them."""
    unlisted_share: float
    """As `RawSample.unlisted_share`."""
    num_instances: int | None
    """Instances that its instance map shows; None where it has none."""
    colors: Mapping[int, Color]
    """As `RawSample.colors`."""
    rgb_encoding: RgbEncoding | None
    """As `RawSample.rgb_encoding`."""

    @classmethod
    def of(cls, sample: RawSample) -> "SampleLabels":
        """Count a sample."""
        instances = sample.instance_map
        return cls(
            np.array(Image.fromarray(sample.segmentation_map).histogram(), np.int64),
            sample.unlisted_share,
            None if instances is None else int(instances.max()),
            sample.colors,
            sample.rgb_encoding,
        )


@dataclass
class SplitLabels:
    """The labels of one split, counted sample by sample."""

    split: Split
    """Its name."""
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(IGNORE_INDEX + 1, np.int64))
    """int64 [256], pixels per train id; IGNORE_INDEX among them."""
    unlisted: float = 0.0
    """Sum over the samples of `RawSample.unlisted_share`."""
    num_samples: int = 0
    """Samples that were counted."""
    num_instances: int | None = None
    """Instances in their instance maps; None where no sample has one."""
    pixels_without_instances: np.ndarray = field(
        default_factory=lambda: np.zeros(IGNORE_INDEX + 1, np.int64)
    )
    """The same as `pixels`, of samples without an instance map."""
    colors: dict[int, tuple[Color, str]] = field(default_factory=dict)
    """The first colour that a file gives an id, and the sample's key. All splits of a dataset share
    them."""
    contradictions: dict[int, str] = field(default_factory=dict)
    """Of each id that files give different colours, a sentence."""
    encodings: dict[RgbEncoding, str] = field(default_factory=dict)
    """The key of the first sample with each encoding of RGB masks, shared by all splits."""
    is_mixed: bool = False
    """A sample of this split was the first one with the second encoding."""

    def of_split(self, split: Split) -> "SplitLabels":
        """Return the empty labels of another split of the same dataset."""
        return SplitLabels(split, colors=self.colors, encodings=self.encodings)

    @property
    def unlisted_share(self) -> float:
        """Mean share of a sample's pixels that are ignored by convention alone."""
        return self.unlisted / max(self.num_samples, 1)

    @property
    def ignored_share(self) -> float:
        """Share of the pixels that belong to no class."""
        return float(self.pixels[IGNORE_INDEX] / max(self.pixels.sum(), 1))

    def add(self, key: str, sample: SampleLabels) -> None:
        """Count a sample."""
        self.pixels += sample.pixels
        self.unlisted += sample.unlisted_share
        self.num_samples += 1
        if sample.num_instances is None:
            self.pixels_without_instances += sample.pixels
        else:
            self.num_instances = (self.num_instances or 0) + sample.num_instances
        if sample.rgb_encoding is not None:
            self.is_mixed |= self.encodings.keys() == {"ids", "colours"} - {sample.rgb_encoding}
            self.encodings.setdefault(sample.rgb_encoding, f"{self.split}/{key}")
        for file_id, color in sample.colors.items():
            first, where = self.colors.setdefault(file_id, (color, f"{self.split}/{key}"))
            if first != color and file_id not in self.contradictions:
                self.contradictions[file_id] = (
                    f"{file_id} is {first} in the palette of {where}, but {color} in that of "
                    f"{self.split}/{key}"
                )


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
    labels: SplitLabels, *, train: SplitLabels, reader: DatasetReader, config: SegGenConfig
) -> list[LabelFault]:
    """Return what is wrong with the labels of a split.

    - Fatal: more pixels than `max_unlisted_share` are ignored by convention alone.
    - Fatal: the palettes of two masks give an id different colours, or some RGB masks hold ids and
      others colours.
    - Fatal: some pixels are ignored by convention, and a class that the user listed has none; of
      val and test, only where train has the class and ignores nothing so.
    - Fatal of train, where no score can be wrong then: one class alone has pixels.
    - Of train: a listed class has no pixel. Listed are the classes of the user's own list, and of a
      published dataset those that `classes` in params.yaml names.
    - Of train: instance maps show no instance.

    Args:
        labels: of the split.
        train: of the training split.
        reader, config: the dataset and its limits.
    """
    conventions = reader.conventions
    limit = config.dataset.max_unlisted_share
    limit = conventions.max_unlisted_share if limit is None else limit
    share, split = labels.unlisted_share, labels.split
    faults: list[LabelFault] = []
    if share > limit:
        faults.append(
            LabelFault(
                f"{share:.1%} of the {split} pixels are ignored by convention alone; expected at "
                f"most {limit:.0%}. {conventions.unlisted}",
                is_fatal=True,
            )
        )
    elif conventions.has_own_classes:
        faults += _hidden_classes(labels, train=train, reader=reader)
    if labels.contradictions:
        listed = "; ".join(list(labels.contradictions.values())[:_MAX_NAMED])
        faults.append(
            LabelFault(
                f"masks contradict one another: {listed}; expected one colour an id: convert the "
                "masks to RGB and list the colours if the colours are right, or to 8-bit grey if "
                "the ids are",
                is_fatal=True,
            )
        )
    if labels.is_mixed:
        faults.append(_mixed_encodings(labels.encodings))
    faults += _single_class(labels, train=train, reader=reader)
    if labels is train and train.pixels[:IGNORE_INDEX].any():
        faults += _absent_classes(labels, reader=reader, config=config)
    return faults


def _mixed_encodings(encodings: Mapping[RgbEncoding, str]) -> LabelFault:
    """Return the fault of RGB masks that were read in two ways: grey ones may be either."""
    return LabelFault(
        f"masks contradict one another: the RGB mask of {encodings['colours']} holds colours of "
        f"the class list, but that of {encodings['ids']} ids in grey; expected one of the two, "
        "since black may be a colour or the id 0: convert the masks to 8-bit grey if they hold "
        "ids, or take the colours out of the class list",
        is_fatal=True,
    )


def _hidden_classes(
    labels: SplitLabels, *, train: SplitLabels, reader: DatasetReader
) -> list[LabelFault]:
    """Return the fault of pixels that only a convention ignores and that may be a listed class."""
    split, share = labels.split, labels.unlisted_share
    absent = _absent(labels, reader)
    if labels is not train:
        absent = [] if train.unlisted else [c for c in absent if train.pixels[c.train_id]]
    if not absent or not share or not labels.pixels[:IGNORE_INDEX].any():
        return []
    names = _listed([c.name for c in absent])
    adjective = "training" if split == "train" else split
    elsewhere = "" if labels is train else ", and none of train are"
    return [
        LabelFault(
            f"{names}: no {adjective} pixel, while {_percent(share)} of the {adjective} pixels are "
            f"ignored by convention alone{elsewhere}; they may be these. "
            f"{reader.conventions.unlisted}",
            is_fatal=True,
        )
    ]


def _single_class(
    labels: SplitLabels, *, train: SplitLabels, reader: DatasetReader
) -> list[LabelFault]:
    """Return the fault of a split in which one class alone has pixels."""
    present = [c for c in reader.taxonomy if labels.pixels[c.train_id]]
    if len(present) != 1:
        return []
    conventions, ignored = reader.conventions, labels.ignored_share
    hint = _ONE_VALUE
    if labels.unlisted or (ignored and conventions.max_unlisted_share == 1):
        hint = conventions.unlisted
    elif ignored:
        hint = (
            f"{_percent(ignored)} of the pixels are ignored, as the class list says: if they are "
            "an object, make it a class."
        )
    name = present[0].name
    if labels is train:
        what = (
            f"every labelled training pixel is {name!r}, so that no score can be wrong; expected "
            f"pixels of two classes or more. {hint}"
        )
        return [LabelFault(what, is_fatal=True)]
    if sum(train.pixels[c.train_id] > 0 for c in reader.taxonomy) < 2:
        return []
    what = (
        f"every labelled {labels.split} pixel is {name!r}, so that scores say nothing of other "
        f"classes; expected pixels of two classes or more. {hint}"
    )
    return [LabelFault(what, is_fatal=False)]


def _absent_classes(
    labels: SplitLabels, *, reader: DatasetReader, config: SegGenConfig
) -> list[LabelFault]:
    """Return the faults of listed classes, and of instances, that train doesn't show."""
    faults = []
    has_own = reader.conventions.has_own_classes
    absent = [c for c in _absent(labels, reader) if has_own or c.slug in config.classes]
    if absent:
        remedy = (
            "take them out of the class list, or add samples that have them"
            if has_own
            else "take them out of 'classes' in params.yaml, or raise dataset.num_train"
        )
        names = _listed([c.name for c in absent])
        faults.append(
            LabelFault(
                f"{names}: no training pixel; expected some of every listed class: {remedy}",
                is_fatal=False,
            )
        )
    things = [c.name for c in reader.taxonomy if c.is_thing and labels.pixels[c.train_id]]
    if things and labels.num_instances == 0:
        faults.append(
            LabelFault(
                f"the instance maps show no instance, while {_listed(things)} are things with "
                "training pixels; expected a number for each instance: check the maps, or leave "
                "them out",
                is_fatal=False,
            )
        )
    return faults


def _absent(labels: SplitLabels, reader: DatasetReader) -> list[SegmentationClass]:
    return [c for c in reader.taxonomy if not labels.pixels[c.train_id]]


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(f"{name!r}" for name in names[:_MAX_NAMED])
    return listed + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "less than 0.1%"
