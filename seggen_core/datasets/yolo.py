"""Ultralytics' YOLO segmentation, as Roboflow, CVAT and Ultralytics write it.

    root/data.yaml   root/train/images/*.jpg   root/train/labels/*.txt      (Roboflow)
    root/data.yaml   root/images/train/*.jpg   root/labels/train/*.txt      (Ultralytics, CVAT)

`names` of data.yaml are the classes. A line of a text file is a shape: the class's number and a
polygon, as shares of width and height. Lines of four numbers are boxes around objects. Larger
shapes lie below smaller ones, because the format has no order. An image on which nothing is has an
empty file.
Source: https://docs.ultralytics.com/datasets/segment/
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.annotated_files import (
    CLASS_FILES,
    SPLIT_NAMES,
    find_class_file,
    split_folder,
    split_places,
)
from seggen_core.datasets.annotated_images import ImagesWithFiles
from seggen_core.datasets.class_list import read_class_list
from seggen_core.datasets.files import (
    IMAGE_SUFFIXES,
    brief,
    cut,
    describe_folder,
    list_files,
    posix,
    read_key_list,
    read_text,
)
from seggen_core.datasets.sample import CHECK
from seggen_core.datasets.shape_classes import StatedClass, choose_shape_classes
from seggen_core.datasets.shape_reader import ShapeReader, Survey
from seggen_core.datasets.shapes import ImageShapes, Shape, box
from seggen_core.datasets.splits import published_splits
from seggen_core.errors import DatasetError

_EXPECTED = "Ultralytics' data.yaml with names, a list or a table by number"
_LINE = "expected lines of a class's number and a polygon x y x y ..., as shares of the sides"
_FILES = ("data.yaml", "data.yml", "dataset.yaml")
_MAX_BYTES = 1 << 20
_MAX_DEPTH, _MAX_VALUES = 16, 1 << 17
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_LABEL_BYTES = 1 << 24
"""Largest file of one image: 16 MiB."""


@dataclass(frozen=True)
class _YoloImages(ImagesWithFiles):
    """The images of one split, and the names of the classes by number."""

    names: tuple[str, ...]

    def shapes(self, key: str, *, size: tuple[int, int]) -> ImageShapes:
        """Parse the file of one image."""
        path, _ = self.file(key)
        shapes = []
        for position, (class_id, values) in enumerate(_lines(path), start=1):
            if not 0 <= class_id < len(self.names):
                raise DatasetError(
                    f"{path}, shape {position} has the class {class_id}; expected 0 to "
                    f"{len(self.names) - 1}, as data.yaml names them {CHECK}"
                )
            width, height = size
            if len(values) == 4:
                x, y, w, h = values
                outline = box((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
            else:
                outline = [v * (width, height)[i % 2] for i, v in enumerate(values)]
            order = -math.ceil(_area(outline))
            is_box = len(values) == 4
            shapes.append(Shape(self.names[class_id], outline, is_box=is_box, order=order))
        return ImageShapes(str(path), None, shapes)


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> ShapeReader:
    """Read data.yaml and the files of the splits; DatasetError where one is missing."""
    path = next((root / name for name in _FILES if (root / name).exists()), root / _FILES[0])
    tree = _read_yaml(path)
    names = _names(tree, path=path)
    class_file = find_class_file(config, root, CLASS_FILES)
    if class_file is not None:
        _check_ids(names, path=path, class_file=class_file)
    layout, notes = _layout(tree, path, config)
    splits = {
        split: _open_split(files, names=names, root=root)
        for split, files in split_places(config, layout).items()
    }
    classes = choose_shape_classes(
        [StatedClass(name) for name in names],
        stated_in=str(path),
        class_file=class_file,
        background=config.background,
    )
    classes = replace(classes, notes=(*classes.notes, *notes))
    return ShapeReader(config, splits=splits, classes=classes, root=root, seed=seed)


def _read_yaml(path: Path) -> dict[str, Any]:
    text = read_text(path, expected=_EXPECTED, max_bytes=_MAX_BYTES)
    try:
        _check_yaml(text)
        tree = yaml.load(text, Loader=_LOADER)  # noqa: S506 (both are safe)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path} is no YAML ({brief(reason)}); expected {_EXPECTED}") from None
    if not isinstance(tree, dict):
        raise DatasetError(f"{path} is no table of keys; expected {_EXPECTED}")
    if "kpt_shape" in tree:
        raise DatasetError(
            f"{path} has kpt_shape: its lines are boxes and key points of the task pose, which "
            "look like polygons; expected labels of the task segment"
        )
    return tree


def _check_yaml(text: str) -> None:
    """Raise ValueError where YAML repeats parts by name, nests deep or holds too much."""
    depth = 0
    for index, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _MAX_DEPTH or index > _MAX_VALUES:
            raise ValueError(
                f"it has aliases, nests more than {_MAX_DEPTH} deep or holds more than "
                f"{_MAX_VALUES} values"
            )


def _names(tree: dict[str, Any], *, path: Path) -> tuple[str, ...]:
    """Return the classes by number, and compare them with `nc`."""
    names = tree.get("names")
    if isinstance(names, dict) and list(names) == list(range(len(names))):
        names = list(names.values())
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or not names:
        raise DatasetError(
            f"{path} has names {brief(repr(names))}; expected {_EXPECTED} from 0 on, "
            "of text (in quotes where YAML reads another thing)"
        )
    if "nc" in tree and tree["nc"] != len(names):
        raise DatasetError(
            f"{path} has nc {brief(repr(tree['nc']))}, but {len(names)} names; expected the same"
        )
    return tuple(cut(str(name).strip()) for name in names)


def _check_ids(names: tuple[str, ...], *, path: Path, class_file: Path) -> None:
    """Compare the numbers that data.yaml and the class list give the classes."""
    for row in read_class_list(class_file).rows:
        if row.name in names and names.index(row.name) != row.file_id:
            raise DatasetError(
                f"{path} gives {row.name!r} the number {names.index(row.name)}, but {class_file} "
                f"the id {row.file_id}; expected the same"
            )


def _layout(
    tree: dict[str, Any], path: Path, config: DatasetConfig
) -> tuple[dict[Split, SplitFiles], list[str]]:
    """Find the folders of the splits that there are.

    Args:
        tree: what data.yaml holds.
        path: of data.yaml, in the root.
        config: `files` may say where a split is that data.yaml names in another way.

    Returns:
        The places, and notes on folders that data.yaml names and that aren't there.

    Raises:
        DatasetError: data.yaml gives a split several folders, or a list of images.
    """
    layout: dict[Split, SplitFiles] = {}
    notes: list[str] = []
    root = path.parent
    for split, names in SPLIT_NAMES.items():
        stated = _stated_folder(tree, split, path=path, is_named=split in config.files)
        above, below = split_folder(root, names), split_folder(root / "images", names)
        places = [f"{above}/images"] * (above is not None) + [f"images/{below}"] * bool(below)
        if stated is not None and not PurePosixPath(posix(stated)).is_absolute():
            parts = [part for part in PurePosixPath(posix(stated)).parts if part not in (".", "..")]
            places.insert(0, "/".join(parts))
        images = next((p for p in places if (root / p).is_dir()), None)
        is_there = stated is None or (images is not None and posix(stated).endswith(images))
        if not is_there and split in published_splits(config) and split not in config.files:
            notes.append(
                f"{path.name} names {brief(str(stated))} for {split}, which isn't there; "
                f"{f'{images} is read' if images else f'there is no {split} split'}"
            )
        if images is None:
            continue
        parts = list(PurePosixPath(images).parts)
        last = len(parts) - 1 - parts[::-1].index("images") if "images" in parts else None
        labels = [*parts[:last], "labels", *parts[last + 1 :]] if last is not None else parts
        layout[split] = SplitFiles(images=images, annotations="/".join(labels))
    return layout, notes


def _stated_folder(tree: dict[str, Any], split: Split, *, path: Path, is_named: bool) -> str | None:
    """Return the folder of images that data.yaml names for a split; None where it names none.

    Raises:
        DatasetError: it names several, or a list of images, and the user no files (`is_named`).
    """
    stated = tree.get(split, tree.get("valid") if split == "val" else None)
    if isinstance(stated, list) and len(stated) == 1:
        stated = stated[0]
    if stated is None or stated == "":
        return None
    if not isinstance(stated, str) or stated.lower().endswith(".txt"):
        if is_named:
            return None
        raise DatasetError(
            f"{path} names {brief(repr(stated))} for {split}; expected one folder of images: bring "
            "the images into one, or name the folders, and as keys a list of samples (one name a "
            f"line, without suffix), by dataset.files.{split}"
        )
    return stated


def _open_split(files: SplitFiles, *, names: tuple[str, ...], root: Path) -> _YoloImages:
    """List a split and count its shapes; files that can't be read are met again when read."""
    folder = root / (files.images or "images")
    images = list_files(folder, kind="image", suffixes=IMAGE_SUFFIXES, subfolders="keyed")
    label_folder = root / (files.annotations or "labels")
    listing = list_files(label_folder, kind="label file", suffixes=(".txt",), subfolders="keyed")
    if not images.names or not listing.names:
        raise DatasetError(
            f"{folder} holds {len(images.names)} images and {label_folder} {len(listing.names)} "
            f"text files; expected one a sample ({describe_folder(label_folder)})"
        )
    listed = read_key_list(root / files.keys) if files.keys else None
    labels: Counter[str] = Counter()
    empty = set()
    num_boxes = 0
    for key in listed or sorted(listing.names):
        try:
            lines = _lines(listing.only(key, root=root, counterpart=None))
        except DatasetError:  # it is reported with its sample
            continue
        labels.update(names[i] for i, _ in lines if 0 <= i < len(names))
        num_boxes += sum(len(values) == 4 for _, values in lines)
        if not lines:
            empty.add(key)
    survey = Survey(labels, num_boxes, Counter())
    return _YoloImages(images, listing, survey, frozenset(empty), listed, names)


def _lines(path: Path) -> list[tuple[int, list[float]]]:
    """Return the class and the coordinates of each shape of a file.

    Raises:
        DatasetError: it can't be read, or a line is no shape.
    """
    text = read_text(path, expected="a text file of YOLO's labels", max_bytes=_MAX_LABEL_BYTES)
    lines = []
    for line_number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            class_id, values = int(words[0]), [float(word) for word in words[1:]]
        except (ValueError, OverflowError):
            class_id, values = -1, []
        if not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
            raise DatasetError(
                f"{path}, line {line_number} is {brief(line[:80])!r}; {_LINE} {CHECK}"
            )
        if not all(-1 <= v <= 2 for v in values):
            raise DatasetError(
                f"{path}, line {line_number} has a coordinate that is no share of the image's side "
                f"(0 to 1); {_LINE} {CHECK}"
            )
        lines.append((class_id, values))
    return lines


def _area(outline: list[float]) -> float:
    """Return the area of a polygon, in pixels (shoelace formula)."""
    points = list(zip(outline[::2], outline[1::2], strict=True))
    following = [*points[1:], points[0]]
    return abs(sum(a * d - b * c for (a, b), (c, d) in zip(points, following, strict=True))) / 2
