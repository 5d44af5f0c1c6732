"""What a COCO annotation file says about which images, held as names and places in the file."""

import reprlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from seggen_core.datasets.files import (
    IMAGE_SUFFIXES,
    FileListing,
    brief,
    inside,
    is_file,
    list_files,
    normal,
    posix,
)
from seggen_core.datasets.json_stream import Element, read_elements, stream_arrays
from seggen_core.datasets.sample import CHECK
from seggen_core.errors import DatasetError

_MAX_LISTED = {"images": 1 << 22, "annotations": 1 << 26, "categories": 1 << 16}
"""Most elements of each array of a file: some 2 GB of places and names."""

_MAX_SIDE = 1 << 31


class CocoImage(NamedTuple):
    """One entry of `images`."""

    image_id: int
    """Its `id`."""
    file_name: str
    """Path below the folder of images."""
    width: int
    """Pixels; 0 where the entry doesn't say, -1 where it says no number of pixels."""
    height: int
    """As `width`."""


@dataclass(frozen=True)
class CocoIndex:
    """One annotation file and the image folder that it speaks of."""

    path: Path
    """The file."""
    images: FileListing
    """The folder, listed."""
    entries: dict[str, list[CocoImage]]
    """By key, the image's stem; several where a name is taken twice."""
    categories: list[Any]
    """The file's own class list: {"id", "name", ...} each, as it stands there."""
    image_ids: np.ndarray
    """int64 [A], sorted, of each annotation."""
    starts: np.ndarray
    """int64 [A], first byte of each annotation."""
    lengths: np.ndarray
    """int64 [A], bytes of each annotation."""
    crowds: np.ndarray
    """int64 [A], 1 where the annotation is a crowd."""
    repeated_ids: frozenset[int] = frozenset()
    """Ids that several images have."""
    num_foreign: int = 0
    """Annotations of images that the file doesn't list."""

    @property
    def keys(self) -> list[str]:
        """Stems of all images in the file or the folder, sorted."""
        return sorted(self.entries.keys() | self.images.names.keys())

    def has_instance(self, key: str, *, crowds: bool = False) -> bool:
        """Return whether `key` has an annotation that is no crowd, or any with `crowds`."""
        spans = (self._span(entry.image_id) for entry in self.entries.get(key, ()))
        return any(high > low if crowds else not self.crowds[low:high].all() for low, high in spans)

    def image(self, key: str, *, root: Path) -> tuple[Path, CocoImage]:
        """Return the image file and entry of `key`.

        Raises:
            DatasetError: either is missing or doubled, or the file lies outside of `root`.
        """
        entries = self.entries.get(key, [])
        if not entries and key not in self.images:  # of a list of samples
            self.images.only(key, root=root, counterpart=None)
        if not entries:
            image = next(iter(self.images.paths(key)), key)
            raise DatasetError(
                f"{brief(image)} has no annotation; expected an entry for it in {self.path} {CHECK}"
            )
        if len(entries) > 1:
            listed = brief(", ".join(f"{e.file_name} (id {e.image_id})" for e in entries))
            raise DatasetError(
                f"{self.path} has {len(entries)} images called {brief(key)} ({listed}); expected "
                "one: remove the others"
            )
        if entries[0].image_id in self.repeated_ids:
            raise DatasetError(
                f"{self.path} gives image id {entries[0].image_id} to "
                f"{brief(entries[0].file_name)} and to another image; expected one image an id: "
                f"number them again {CHECK}"
            )
        return find_named(
            self.images, entries[0].file_name, key=key, root=root, listed_in=self.path
        ), entries[0]

    def annotations(self, image_id: int) -> Iterator[Any]:
        """Yield the annotations of an image, parsed again from the file."""
        rows = slice(*self._span(image_id))
        spans = zip(self.starts[rows].tolist(), self.lengths[rows].tolist(), strict=True)
        return read_elements(self.path, spans=spans)

    def _span(self, image_id: int) -> tuple[int, int]:
        low = np.searchsorted(self.image_ids, image_id, side="left")
        high = np.searchsorted(self.image_ids, image_id, side="right")
        return int(low), int(high)


