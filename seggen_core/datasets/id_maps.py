"""The reader that most datasets share: an image, a mask of ids, and perhaps an instance map, each a file of its own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_table import ClassTable
from seggen_core.datasets.decode import CHECK, read_files, read_headers
from seggen_core.datasets.files import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    FileListing,
    list_files,
    read_key_list,
)
from seggen_core.datasets.reader import RawSample, check_labelled
from seggen_core.datasets.splits import Runs, plan_splits, published_splits
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

InstanceIds = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(instance map as in the file, segmentation map) to int64 [H, W] of instance ids, 0 where there is none."""


@dataclass(frozen=True)
class IdMapFormat:
    """How a dataset's masks are written.

    Attributes:
        dataset: its name, in messages.
        table: its classes.
        mask_modes: Pillow's modes that masks may have; "RGB" masks are decoded by the table's
            colours.
        instances_modes: likewise of instance maps.
        instance_ids: how an instance map is read.
        metadata: more facts about a sample, from its key.
        runs: how neighbouring samples are told, for held-out validation samples.
        image_ending, mask_ending, instances_ending: what follows the key in the names of files.
        image_suffixes: suffixes that images may have.
        subfolders: see `list_files`.
    """

    dataset: str
    table: ClassTable
    mask_modes: Sequence[str] = ("L",)
    instances_modes: Sequence[str] = ("I;16",)
    instance_ids: InstanceIds | None = None
    metadata: Callable[[str], dict[str, Any]] | None = None
    runs: Runs | None = None
    image_ending: str = ""
    mask_ending: str = ""
    instances_ending: str = ""
    image_suffixes: Sequence[str] = IMAGE_SUFFIXES
    subfolders: str = "none"
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _SplitListing:
    images: FileListing
    masks: FileListing
    instances: FileListing | None
    keys: list[str]


class IdMapReader:
    """Samples of up to three files, listed at once, read one at a time."""

    def __init__(
        self,
        config: DatasetConfig,
        *,
        form: IdMapFormat,
        layout: Mapping[Split, SplitFiles],
        root: Path,
        seed: int,
    ) -> None:
        """List the folders of the splits.

        Args:
            config: splits, limits, and the places that differ from `layout`.
            form: how the dataset's files are named and written.
            layout: where the published splits are.
            root: of the dataset; no file may lie outside of it.
            seed: of held-out samples and limits.

        Raises:
            DatasetError: a folder or a list of samples is missing or empty.
        """
        self._form, self._root = form, root
        listed = {
            s: self._list(places(config, split=s, layout=layout)) for s in published_splits(config)
        }
        chosen = plan_splits(
            {s: listing.keys for s, listing in listed.items()},
            config=config,
            seed=seed,
            dataset=form.dataset,
            runs=form.runs,
        )
        self._keys = {split: keys for split, (_, keys) in chosen.items()}
        self._known = {split: set(keys) for split, keys in self._keys.items()}
        self._listed = {split: listed[source] for split, (source, _) in chosen.items()}
        self._lookup = id_table(form.table.train_ids)
        self._allowed = form.table.allowed(form.dataset)

    def _list(self, files: SplitFiles) -> _SplitListing:
        form = self._form
        assert files.images is not None, form.dataset
        assert files.masks is not None, form.dataset
        images = list_files(
            self._root / files.images,
            kind="image",
            suffixes=form.image_suffixes,
            ending=form.image_ending,
            subfolders=form.subfolders,
        )
        masks = list_files(
            self._root / files.masks,
            kind="mask",
            suffixes=MASK_SUFFIXES,
            ending=form.mask_ending,
            subfolders=form.subfolders,
        )
        instances = None
        if files.instances is not None:
            instances = list_files(
                self._root / files.instances,
                kind="instance map",
                suffixes=MASK_SUFFIXES,
                ending=form.instances_ending,
                subfolders=form.subfolders,
            )
        if not images.names and not masks.names:
            raise DatasetError(
                f"{images.folder} and {masks.folder} hold no samples; expected {', '.join(form.image_suffixes)} images called "
                f"*{form.image_ending} with {', '.join(MASK_SUFFIXES)} masks called *{form.mask_ending}"
            )
        keys = sorted(images.names.keys() | masks.names.keys())
        if files.keys is not None:
            keys = read_key_list(self._root / files.keys)
        return _SplitListing(images, masks, instances, keys)

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes of the dataset."""
        return self._form.table.taxonomy

    @property
    def palette(self) -> np.ndarray:
        """The dataset's colours, uint8 [num_classes, 3]."""
        return self._form.table.palette

    @property
    def notes(self) -> list[str]:
        """What the format says is worth knowing."""
        return list(self._form.notes)

    def keys(self, split: Split) -> list[str]:
        """Return the names that an image and its mask share, in the order of their list, else sorted."""
        return list(self._keys[split])

    def read(self, split: Split, key: str) -> RawSample:
        """Decode one sample; metadata names the file."""
        image, mask, instances = self._paths(split, key)
        form = self._form
        decoded = read_files(
            image,
            mask_path=mask,
            mask_modes=form.mask_modes,
            instances_path=instances,
            instances_modes=form.instances_modes,
        )
        ids = (
            decoded.ids
            if decoded.ids.ndim == 2
            else ids_of_colors(decoded.ids, table=form.table, path=mask)
        )
        segmentation_map = to_train_ids(ids, table=self._lookup, path=mask, allowed=self._allowed)
        metadata: dict[str, Any] = {"file": image.relative_to(self._root).as_posix()}
        if (
            decoded.stored_size != decoded.image.shape[1::-1]
            and decoded.stored_size != decoded.image.shape[:2]
        ):
            metadata["stored_size"] = list(decoded.stored_size)
        instance_map = None
        if decoded.instances is not None:
            assert form.instance_ids is not None, form.dataset
            found = form.instance_ids(decoded.instances, segmentation_map)
            instance_map, metadata["instance_ids"] = number_instances(found, path=instances)
        if form.metadata is not None:
            metadata |= form.metadata(key)
        return RawSample(decoded.image, segmentation_map, instance_map, metadata)

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Check one sample's files by their headers and return (width, height)."""
        image, mask, instances = self._paths(split, key)
        return read_headers(
            image,
            mask_path=mask,
            mask_modes=self._form.mask_modes,
            instances_path=instances,
            instances_modes=self._form.instances_modes,
        )

    def _paths(self, split: Split, key: str) -> tuple[Path, Path, Path | None]:
        if key not in self._known[split]:
            raise DatasetError(
                f"{self._form.dataset} has no {split} sample {key!r}; expected the stem of a file of that split"
            )
        listing = self._listed[split]
        image = listing.images.only(
            key, root=self._root, counterpart=next(iter(listing.masks.paths(key)), None)
        )
        mask = listing.masks.only(key, root=self._root, counterpart=image)
        if listing.instances is None:
            return image, mask, None
        return image, mask, listing.instances.only(key, root=self._root, counterpart=image)


