"""How samples, images and annotations find one another in the exports of annotation tools."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.files import FileListing, brief, describe_folder, normal, posix
from seggen_core.datasets.sample import CHECK
from seggen_core.datasets.splits import places, published_splits
from seggen_core.errors import DatasetError

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""What tools call the splits, in lower case."""

CLASS_FILES = (
    "classes.json",
    "classes.csv",
    "class_names.txt",
    "labels.txt",
)
"""Class lists that are found beside annotations without being named."""

Place = TypeVar("Place", bound=Hashable)


class NamedImages(Generic[Place]):
    """The entries of an annotation file, each with the image that it names.

    A sample's key is the path of its image below the folder of images, without suffix; that of an
    entry without an image is the name that the entry has.
    """

    def __init__(
        self,
        entries: Sequence[tuple[str, Place]],
        *,
        images: FileListing,
        listed_in: Path,
        may_drop: Callable[[str], str] = lambda name: name,
    ) -> None:
        """Match entries and images.

        Args:
            entries: name of the image, and place in the file, of each entry.
            images: the folder, listed with all folders below it.
            listed_in: the annotation file, for messages.
            may_drop: from a name to what it is called where it isn't found under its own.
        """
        self._images, self._listed_in = images, listed_in
        by_stem: dict[str, list[str]] = {}
        for key in images.names:
            by_stem.setdefault(key.rpartition("/")[2], []).append(key)
        self._entries: dict[str, list[tuple[str, Place]]] = {}
        for name, place in entries:
            key, matched_name = self._match(name, by_stem)
            if key not in images:
                key, matched_name = self._match(may_drop(name), by_stem)
            self._entries.setdefault(key, []).append((matched_name, place))

    def _match(self, name: str, by_stem: Mapping[str, Sequence[str]]) -> tuple[str, str]:
        """Return the key of the image that a name means, and the name."""
        path = PurePosixPath(normal(posix(name)))
        key = path.with_suffix("").as_posix() if path.name else normal(name)
        if key in self._images:
            return key, name
        candidates = by_stem.get(key.rpartition("/")[2], [])
        ends = [c for c in candidates if f"/{c}".endswith(f"/{key}")]
        starts = [c for c in candidates if f"/{key}".endswith(f"/{c}")]
        for matches in (ends, starts):
            if len(matches) == 1:
                return matches[0], name
        return key, name

    @property
    def keys(self) -> list[str]:
        """Keys of all images and entries, sorted."""
        return sorted(self._entries.keys() | self._images.names.keys())

    @property
    def entry_keys(self) -> list[str]:
        """Keys of the entries alone, sorted."""
        return sorted(self._entries)

    def entry(self, key: str) -> tuple[str, Place]:
        """Return name and place of the entry of a sample.

        Raises:
            DatasetError: there is none, or several.
        """
        entries = self._entries.get(key, [])
        if not entries:
            image = next(iter(self._images.paths(key)), key)
            raise DatasetError(
                f"{brief(image)} has no annotation; expected an entry for it in {self._listed_in}: "
                f"annotate it, or list the samples to use (dataset.files, keys) {CHECK}"
            )
        if len(entries) > 1:
            names = brief(", ".join(name for name, _ in entries))
            raise DatasetError(
                f"{self._listed_in} has {len(entries)} images called {brief(key)} ({names}); "
                f"expected one: remove the others {CHECK}"
            )
        return entries[0]

    def image(self, key: str, *, root: Path) -> Path:
        """Return the image of a sample; DatasetError where it is missing, doubled or another."""
        path = self._images.only(key, root=root, counterpart=None)
        for name, _ in self._entries.get(key, [])[:1]:
            if PurePosixPath(normal(posix(name))).name != normal(path.name):
                raise DatasetError(
                    f"{self._listed_in} names {brief(name)}, but the image found is {path}; "
                    f"expected the same file: correct the name {CHECK}"
                )
        return path

    def has_entry(self, key: str) -> bool:
        """Return whether exactly one entry speaks of a sample."""
        return len(self._entries.get(key, ())) == 1


def split_places(
    config: DatasetConfig, layout: Mapping[Split, SplitFiles]
) -> dict[Split, SplitFiles]:
    """Return where the files of the splits are that are there and needed, train among them.

    Raises:
        DatasetError: there is no train split.
    """
    present = {
        split: places(config, split=split, layout=layout)
        for split in published_splits(config)
        if split in layout or split in config.files
    }
    if "train" not in present:
        raise DatasetError(
            f"{config.name} has no train split in {config.root} (found: "
            f"{', '.join(layout) or 'none'}); expected one: name its files in dataset.files"
        )
    return present


def split_folder(above: Path, names: Sequence[str]) -> str | None:
    """Return the name that a split's folder has, in any case; DatasetError where it has two."""
    below = sorted(above.glob("*"))
    present = [path.name for path in below if path.name.lower() in names and path.is_dir()]
    if len(present) > 1:
        raise DatasetError(
            f"{above} holds {' and '.join(present)}; expected one folder a split: rename the other"
        )
    return present[0] if present else None


def check_has_train(
    config: DatasetConfig, present: Mapping[Split, str | None], *, where: Path, kind: str
) -> None:
    """Raise DatasetError where other splits are there, and train isn't and isn't named.

    What lies beside them could be train, or samples of none.

    Args:
        config: `files` may name train.
        present: what each split is called; None where it isn't there.
        where: the folder that they are in.
        kind: what each is ("folder").
    """
    others = [name for name in present.values() if name is not None]
    if others and present.get("train") is None and "train" not in config.files:
        raise DatasetError(
            f"{where} has {' and '.join(others)}, but no {kind} for train "
            f"({describe_folder(where)}); expected train, too: add it, or name what is train by "
            "dataset.files.train"
        )


def split_of_name(name: str) -> Split | None:
    """Return the split that a tool's name for it means; None if it means none."""
    return next((s for s, names in SPLIT_NAMES.items() if name.lower() in names), None)


def find_class_file(config: DatasetConfig, root: Path, names: Sequence[str]) -> Path | None:
    """Return the class list that is named, or the only one that lies there."""
    if config.classes_file is not None:
        return root / config.classes_file
    present = [root / name for name in names if (root / name).exists()]
    if len(present) > 1:
        raise DatasetError(
            f"{root} has {' and '.join(p.name for p in present)}; expected one class list: set "
            "dataset.classes_file"
        )
    return present[0] if present else None
