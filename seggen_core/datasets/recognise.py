"""Which reader a folder is laid out for, from the names of its files and folders."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from seggen_core.datasets.annotated_files import SPLIT_NAMES
from seggen_core.datasets.files import describe_folder
from seggen_core.errors import DatasetError

_MAX_LOOKED_AT = 1000
"""Files and folders that are looked at; a layout shows in the first ones."""

_SPLITS = [n for names in SPLIT_NAMES.values() for name in names for n in (name, name.capitalize())]


def recognise_dataset(root: Path) -> str:
    """Return the name of the only reader that a folder is laid out for.

    Raises:
        DatasetError: it is laid out for none, or for several.
    """
    if not root.is_dir():
        raise DatasetError(
            f"{root} is not a folder; expected a dataset there ({describe_folder(root)})"
        )
    fitting = [name for name, test in _TESTS.items() if test(root)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise DatasetError(
            f"{root} is laid out for no reader ({describe_folder(root)}); expected the unpacked "
            f"export of a tool, or images/ and masks/: name the reader by --dataset "
            f"({', '.join(_TESTS)}; docs/datasets.md draws the layouts)"
        )
    raise DatasetError(
        f"{root} is laid out for {' and for '.join(fitting)}; expected one: name it by --dataset"
    )


def _has(root: Path, *patterns: str) -> bool:
    """Return whether a file or folder of one of the patterns is there."""
    return any(next(root.glob(pattern), None) is not None for pattern in patterns)


def _in_splits(*names: str) -> tuple[str, ...]:
    return (*names, *(f"{split}/{name}" for split in _SPLITS for name in names))


def _starts_with(path: Path, start: str) -> bool:
    """Return whether a text file's first character, behind space, is `start`."""
    try:
        if not path.is_file():
            return False
        with path.open(encoding="utf-8-sig") as file:
            return file.read(1000).lstrip()[:1] == start
    except (OSError, UnicodeDecodeError):
        return False


def _is_labelme(root: Path) -> bool:
    files = islice(root.rglob("*"), _MAX_LOOKED_AT)
    for path in files:
        if path.suffix == ".json" and _starts_with(path, "{"):
            try:
                with path.open(encoding="utf-8", errors="replace") as file:
                    start = file.read(4000)
            except OSError:
                return False
            beside = [path.with_suffix(s) for s in (".jpg", ".jpeg", ".png", ".JPG", ".PNG")]
            if '"shapes"' in start and any(p.exists() for p in beside):
                return True
    return False


def _is_label_studio(root: Path) -> bool:
    return any(
        _starts_with(path, "[") and path.name != "classes.json" for path in root.glob("*.json")
    )


def _is_folder(root: Path) -> bool:
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return True
    if any(_has(root, f"{n}/images") and _has(root, f"{n}/masks") for n in SPLIT_NAMES["train"]):
        return True
    return _has(root, *(f"{split}/_classes.csv" for split in _SPLITS))


_COCO = (
    "annotations/instances_*.json",
    *(f"{split}/_annotations.coco.json" for split in _SPLITS),
    "result.json",
)
_PANOPTIC = "annotations/panoptic_*.json"

_TESTS: dict[str, Callable[[Path], bool]] = {
    "ade20k": lambda root: _has(root, "images/training") and _has(root, "annotations/training"),
    "camvid": lambda root: _has(root, "trainannot"),
    "cityscapes": lambda root: _has(root, "leftImg8bit"),
    "coco_instance": lambda root: (
        _has(root, *_COCO) and not _is_label_studio(root) and not _has(root, _PANOPTIC)
    ),
    "coco_panoptic": lambda root: _has(root, _PANOPTIC),
    "coco_stuff": lambda root: _has(root, "stuffthingmaps*"),
    "cvat": lambda root: _has(root, *_in_splits("annotations.xml")),
    "folder": _is_folder,
    "huggingface": lambda root: _has(root, "*.parquet", "data/*.parquet", "*/*/*.parquet"),
    "label_studio": _is_label_studio,
    "labelme": _is_labelme,
    "mapillary": lambda root: _has(root, "training/images") and not _has(root, "training/masks"),
    "voc": lambda root: (
        _has(root, "JPEGImages") and _has(root, "labelmap.txt", "class_names.txt", "classes.*")
    ),
    "voc2012": lambda root: (
        _has(root, "JPEGImages", "VOC2012/JPEGImages", "VOCdevkit/VOC2012/JPEGImages")
        and not _has(root, "labelmap.txt", "class_names.txt", "classes.*")
    ),
    "yolo": lambda root: _has(root, "data.yaml", "data.yml", "dataset.yaml"),
}