def find_named(
    listing: FileListing,
    file_name: str,
    *,
    key: str,
    root: Path,
    listed_in: Path,
    counterpart: Path | None = None,
) -> Path:
    """Return the file that JSON names.

    Its name may be in another Unicode form, and may start with folders that end in the listed one.

    Args:
        listing: the folder that it is in.
        file_name: as JSON has it.
        key: of the sample.
        root: of the dataset.
        listed_in: the JSON file, for messages.
        counterpart: the sample's other file, for messages.

    Raises:
        DatasetError: the file is missing or doubled, lies outside of `root`, or is another one.
    """
    path = inside(listing.folder / file_name, root=root)
    if is_file(path):
        return path
    candidate = listing.only(key, root=root, counterpart=counterpart)
    named = PurePosixPath(normal(file_name)).parts
    if PurePosixPath(normal(candidate.as_posix())).parts[-len(named) :] != named:
        raise DatasetError(
            f"{listed_in} names {brief(file_name)}, but the {listing.kind} found is {candidate}; "
            f"expected the same file: correct file_name or dataset.files {CHECK}"
        )
    return candidate


class _Columns(NamedTuple):
    """The columns of a `CocoIndex`, 8 bytes a number, where a list takes 40."""

    image_ids: array
    starts: array
    lengths: array
    crowds: array

    def add(self, element: Element) -> None:
        self.image_ids.append(whole_id(element.value["image_id"]))
        self.starts.append(element.start)
        self.lengths.append(element.length)
        self.crowds.append(is_crowd(element.value))


def index_coco(annotations: Path, *, image_folder: Path) -> CocoIndex:
    """Go through an annotation file once and list its image folder.

    Raises:
        DatasetError: the file or the folder is missing, or the file isn't COCO's JSON.
    """
    images = list_files(image_folder, kind="image", suffixes=IMAGE_SUFFIXES)
    entries: dict[str, list[CocoImage]] = {}
    categories: list[Any] = []
    columns = _Columns(*(array("q") for _ in _Columns._fields))
    counts: Counter[str] = Counter()
    for element in stream_arrays(annotations, arrays=set(_MAX_LISTED)):
        try:
            if element.array == "images":
                image = _parse_image(element.value)
                key = normal(PurePosixPath(image.file_name).stem)
                entries.setdefault(key, []).append(image)
            elif element.array == "annotations":
                columns.add(element)
            else:
                categories.append(element.value)
            counts[element.array] += 1
            if counts[element.array] > _MAX_LISTED[element.array]:
                raise DatasetError(
                    f"{annotations} has more than {_MAX_LISTED[element.array]} {element.array}; "
                    "expected fewer: split the file"
                )
        except DatasetError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(
                f"{annotations}, byte {element.start}: {error!r} in an entry of "
                f"{element.array!r}; expected COCO's JSON with id and file_name of images, "
                "image_id of annotations, and ids below 2^63"
            ) from None
    if not entries:
        raise DatasetError(
            f"{annotations} lists no images; expected COCO's JSON with an array 'images': check "
            "dataset.files"
        )
    order = np.argsort(np.array(columns.image_ids), kind="stable")
    image_ids, starts, lengths, crowds = (np.array(column)[order] for column in columns)
    ids = Counter(entry.image_id for listed in entries.values() for entry in listed)
    is_known = np.isin(image_ids, np.fromiter(ids, np.int64, len(ids)))
    return CocoIndex(
        annotations,
        images,
        entries,
        categories,
        image_ids,
        starts,
        lengths,
        crowds,
        repeated_ids=frozenset(i for i, count in ids.items() if count > 1),
        num_foreign=int((~is_known).sum()),
    )


def whole_id(value: object) -> int:
    """Return an id, which converters also write as 5.0 or "5".

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{reprlib.repr(value)} is no whole number")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value} is no whole number")
    return int(value)


def is_crowd(annotation: Mapping[str, Any]) -> bool:
    """Return what `iscrowd` says; 0 where it isn't there.

    Raises:
        ValueError: it is neither 0 nor 1. As text, "0" would be true.
    """
    value = annotation.get("iscrowd", 0)
    if str(value).strip().lower() not in ("0", "1", "0.0", "1.0", "false", "true"):
        raise ValueError(f"iscrowd is {reprlib.repr(value)}, not 0 or 1")
    return str(value).strip().lower() in ("1", "1.0", "true")


def _parse_image(value: Any) -> CocoImage:
    image_id = whole_id(value["id"])
    width, height = (_side(value.get(side)) for side in ("width", "height"))
    if not -(1 << 63) <= image_id < 1 << 63:
        raise OverflowError(f"id {str(image_id)[:20]}...")
    return CocoImage(image_id, posix(str(value["file_name"])), width, height)


def _side(value: Any) -> int:
    if value is None:
        return 0
    return value if isinstance(value, int) and 0 < value < _MAX_SIDE else -1
