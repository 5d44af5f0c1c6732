"""The images of one split, and where it stands what an annotation tool's user drew on them.

Some tools write one file for each image, others one file for all of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from seggen_core.datasets.annotated_files import NamedImages, Place
from seggen_core.datasets.files import FileListing
from seggen_core.datasets.shape_reader import Survey


@dataclass(frozen=True)
class ImagesWithFiles:
    """Images with an annotation file each; the rest of `AnnotatedImages` is the format's.

    Attributes:
        images: the folder of the images.
        files: the folder of the annotation files.
        survey: what the shapes are.
        empty: samples whose file has no shape.
        listed: samples to use, of a list; None: all.
    """

    images: FileListing
    files: FileListing
    survey: Survey
    empty: frozenset[str]
    listed: list[str] | None

    @property
    def keys(self) -> list[str]:
        """Names of the samples."""
        if self.listed is not None:
            return self.listed
        return sorted(self.images.names.keys() | self.files.names.keys())

    def is_empty(self, key: str) -> bool:
        """Return whether a file has no shape."""
        return key in self.empty

    def image(self, key: str, *, root: Path) -> Path:
        """Return the image of a sample."""
        beside = next(iter(self.files.paths(key)), None)
        return self.images.only(key, root=root, counterpart=beside)

    def file(self, key: str) -> tuple[Path, Path | None]:
        """Return the file of a sample, and its image if there is one."""
        image = next(iter(self.images.paths(key)), None)
        return self.files.only(key, root=self.files.folder, counterpart=image), image


@dataclass(frozen=True)
class ImagesOfOneFile(Generic[Place]):
    """Images of one annotation file; the rest of `AnnotatedImages` is the format's.

    Attributes:
        path: of the file.
        images: the images, each with its place in the file.
        survey: what the shapes are.
        listed: samples to use, of a list; None: all.
    """

    path: Path
    images: NamedImages[Place]
    survey: Survey
    listed: list[str] | None

    @property
    def keys(self) -> list[str]:
        """Names of the samples."""
        return self.images.keys if self.listed is None else self.listed

    def image(self, key: str, *, root: Path) -> Path:
        """Return the image of a sample."""
        return self.images.image(key, root=root)
