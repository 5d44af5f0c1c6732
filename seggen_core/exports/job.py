"""What every format needs of an export: the samples, the settings, and how files are named."""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from seggen_core.exports.sample import ExportSample
from seggen_core.exports.segments import SegmentMap, find_segments
from seggen_core.exports.sources import Selection
from seggen_core.taxonomy import SegmentationClass

Segmentation = Literal["rle", "polygons", "both"]
Images = Literal["stored", "jpg", "png"]


@dataclass(frozen=True, eq=False)
class ExportJob:
    """One export.

    Attributes:
        selection: the samples.
        name: of the dataset, for titles.
        out: where the finished folder will be.
        components: make things of connected parts where instances are unknown.
        segmentation: how COCO's instances write masks.
        images: "stored" copies the stored files; "jpg" and "png" convert those of the other kind.
    """

    selection: Selection
    name: str
    out: Path
    components: bool = False
    segmentation: Segmentation = "rle"
    images: Images = "stored"

    @cached_property
    def things(self) -> tuple[int, ...]:
        """Train ids of the classes that have instances.

        With `components`, all classes of a dataset without things are taken for things.
        """
        taxonomy = self.selection.taxonomy
        things = tuple(c.train_id for c in taxonomy if c.is_thing)
        return things or (tuple(range(len(taxonomy))) if self.components else ())

    @property
    def thing_classes(self) -> list[SegmentationClass]:
        """The classes that have instances, in the order of their train ids."""
        return [self.selection.taxonomy[i] for i in self.things]

    @property
    def has_instances(self) -> bool:
        """Whether each sample with things says which pixels are which thing, or is made to."""
        return self.components or not self.selection.without_instances(self.things)

    def segments(self, sample: ExportSample) -> SegmentMap:
        """Return the segments of a sample."""
        return find_segments(
            sample.segmentation_map,
            sample.instance_map,
            things=self.things,
            components=self.components,
        )

    def image_suffix(self, split: str) -> str | None:
        """Return the suffix of all images of a split, "jpg" or "png"; None where both occur."""
        if self.images != "stored":
            return self.images
        suffixes = self.selection.image_suffixes(split)
        return suffixes.pop() if len(suffixes) == 1 else None

    def write_image(self, folder: Path, sample: ExportSample, *, suffix: str | None = None) -> str:
        """Write the image of a sample into a folder and return the file's name.

        Args:
            folder: created where it doesn't exist.
            sample: the sample.
            suffix: "jpg" or "png"; None does what `images` says.
        """
        wanted = suffix or (None if self.images == "stored" else self.images)
        data, suffix = sample.image_as(wanted)
        return write_file(folder / f"{sample.key}.{suffix}", data)


class Writer(ABC):
    """Writes the samples of one export, one by one, into a folder.

    Attributes:
        needs_instances: the format is for things one by one, so samples have to have instances.
        opening: Markdown: how the finished folder is opened.
    """

    needs_instances = False
    opening = ""

    def __init__(self, job: ExportJob, folder: Path) -> None:
        """Begin.

        Args:
            job: what is exported.
            folder: empty.
        """
        self.job, self.folder = job, folder

    @abstractmethod
    def add(self, sample: ExportSample) -> None:
        """Write one sample."""

    def finish(self) -> list[str]:
        """Write what comes last; return what the user should know, a sentence each."""
        return []

    def close(self) -> None:  # noqa: B027 (most writers hold none)
        """Give up open files."""


OpenWriter = Callable[[ExportJob, Path], Writer]


def write_file(path: Path, data: bytes) -> str:
    """Write a file into a folder that needn't exist, and return its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path.name


def png_file(array: np.ndarray, *, palette: list[int] | None = None) -> bytes:
    """Return an array as a PNG file.

    Args:
        array: uint8 [H, W] or [H, W, 3].
        palette: colours of the values, 256 times (r, g, b); None writes grey or RGB.
    """
    picture = Image.fromarray(array)
    if palette is not None:
        picture.putpalette(palette)  # values stay, and the mode becomes "P"
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
