"""What a COCO annotation file says about which images, held as names and places in the file."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from seggen_core.datasets.decode import CHECK
from seggen_core.datasets.files import IMAGE_SUFFIXES, FileListing, inside, list_files, normal
from seggen_core.datasets.json_stream import read_element, stream_arrays
from seggen_core.errors import DatasetError


class CocoImage(NamedTuple):
    """One entry of `images`; width and height are 0 where it doesn't give them."""

    image_id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class CocoIndex:
    """One annotation file and the image folder that it speaks of.

    Attributes:
        path: the file.
        images: the folder, listed.
        entries: by key, the image's stem; several where a name is taken twice.
        image_ids: int64 [A], sorted, of each annotation.
        starts: int64 [A], first byte of each annotation.
        lengths: int64 [A], bytes of each annotation.
        crowds: int64 [A], 1 where the annotation is a crowd.
    """

    path: Path
    images: FileListing
    entries: dict[str, list[CocoImage]]
    image_ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    crowds: np.ndarray

    @property
    def keys(self) -> list[str]:
        """Stems of all images in the file or the folder, sorted."""
        return sorted(self.entries.keys() | self.images.names.keys())

    def has_instance(self, key: str) -> bool:
        """Return whether `key` has an annotation that is no crowd."""
        spans = (self._span(entry.image_id) for entry in self.entries.get(key, ()))
        return any(not self.crowds[low:high].all() for low, high in spans)

    def image(self, key: str, *, root: Path) -> tuple[Path, CocoImage]:
        """Return the image file and entry of `key`; DatasetError where either is missing or doubled."""
        entries = self.entries.get(key, [])
        if not entries:
            found = next(iter(self.images.paths(key)), key)
            raise DatasetError(
                f"{found} has no annotation; expected an entry for it in {self.path} {CHECK}"
            )
        if len(entries) > 1:
            listed = ", ".join(f"{e.file_name} (id {e.image_id})" for e in entries)
            raise DatasetError(
                f"{self.path} has {len(entries)} images called {key} ({listed}); expected one: remove the others"
            )
        path = inside(self.images.folder / entries[0].file_name, root=root)
        # The name may be written in another Unicode form, or be missing.
        return (
            path if path.is_file() else self.images.only(key, root=root, counterpart=None)
        ), entries[0]

    def annotations(self, image_id: int) -> Iterator[dict[str, Any]]:
        """Yield the annotations of an image, parsed again from the file."""
        low, high = self._span(image_id)
        for i in range(low, high):
            yield read_element(self.path, start=int(self.starts[i]), length=int(self.lengths[i]))

    def _span(self, image_id: int) -> tuple[int, int]:
        return int(np.searchsorted(self.image_ids, image_id)), int(
            np.searchsorted(self.image_ids, image_id, side="right")
        )


def index_coco(annotations: Path, *, image_folder: Path) -> CocoIndex:
    """Go through an annotation file once and list its image folder.

    Raises:
        DatasetError: the file or the folder is missing, or the file isn't COCO's JSON.
    """
    images = list_files(image_folder, kind="image", suffixes=IMAGE_SUFFIXES)
    entries: dict[str, list[CocoImage]] = {}
    of_image, starts, lengths, crowds = (
        array("q") for _ in range(4)
    )  # 8 bytes a number, where a list takes 40
    for element in stream_arrays(annotations, arrays={"images", "annotations"}):
        try:
            if element.array == "images":
                name = str(element.value["file_name"])
                key = normal(PurePosixPath(name).stem)
                size = [int(element.value.get(side, 0)) for side in ("width", "height")]
                entries.setdefault(key, []).append(CocoImage(int(element.value["id"]), name, *size))
            else:
                of_image.append(int(element.value["image_id"]))
                starts.append(element.start)
                lengths.append(element.length)
                crowds.append(int(element.value.get("iscrowd", 0)))
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(
                f"{annotations}, byte {element.start}: {error!r} in an entry of {element.array!r}; expected COCO's JSON with "
                "id and file_name of images, image_id of annotations"
            ) from None
    if not entries:
        raise DatasetError(
            f"{annotations} lists no images; expected COCO's JSON with an array 'images': check dataset.files"
        )
    order = np.argsort(np.array(of_image), kind="stable")
    sorted_by_image = (np.array(numbers)[order] for numbers in (of_image, starts, lengths, crowds))
    return CocoIndex(annotations, images, entries, *sorted_by_image)
