"""The reader that most datasets share.

A sample is an image, a mask of ids, and perhaps an instance map, each a file of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_table import ClassTable
from seggen_core.datasets.decode import DecodedFiles, SampleFiles, read_files, read_headers
from seggen_core.datasets.files import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    FileListing,
    common_ending,
    describe_folder,
    list_files,
    read_key_list,
    without,
)
from seggen_core.datasets.ids import (
    check_instances,
    check_not_inverted,
    check_palette,
    check_stated_classes,
    colors_in_file,
    id_table,
    ids_of_bits,
    ids_of_colors,
    number_instances,
    to_train_ids,
)
from seggen_core.datasets.reader import PUBLISHED, Conventions
from seggen_core.datasets.sample import RawSample, RgbEncoding
from seggen_core.datasets.split_reader import SplitReader
from seggen_core.datasets.splits import Runs, places, published_splits
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

InstanceIds = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From an instance map as in its file and a segmentation map to instance ids.

The result is int64 [H, W], 0 where there is no instance.
"""


@dataclass(frozen=True)
class IdMapFormat:
    """How a dataset's masks are written."""

    dataset: str
    """Its name, in messages."""
    table: ClassTable
    """Its classes."""
    mask_modes: Sequence[str] = ("L",)
    """Pillow's modes that masks may have; "RGB" masks are decoded by the table's colours."""
    instances_modes: Sequence[str] = ("I;16",)
    """Likewise of instance maps."""
    instance_ids: InstanceIds | None = None
    """How an instance map is read."""
    instance_classes: Callable[[np.ndarray], np.ndarray] | None = None
    """The class that an instance map names at each pixel, as an id of masks; -1 where it has no
    instance. None where it names no classes."""
    metadata: Callable[[str], dict[str, Any]] | None = None
    """More facts about a sample, from its key."""
    runs: Runs | None = None
    """Cuts sorted keys into stretches of neighbouring samples, for held-out validation samples."""
    image_ending: str = ""
    """What follows the key in the names of images."""
    mask_ending: str = ""
    """Likewise of masks."""
    instances_ending: str = ""
    """Likewise of instance maps."""
    subfolders: str = "none"
    """See `list_files`."""
    finds_endings: bool = False
    """Whether the ending of masks is found by `common_ending`."""
    conventions: Conventions = PUBLISHED
    """What is taken for granted about the masks."""


@dataclass(frozen=True)
class _SplitListing:
    images: FileListing
    masks: FileListing
    instances: FileListing | None
    keys: list[str]


