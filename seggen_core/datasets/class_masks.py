"""Masks in several files: one for each class that is in the image.

    masks/train/crack/0001.png, masks/train/wall/0001.png      {class}/{name}
    masks/train/0001/crack.png, masks/train/0001/wall.png      {name}/{class}
    masks/train/0001_crack.png, masks/train/0001_wall.png      {name}_{class}

A file shows where its class is: 0 elsewhere, and one other value there (1 or 255). The class is
called as in the class list, by name, slug or id. A pixel that no file covers belongs to the class
`dataset.background`; without one it is ignored.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.config.data import ClassMasks
from seggen_core.datasets.class_table import ClassTable
from seggen_core.datasets.decode import (
    Picture,
    check_same_size,
    open_picture,
    palette_of,
    read_files,
    read_headers,
)
from seggen_core.datasets.files import FileListing, brief, inside, list_files, normal
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader
from seggen_core.datasets.ids import check_not_inverted, colors_in_file
from seggen_core.datasets.sample import CHECK, RawSample, check_labelled
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

_MODES = ("1", "L", "P", "RGB")
_MARKS = "_-. "
_MAX_NAMED = 3


@dataclass(frozen=True)
class ClassNames:
    """What class files may be called, and which train id each name means."""

    train_ids: Mapping[str, int]

    @classmethod
    def of(cls, table: ClassTable) -> "ClassNames":
        """Take names, slugs and ids; ignored rows of the class list are called by their id."""
        names: dict[str, int] = {}
        for c, file_id in zip(table.taxonomy, table.ids, strict=True):
            for name in (str(file_id), c.slug, c.name):
                names.setdefault(_plain(name), c.train_id)
        listed = set(table.ignored_ids) - table.assumed_ids
        return cls({str(i): IGNORE_INDEX for i in listed} | names)

    def find(self, name: str) -> int | None:
        """Return the train id, IGNORE_INDEX for an ignored row, or None for no name of a class."""
        plain = _plain(name)
        return self.train_ids.get(plain.lstrip("0") or "0" if plain.isdecimal() else plain)

    def split(self, stem: str, *, pattern: ClassMasks) -> tuple[str, int] | None:
        """Split the path of a file without its suffix into a sample's name and a train id."""
        if pattern == "{class}/{name}":
            name_of_class, _, name = stem.partition("/")
        elif pattern == "{name}/{class}":
            name, _, name_of_class = stem.rpartition("/")
        else:
            return self._split_ending(stem)
        train_id = self.find(name_of_class)
        return None if train_id is None or not name else (name, train_id)

    def _split_ending(self, stem: str) -> tuple[str, int] | None:
        for i in range(1, len(stem)):
            if stem[i] in _MARKS and (train_id := self.find(stem[i + 1 :])) is not None:
                return stem[:i], train_id
        return None


def find_pattern(
    masks: Iterable[str], images: Iterable[str], *, names: ClassNames
) -> ClassMasks | None:
    """Return how masks are called, if they are one file a class.

    Args:
        masks: paths of the mask files without suffix, below the folder of the masks.
        images: likewise of the images; these are the samples' names.
        names: of the classes.

    Returns:
        The pattern that explains more than half of the files, with two classes or more; None if
        none does.
    """
    masks, images = list(masks), set(images)
    patterns: tuple[ClassMasks, ...] = ("{class}/{name}", "{name}/{class}", "{name}_{class}")
    for pattern in patterns:
        pairs = [pair for mask in masks if (pair := names.split(mask, pattern=pattern))]
        known = [train_id for name, train_id in pairs if name in images]
        if 2 * len(known) > len(masks) and len(set(known)) > 1:
            return pattern
    return None


def reader_pattern(
    config: DatasetConfig, *, table: ClassTable, files: SplitFiles, root: Path
) -> ClassMasks | None:
    """Return how the masks of a split are called, if they are one file a class.

    `config.class_masks` is taken if it is set; otherwise the training files are looked at.
    """
    if config.class_masks is not None:
        return config.class_masks
    assert files.images is not None, "a layout names the folder of the images"
    assert files.masks is not None, "a layout names the folder of the masks"
    images, masks = root / files.images, root / files.masks
    if files.mask_ending is not None or images == masks or not images.is_dir():
        return None
    if not masks.is_dir():
        return None
    form = {"kind": "file", "subfolders": "keyed"}
    stems = list_files(masks, suffixes=(".png",), **form).names
    shown = list_files(images, suffixes=(".jpg", ".jpeg", ".png"), **form).names
    if not stems.keys().isdisjoint(shown):
        return None
    return find_pattern(stems, shown, names=ClassNames.of(table))