def places(
    config: DatasetConfig, *, split: Split, layout: Mapping[Split, SplitFiles]
) -> SplitFiles:
    """Return where the files of a published split are: as published, changed by `dataset.files`."""
    return layout[split].model_copy(
        update=config.files.get(split, SplitFiles()).model_dump(exclude_none=True)
    )


def id_table(train_ids: Mapping[int, int]) -> np.ndarray:
    """Return int16 [65536]: the train id of every id in a file, -1 where the id is not allowed."""
    table = np.full(1 << 16, -1, np.int16)
    table[list(train_ids)] = list(train_ids.values())
    return table


def to_train_ids(ids: np.ndarray, *, table: np.ndarray, path: Path, allowed: str) -> np.ndarray:
    """Map the ids of a file to train ids.

    Args:
        ids: uint8 or uint16 [H, W], as in the file.
        table: int16 [65536] of `id_table`.
        path: the file, named in errors.
        allowed: the allowed ids in words (`ClassTable.allowed`).

    Returns:
        uint8 [H, W], train ids or IGNORE_INDEX.

    Raises:
        DatasetError: an id isn't allowed, or every pixel is to be ignored.
    """
    mapped = table[ids]
    if mapped.min() < 0:
        values, counts = np.unique(ids[mapped < 0], return_counts=True)
        found = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values[:5], counts[:5], strict=True))
        raise DatasetError(f"{path} has label {found}; {allowed} {CHECK}")
    segmentation_map = mapped.astype(np.uint8)
    check_labelled(segmentation_map, where=str(path))
    return segmentation_map


def ids_of_colors(colors: np.ndarray, *, table: ClassTable, path: Path) -> np.ndarray:
    """Turn an RGB mask into the ids of its classes, exactly: a colour that no class has is an error.

    Args:
        colors: uint8 [H, W, 3].
        table: classes with colours of their own.
        path: the file, named in errors.

    Returns:
        uint16 [H, W].
    """
    packed = (colors.astype(np.int32) << [16, 8, 0]).sum(-1, dtype=np.int32)
    known = {
        (r << 16) | (g << 8) | b: file_id
        for file_id, (r, g, b) in zip(table.ids, table.colors, strict=True)
    }
    values = np.array(sorted(known), np.int32)
    places_ = np.searchsorted(values, packed).clip(max=len(values) - 1)
    foreign = packed[values[places_] != packed]
    if foreign.size:
        value = int(foreign[0])
        raise DatasetError(
            f"{path} has colour {(value >> 16, value >> 8 & 255, value & 255)} in {foreign.size} pixel(s), which no class of the "
            f"class list has; expected exact colours (a mask saved as JPEG or resized has others), or ids {CHECK}"
        )
    return np.array([known[int(v)] for v in values], np.uint16)[places_]


def number_instances(ids: np.ndarray, *, path: Path | None) -> tuple[np.ndarray, list[int]]:
    """Number instances 1, 2, ... in the order of their ids.

    Args:
        ids: integers [H, W], 0 where there is no instance.
        path: the file, named in errors.

    Returns:
        uint16 [H, W] of numbers, and the ids: instance k is the one with id ``[k - 1]``.
    """
    values = sorted_unique(ids)
    values = values[values != 0]
    if len(values) >= 1 << 16:
        raise DatasetError(f"{path} has {len(values)} instances; expected at most 65535 {CHECK}")
    numbers = np.searchsorted(values, ids) + 1
    return np.where(ids == 0, 0, numbers).astype(np.uint16), values.tolist()


def sorted_unique(ids: np.ndarray) -> np.ndarray:
    """Return the distinct values of an integer map, sorted; sorts runs of equal neighbours only, ten times as fast as all."""
    flat = ids.ravel()
    return (
        np.unique(flat[np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))]) if flat.size else flat
    )


def things_only(
    found: np.ndarray, *, segmentation_map: np.ndarray, taxonomy: Taxonomy | Iterable
) -> np.ndarray:
    """Return `found` with 0 wherever the class is no thing."""
    is_thing = np.zeros(256, bool)
    for c in taxonomy:
        is_thing[c.train_id] = c.is_thing
    is_thing[IGNORE_INDEX] = False
    return np.where(is_thing[segmentation_map], found, 0)
