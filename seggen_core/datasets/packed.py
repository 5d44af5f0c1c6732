"""A picture that lies in a file with others, used in place of a path."""

import io
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO


@dataclass(frozen=True)
class PackedFile:
    """Bytes of one picture.

    Attributes:
        archive: the file that it lies in.
        place: where in it, and of which sample, in messages.
        data: its bytes.
    """

    archive: Path
    place: str
    data: bytes

    def __str__(self) -> str:
        """Name the file and the place."""
        return f"{self.archive}, {self.place}"

    @property
    def name(self) -> str:
        """The place alone."""
        return self.place

    def open(self, mode: str) -> BinaryIO:
        """Open the bytes as a file."""
        assert mode == "rb", mode
        return io.BytesIO(self.data)

    def relative_to(self, folder: Path) -> PurePath:
        """Return the path of the file that it lies in, below a folder."""
        return self.archive.relative_to(folder)
