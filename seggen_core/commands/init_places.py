"""Where the user's images and masks are, for `seggen init --images DIR --masks DIR`."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seggen_core.datasets.reader import DatasetReader
    from seggen_core.project.paths import ProjectPaths

_NUM_TRIED = 32
"""Training samples that are read before anything is written."""

Places = dict[str, dict[str, str]]
"""The folders of images and of masks of each split, relative to the root."""


def places_of_own_data(
    images: Path, masks: Path, *, paths: "ProjectPaths", stated: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of the section `dataset` for a folder of images and one of masks.

    Splits are folders in both, perhaps under different names of the split ("valid" and "val");
    without any, all samples are train. Where there is no class list in the folder that holds both,
    the values that the masks hold are the classes.

    Args:
        images, masks: the folders.
        paths: the project.
        stated: keys of the section that the user sets.

    Returns:
        The keys, and notes on what is there and isn't read.

    Raises:
        ConfigError: the two lie in folders that have only a folder of the system in common.
        DatasetError: a folder is missing, a split has images or masks alone, there are no masks, or
            these hold no classes.
    """
    from seggen_core.datasets.files import describe_folder
    from seggen_core.datasets.folder import CLASS_FILES
    from seggen_core.errors import ConfigError, DatasetError

    images, masks = images.resolve(), masks.resolve()
    for folder in (images, masks):
        if not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder ({describe_folder(folder)})")
    root = next(p for p in (images, *images.parents) if masks.is_relative_to(p))
    if len(root.parts) < 3 or root in (Path.home(), paths.root.resolve()):
        raise ConfigError(
            f"{images} and {masks} have only {root} in common, and DVC would watch all of it; "
            "expected both in one folder of the dataset: move them there"
        )
    files, notes = _split_places({"images": images, "masks": masks}, root=root)
    settings: dict[str, Any] = {"name": "folder", "root": root, "files": files}
    has_test, has_val = "test" in files, "val" in files
    settings["splits"] = (
        ("published" if has_val else "val_from_train")
        if has_test
        else ("val_as_test" if has_val else "all_from_train")
    )
    if not {"classes_file", "class_list"} & set(stated) and not any(
        (root / name).exists() for name in CLASS_FILES
    ):
        settings["class_list"] = _scanned_classes(files, root=root, is_one=images == masks)
        notes += [
            f"{path.name} isn't read; if it lists the classes: --set classes_file={path.name}"
            for path in sorted(root.glob("*"))
            if path.suffix in (".txt", ".csv", ".json") and ("class" in path.stem.lower())
        ]
    return settings, notes


def _split_places(folders: Mapping[str, Path], *, root: Path) -> tuple[Places, list[str]]:
    """Pair the folders of splits of images and masks.

    Args:
        folders: of images ("images") and masks ("masks").
        root: of the dataset.

    Returns:
        The places of each split, and notes on what isn't read.

    Raises:
        DatasetError: a split has one of the two alone, or there are splits without train.
    """
    from seggen_core.datasets.annotated_files import SPLIT_NAMES, split_folder
    from seggen_core.datasets.files import IMAGE_SUFFIXES, describe_folder
    from seggen_core.errors import DatasetError

    where = {kind: folder.relative_to(root).as_posix() for kind, folder in folders.items()}
    files: Places = {}
    notes: list[str] = []
    for split, names in SPLIT_NAMES.items():
        names_in = {kind: split_folder(folder, names) for kind, folder in folders.items()}
        if None not in names_in.values():
            files[split] = {kind: f"{where[kind]}/{name}" for kind, name in names_in.items()}
        elif names_in["images"] and split == "test":  # published without masks, as is usual
            notes.append(f"{folders['images'] / names_in['images']} has no masks and isn't read")
        elif any(names_in.values()):
            kind = "images" if names_in["images"] else "masks"
            other = folders["masks" if names_in["images"] else "images"]
            raise DatasetError(
                f"{folders[kind] / str(names_in[kind])} has no counterpart in {other} "
                f"({describe_folder(other)}); expected a folder of the split in both: "
                f"{', '.join(names)}"
            )
    if not files and not notes:
        return {"train": where}, _unknown_folders(folders["images"])
    if "train" not in files:
        raise DatasetError(
            f"{folders['images']} has folders of splits and none for train "
            f"({describe_folder(folders['images'])}); expected train, too: move the other images "
            "and their masks into a folder train of each"
        )
    for kind, folder in folders.items():
        read = {place[kind].rpartition("/")[2] for place in files.values()}
        ours = {name for names in SPLIT_NAMES.values() for name in names}
        beside = [
            p
            for p in folder.iterdir()
            if p.name not in read and p.name.lower() not in ours and p.name[0] != "."
        ]
        unread = [p for p in beside if p.is_dir() or p.suffix.lower() in IMAGE_SUFFIXES]
        if unread:
            notes.append(f"{folder} holds {len(unread)} more beside the splits, which isn't read")
    return files, notes


def _unknown_folders(images: Path) -> list[str]:
    """Return a note on folders among the images, which might be meant for splits."""
    below = sorted(p.name for p in images.iterdir() if p.is_dir() and p.name[0] != ".")
    if not below:
        return []
    named = ", ".join(below[:5]) + (", ..." if len(below) > 5 else "")
    return [
        f"the folders in {images} ({named}) are called as no split (train, val, test), so all "
        "images are one set, of which val and test are drawn"
    ]


def _scanned_classes(files: Places, *, root: Path, is_one: bool) -> list[dict[str, Any]]:
    """Return a class list of the values in the masks of all splits.

    Args:
        files: the folders of each split.
        root: of the dataset.
        is_one: whether images lie among the masks; masks have "mask" in their names then.

    Raises:
        DatasetError: there are no masks, or they hold no classes.
    """
    from seggen_core.datasets.files import MASK_SUFFIXES, describe_folder, list_files
    from seggen_core.datasets.scan_masks import scan_classes
    from seggen_core.errors import DatasetError

    mask_paths: list[Path] = []
    for place in files.values():
        masks = root / place["masks"]
        listing = list_files(masks, kind="mask", suffixes=MASK_SUFFIXES, subfolders="keyed")
        paths = [path for key in sorted(listing.names) for path in listing.paths(key)]
        if is_one:
            paths = [path for path in paths if "mask" in path.stem]
        if not paths:
            raise DatasetError(f"{masks} holds no masks; expected *.png ({describe_folder(masks)})")
        mask_paths += paths
    return scan_classes(mask_paths)


def read_some(reader: "DatasetReader", *, settings: Mapping[str, Any]) -> None:
    """Read training samples until one is sound; DatasetError if none of `_NUM_TRIED` is."""
    from seggen_core.errors import DatasetError

    keys = reader.keys("train")
    keys = keys[:: max(1, len(keys) // _NUM_TRIED)][:_NUM_TRIED]
    faults: list[DatasetError] = []
    for key in keys:
        try:
            reader.read("train", key)
        except DatasetError as error:
            faults.append(error)
        else:
            return
    more = (
        "\nif each class has masks of its own, list the classes in a file (classes.csv)"
        if "class_list" in settings and "is no suffix" not in str(faults[0])
        else ""
    )
    raise DatasetError(
        f"none of {len(faults)} training samples that were tried can be read; the first: "
        f"{faults[0]}{more}"
    )


def written_path(path: Path, *, paths: "ProjectPaths") -> str:
    """Return a path as params.yaml names it: relative to the project where it lies in it."""
    path, base = path.resolve(), paths.root.resolve()
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()