class ClassMaskReader(IdMapReader):
    """Samples whose masks are one file a class."""

    def __init__(
        self,
        config: DatasetConfig,
        *,
        form: IdMapFormat,
        layout: Mapping[Split, SplitFiles],
        root: Path,
        seed: int,
        pattern: ClassMasks,
    ) -> None:
        """List the files; see `IdMapReader`.

        Args:
            config: as there; `background` and `class_overlaps` are used too.
            form: as there.
            layout: as there.
            root: as there.
            seed: as there.
            pattern: how the masks are called.

        Raises:
            ConfigError: `background` is no class of the list.
            DatasetError: a mask's name holds no class of the list, or as `IdMapReader`.
        """
        self._pattern, self._names = pattern, ClassNames.of(form.table)
        self._later_wins = config.class_overlaps == "later"
        self._background = IGNORE_INDEX
        if config.background is not None:
            train_id = self._names.find(config.background)
            if train_id is None:
                raise ConfigError(
                    f"dataset.background is {config.background!r}, which the class list doesn't "
                    f"have; expected one of {', '.join(form.table.taxonomy.slugs)}"
                )
            self._background = train_id
        form = replace(form, mask_modes=_MODES, finds_endings=False)
        super().__init__(config, form=form, layout=layout, root=root, seed=seed)
        self._notes.append(f"each class has masks of its own, called {pattern}")

    def _find_masks(
        self, files: SplitFiles, images: FileListing, *, mask_ending: str
    ) -> tuple[FileListing, str]:
        """Group the mask files by sample."""
        assert files.masks is not None, self._form.dataset
        listing, ending = super()._find_masks(files, images, mask_ending=mask_ending)
        by_name: dict[str, list[str]] = {}
        strange: list[str] = []
        for stem, names in listing.names.items():
            pair = self._names.split(stem, pattern=self._pattern)
            if pair is None:
                strange.append(stem)
                continue
            by_name.setdefault(pair[0], []).extend([names] if isinstance(names, str) else names)
        if strange:
            listed = ", ".join(brief(stem) for stem in strange[:_MAX_NAMED])
            raise DatasetError(
                f"{listing.folder} holds {len(strange)} mask(s) whose name has no class of the "
                f"class list ({listed}); expected {self._pattern}.png with a class of "
                f"{', '.join(self.taxonomy.slugs[:10])}: rename them, add the class to the list, "
                "or set dataset.class_masks"
            )
        return replace(listing, names={k: tuple(v) for k, v in by_name.items()}), ending

    def read(self, split: Split, key: str) -> RawSample:
        """Decode one sample and put its masks together."""
        files = self._files(split, key)
        decoded = read_files(files)
        height, width = decoded.image.shape[:2]
        merged = np.full((height, width), self._background, np.uint8)
        is_covered = np.zeros((height, width), bool)
        # In the order of the class list; an ignored row comes last.
        ordered = sorted((self._train_id(split, path), path) for path in self._masks(split, key))
        for train_id, path in ordered:
            where = _read_class_mask(path, like=files.mask, size=(width, height))
            if not self._later_wins and (where & is_covered).any():
                raise DatasetError(
                    f"{path} covers {int((where & is_covered).sum())} pixel(s) that another class "
                    "of the sample covers, too; expected one class a pixel: set "
                    "dataset.class_overlaps to later if the class that stands later in the class "
                    f"list is in front {CHECK}"
                )
            merged[where] = train_id
            is_covered |= where
        check_labelled(merged, where=f"{files.image}: its masks have")
        unlisted = 0.0 if self._background != IGNORE_INDEX else float(1 - is_covered.mean())
        return self._sample(key, files, decoded, merged, unlisted_share=unlisted)

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Check one sample's files by their headers and return (width, height)."""
        files = self._files(split, key)
        for path in self._masks(split, key)[1:]:
            read_headers(replace(files, mask=path))
        return read_headers(files)

    def _masks(self, split: Split, key: str) -> list[Path]:
        return [inside(path, root=self._root) for path in self._listings[split].masks.paths(key)]

    def _train_id(self, split: Split, path: Path) -> int:
        listing = self._listings[split].masks
        stem = normal(path.relative_to(listing.folder).with_suffix("").as_posix())
        pair = self._names.split(stem.removesuffix(listing.ending), pattern=self._pattern)
        assert pair is not None, "only files with a class are listed"
        return pair[1]

    def _mask(self, split: Split, key: str, *, image: Path) -> Path:
        """Return one of the masks, which stands for all of them."""
        masks = self._masks(split, key)
        if masks:
            return masks[0]
        raise DatasetError(
            f"{image} has no mask of any class; expected {self._pattern}.png in "
            f"{self._listings[split].masks.folder}: if the image shows none of the classes, add a "
            f"mask that is 0 everywhere {CHECK}"
        )


def _read_class_mask(path: Path, *, like: Picture, size: tuple[int, int]) -> np.ndarray:
    """Return where the class of a mask is, bool [H, W].

    Args:
        path: the file.
        like: another mask of the sample, which has to have the same size.
        size: (width, height) of the result: smaller than the file if the image is huge.

    Raises:
        DatasetError: it can't be read, has another size, or more values than 0 and one other.
    """
    with open_picture(path, modes=_MODES) as mask:
        mask.load()
    check_not_inverted(colors_in_file(np.asarray(mask), palette_of(mask)), path=path)
    with open_picture(like, modes=_MODES, header_only=True) as other:
        check_same_size(path, mask.size, like, other.size)
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.NEAREST)
    values = np.asarray(mask)
    if values.ndim == 3:
        if (values[..., :1] != values[..., 1:]).any():
            raise DatasetError(
                f"{path} has colours; expected the mask of one class: 0, and one other value "
                f"where the class is {CHECK}"
            )
        values = values[..., 0]
    levels = np.unique(values)
    if len(levels[levels != 0]) > 1:
        shown = ", ".join(map(str, levels[:6].tolist()))
        raise DatasetError(
            f"{path} has values {shown}{', ...' if len(levels) > 6 else ''}; expected the mask of "
            "one class: 0, and one other value where the class is. Soft edges have to be cut at a "
            f"threshold {CHECK}"
        )
    return values != 0


def _plain(name: str) -> str:
    """Write a name as it is compared: lower case, one kind of space."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