class IdMapReader(SplitReader[ClassTable]):
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
            layout: where the published splits are; one that isn't in it is taken out of train.
            root: of the dataset; no file may lie outside of it.
            seed: of held-out samples and limits.

        Raises:
            ConfigError: the ending of instance maps is given, and there are none.
            DatasetError: a folder or a list of samples is missing or empty.
        """
        super().__init__(form.table)
        self._form, self._root = form, root
        for split, files in config.files.items():
            if files.instances_ending and not places(config, split=split, layout=layout).instances:
                raise ConfigError(
                    f"dataset.files.{split}.instances_ending is set, but there are no instance "
                    "maps; name their folder (instances), or remove it"
                )
        self._assumed = np.zeros(1 << 16, bool)
        self._assumed[list(form.table.assumed_ids)] = True
        listings = {
            s: self._list(places(config, split=s, layout=layout))
            for s in published_splits(config)
            if s in layout
        }
        sources = self._choose(
            {s: listing.keys for s, listing in listings.items()},
            config=config,
            seed=seed,
            dataset=form.dataset,
            runs=form.runs,
        )
        self._note_missing_splits(sources, config=config)
        self._key_sets = {split: set(keys) for split, keys in self._keys.items()}
        self._listings = {split: listings[source] for split, source in sources.items()}
        self._note_instances()
        self._id_table = id_table(form.table.train_ids)
        self._allowed = form.table.allowed(form.dataset)

    def _note_instances(self) -> None:
        """Note splits without instance maps where others have some."""
        lacking = [s for s, listing in self._listings.items() if listing.instances is None]
        if lacking and len(lacking) < len(self._listings):
            self._notes.append(
                f"there are instance maps, but none of {', '.join(lacking)}: its samples have no "
                "instances"
            )

    def _list(self, files: SplitFiles) -> _SplitListing:
        form = self._form

        assert files.images is not None, form.dataset
        assert files.masks is not None, form.dataset
        image_ending = form.image_ending if files.image_ending is None else files.image_ending
        mask_ending = form.mask_ending if files.mask_ending is None else files.mask_ending
        instances_ending = (
            form.instances_ending if files.instances_ending is None else files.instances_ending
        )
        images = self._list_files(files.images, "image", IMAGE_SUFFIXES, image_ending)
        masks, mask_ending = self._find_masks(files, images, mask_ending=mask_ending)
        instances = None
        if files.instances is not None:
            instances = self._list_files(
                files.instances, "instance map", MASK_SUFFIXES, instances_ending
            )
        beside = {files.masks: mask_ending, files.instances: instances_ending}
        if beside.get(files.images):
            images = without(images, endings=[beside[files.images]])
        if not images.names and not masks.names:
            raise DatasetError(
                f"{images.folder} and {masks.folder} hold no samples; expected "
                f"{', '.join(IMAGE_SUFFIXES)} images called *{image_ending} with "
                f"{', '.join(MASK_SUFFIXES)} masks called *{mask_ending} "
                f"({describe_folder(images.folder)}; {describe_folder(masks.folder)})"
            )
        keys = sorted(images.names.keys() | masks.names.keys())
        if files.keys is not None:
            keys = read_key_list(self._root / files.keys)
        return _SplitListing(images, masks, instances, keys)

    def _list_files(
        self, folder: str, kind: str, suffixes: Sequence[str], ending: str
    ) -> FileListing:
        return list_files(
            self._root / folder,
            kind=kind,
            suffixes=suffixes,
            ending=ending,
            subfolders=self._form.subfolders,
        )

    def _find_masks(
        self, files: SplitFiles, images: FileListing, *, mask_ending: str
    ) -> tuple[FileListing, str]:
        """List the masks of a split; return what follows a sample's name in theirs, too."""
        assert files.masks is not None, self._form.dataset
        masks = self._list_files(files.masks, "mask", MASK_SUFFIXES, mask_ending)
        if self._form.finds_endings and files.mask_ending is None:
            mask_ending = common_ending(masks, images)
            if mask_ending:
                masks = self._list_files(files.masks, "mask", MASK_SUFFIXES, mask_ending)
                self._notes.append(f"masks in {files.masks} are called <image>{mask_ending}.png")
        return masks, mask_ending

    @property
    def conventions(self) -> Conventions:
        """What is taken for granted about the masks."""
        return self._form.conventions

    def read(self, split: Split, key: str) -> RawSample:
        """Decode one sample; metadata names the file."""
        files = self._files(split, key)
        form = self._form
        decoded = read_files(files)
        ids = decoded.ids
        encoding: RgbEncoding | None = None
        if ids.ndim == 3:
            ids, encoding = ids_of_colors(ids, table=form.table, path=files.mask)
        elif ids.dtype == bool:
            ids = ids_of_bits(ids, table=form.table)
        colors = colors_in_file(ids, decoded.mask_palette)
        check_palette(colors, table=form.table, path=files.mask, dataset=form.dataset)
        if form.conventions.has_own_classes and not form.table.has_own_colors:
            check_not_inverted(colors, path=files.mask)
        segmentation_map = to_train_ids(
            ids, table=self._id_table, path=files.mask, allowed=self._allowed
        )
        unlisted = self._unlisted_share(ids, segmentation_map)
        sample = self._sample(key, files, decoded, segmentation_map, unlisted_share=unlisted)
        return replace(sample, colors=colors, rgb_encoding=encoding)

    def _sample(
        self,
        key: str,
        files: SampleFiles,
        decoded: DecodedFiles,
        segmentation_map: np.ndarray,
        *,
        unlisted_share: float,
    ) -> RawSample:
        """Add instances and metadata to a decoded mask, uint8 [H, W] of train ids."""
        form = self._form
        metadata: dict[str, Any] = {"file": files.image.relative_to(self._root).as_posix()}
        height, width = decoded.image.shape[:2]
        if decoded.stored_size not in ((width, height), (height, width)):
            metadata["stored_size"] = list(decoded.stored_size)
        instance_map = None
        if decoded.instances is not None:
            assert form.instance_ids is not None, form.dataset
            if form.instance_classes is not None:
                file_ids = form.instance_classes(decoded.instances)
                stated = np.where(file_ids < 0, np.int16(-2), self._id_table[file_ids])
                check_stated_classes(stated, segmentation_map, path=files.instances)
            instance_ids = form.instance_ids(decoded.instances, segmentation_map)
            instance_map, metadata["instance_ids"] = number_instances(
                instance_ids, path=files.instances
            )
            check_instances(instance_map, segmentation_map, path=files.instances)
        if form.metadata is not None:
            metadata |= form.metadata(key)
        return RawSample(
            decoded.image,
            segmentation_map,
            instance_map,
            metadata,
            unlisted_share=unlisted_share,
        )

    def _unlisted_share(self, ids: np.ndarray, segmentation_map: np.ndarray) -> float:
        if segmentation_map.max() != IGNORE_INDEX or not self._form.table.assumed_ids:
            return 0.0
        return float(self._assumed[ids].mean())

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Check one sample's files by their headers and return (width, height)."""
        return read_headers(self._files(split, key))

    def _mask(self, split: Split, key: str, *, image: Path) -> Path:
        return self._listings[split].masks.only(key, root=self._root, counterpart=image)

    def _files(self, split: Split, key: str) -> SampleFiles:
        form, listing, root = self._form, self._listings[split], self._root
        if key not in self._key_sets[split]:
            raise DatasetError(
                f"{form.dataset} has no {split} sample {key!r}; expected the stem of a file of "
                "that split"
            )
        mask_if_any = next(iter(listing.masks.paths(key)), None)
        image = listing.images.only(key, root=root, counterpart=mask_if_any)
        mask = self._mask(split, key, image=image)
        instances = None
        if listing.instances is not None:
            instances = listing.instances.only(key, root=root, counterpart=image)
        return SampleFiles(image, mask, instances, form.mask_modes, form.instances_modes)
