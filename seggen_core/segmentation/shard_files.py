"""Members of samples as files: what reads files by name reads the shards in place.

A name says where a file is, so it holds in every process that the project's folder is visible to:

    seggen:///project/data/real/train/image/00041.jpg          the image, as it is stored
    seggen:///project/data/real/train/sem_seg/00041.png        train ids; 255 is ignored
    seggen:///project/data/real/train/stuff/00041.png          0 is any thing, stuff from 1 (below)
    seggen:///project/data/real/train/panoptic/00041.png       segments as COCO panoptic writes them

Words after a "+" change the labels: `+map-3-255-5-255` makes 255 of the train ids 3 and 5, and
`+size-480-640` brings them to the height and width of another image. `stuff` is what detectron2's
Panoptic FPN trains its semantic branch on: stuff is numbered from 1 in the order of train ids.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

import numpy as np

from seggen_core.errors import SampleStoreError
from seggen_core.exports.coco_panoptic import segment_png
from seggen_core.exports.job import png_file
from seggen_core.exports.segments import SegmentMap, find_segments
from seggen_core.segmentation.geometry import resize_nearest
from seggen_core.segmentation.labels import relabel
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

PREFIX = "seggen://"
Kind = Literal["image", "sem_seg", "stuff", "panoptic"]
_KINDS: dict[str, Kind] = {
    "image": "image",
    "sem_seg": "sem_seg",
    "stuff": "stuff",
    "panoptic": "panoptic",
}


@dataclass(frozen=True)
class ShardFile:
    """A member of a sample, or a picture that is made of its members when it is read.

    Attributes:
        store: folder of the store, absolute.
        key: of the sample.
        kind: what the file shows.
        changes: (stored value, label) of the stored values that are read as another label.
        size: (height, width) that labels are brought to by nearest neighbour; None keeps theirs.
    """

    store: Path
    key: str
    kind: Kind
    changes: tuple[tuple[int, int], ...] = ()
    size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The file's name; `parse` is the inverse."""
        words: list[str] = [self.kind]
        if self.changes:
            words.append("-".join(["map", *(f"{value}-{label}" for value, label in self.changes)]))
        if self.size is not None:
            words.append(f"size-{self.size[0]}-{self.size[1]}")
        suffix = _open(self.store).manifest["store"]["image_format"]
        if self.kind != "image":
            suffix = "png"
        return f"{PREFIX}{self.store}/{'+'.join(words)}/{self.key}.{suffix}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a name.

        Raises:
            SampleStoreError: it is none of a file in a store.
        """
        try:
            store, words, file = name.removeprefix(PREFIX).rsplit("/", 2)
            kind, *options = words.split("+")
            numbers = {
                word: tuple(int(v) for v in values)
                for word, *values in (option.split("-") for option in options)
            }
            flat, size = numbers.pop("map", ()), numbers.pop("size", None)
            if numbers or (size is not None and len(size) != 2):
                raise ValueError(words)
            changes = tuple(zip(flat[::2], flat[1::2], strict=True))
            pair = None if size is None else (size[0], size[1])
            return cls(Path(store), file.split(".")[0], _KINDS[kind], changes, pair)
        except (KeyError, ValueError) as error:
            raise SampleStoreError(
                f"{name!r} names no file in a sample store; expected "
                f"{PREFIX}<folder of a store>/<{'|'.join(_KINDS)}>/<key>.png"
            ) from error

    def shown_as(self, kind: Kind) -> Self:
        """Return the file of another kind with the same labels."""
        return replace(self, kind=kind)

    def read(self) -> bytes:
        """Return the file: a PNG, or a JPEG where an image is stored as one.

        Raises:
            SampleStoreError: there is no such sample, or it is damaged.
        """
        store = _open(self.store)
        if self.kind == "image":
            return store.read_bytes(self.key, "image")
        if self.kind == "sem_seg":
            if not self.changes and self.size is None:
                return store.read_bytes(self.key, "mask")
            return png_file(self.read_mask())
        if self.kind == "stuff":
            return png_file(_stuff_ids(_taxonomy(self.store))[self.read_mask()])
        return segment_png(self.read_segments())

    def read_mask(self) -> np.ndarray:
        """Return the labels, uint8 [H, W]: train ids or IGNORE_INDEX."""
        mask = _open(self.store).read_mask(self.key)
        mask = mask if self.size is None else resize_nearest(mask, self.size)
        if self.changes:
            table = np.arange(256, dtype=np.uint8)
            for value, label in self.changes:
                table[value] = label
            mask = relabel(mask, table)
        return mask

    def read_segments(self) -> SegmentMap:
        """Return things one by one, and stuff by class.

        Raises:
            SampleStoreError: the sample shows things and has no instance map, or it is damaged.
        """
        things = [c.train_id for c in _taxonomy(self.store) if c.is_thing]
        mask, instances = self.read_mask(), _open(self.store).read_instances(self.key)
        if instances is None:
            if np.isin(mask, things).any():
                raise SampleStoreError(
                    f"{self.key} in {self.store} shows things and has no instance map; take "
                    "samples with instances, or the datasets of the semantic task"
                )
        elif self.size is not None:
            instances = resize_nearest(instances, self.size)
        return find_segments(mask, instances, things=things)


@lru_cache(maxsize=4096)
def _open(folder: Path) -> SampleStore:
    """Return a store; a process reads the index of each once."""
    return SampleStore(folder)


def taxonomy_of(store: SampleStore) -> Taxonomy:
    """Return the classes that the masks of a store show.

    Raises:
        SampleStoreError: the store was made before manifests named them.
    """
    rows = store.manifest.get("classes")
    if rows is None:
        raise SampleStoreError(
            f"{store.folder} doesn't name its classes, because an earlier seggen made it; "
            "run: dvc repro"
        )
    return Taxonomy.from_json(rows)


@lru_cache(maxsize=4096)
def _taxonomy(folder: Path) -> Taxonomy:
    return taxonomy_of(_open(folder))


def _stuff_ids(taxonomy: Taxonomy) -> np.ndarray:
    """Return the value in `stuff` of each value in a mask, uint8 [256]."""
    table = np.full(256, IGNORE_INDEX, np.uint8)
    stuff = [c.train_id for c in taxonomy if not c.is_thing]
    table[[c.train_id for c in taxonomy]] = 0
    table[stuff] = np.arange(1, len(stuff) + 1)
    return table
