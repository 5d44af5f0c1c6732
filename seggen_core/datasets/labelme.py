"""labelme's JSON files, one beside each image.

    root/**/*.jpg   root/**/*.json   (or in root/train, root/val and root/test)

Polygons, rectangles, circles, oriented rectangles and masks are painted in the order of the file;
points, lines and strips have no area. Shapes of one label and group_id are one instance.
`__ignore__` is ignored. The classes are those of the class list (labelme's labels.txt, if it lies
in the root), else all labels of all files, sorted.
Source: labelme's `_label_file.py` and `utils/shape.py` (wkentaro/labelme, version 6)
"""

import base64
import binascii
import io
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.annotated_files import (
    CLASS_FILES,
    SPLIT_NAMES,
    check_has_train,
    find_class_file,
    split_folder,
    split_of_name,
    split_places,
)
from seggen_core.datasets.annotated_images import ImagesWithFiles
from seggen_core.datasets.files import (
    IMAGE_SUFFIXES,
    brief,
    cut,
    describe_folder,
    list_files,
    normal,
    read_key_list,
    read_text,
)
from seggen_core.datasets.sample import CHECK
from seggen_core.datasets.shape_classes import StatedClass, choose_shape_classes
from seggen_core.datasets.shape_reader import ShapeReader, Survey
from seggen_core.datasets.shapes import ImageShapes, Patch, Shape, box, check_patch, ellipse
from seggen_core.datasets.strict_json import parse_json
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import is_fit_name

_EXPECTED = "a JSON file of labelme: {imagePath, imageWidth, imageHeight, shapes: [...]}"
_AREAS = ("polygon", "rectangle", "circle", "oriented_rectangle", "mask")
_MAX_SIDE = 1 << 31


class _LabelmeImages(ImagesWithFiles):
    """The images of one split."""

    def shapes(self, key: str, *, size: tuple[int, int]) -> ImageShapes:  # noqa: ARG002 (the interface's)
        """Parse the file of one image."""
        path, image = self.file(key)
        tree = _read(path)
        named = PureWindowsPath(str(tree.get("imagePath", ""))).name
        if image is not None and named and normal(named) != normal(image.name):
            raise DatasetError(
                f"{path} is about {brief(named)}, but the image beside it is {image.name}; "
                f"expected the same: correct imagePath, or rename one of them {CHECK}"
            )
        width, height = tree.get("imageWidth"), tree.get("imageHeight")
        if not all(isinstance(n, int) and 0 < n < _MAX_SIDE for n in (width, height)):
            raise DatasetError(f"{path} doesn't give the image's size; expected {_EXPECTED}")
        assert isinstance(width, int)
        assert isinstance(height, int)
        return ImageShapes(str(path), (width, height), _shapes(tree, path, size=(width, height)))


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> ShapeReader:
    """Go through the files of the splits; DatasetError where a folder is missing."""
    layout, notes = _layout(config, root)
    splits = {
        split: _open_split(files, root=root)
        for split, files in split_places(config, layout).items()
    }
    labels = {label for split in splits.values() for label in split.survey.labels}
    classes = choose_shape_classes(
        [StatedClass(label) for label in sorted(labels)],
        stated_in=f"the shapes in {root}",
        class_file=find_class_file(config, root, CLASS_FILES),
        background=config.background,
    )
    classes = replace(classes, notes=(*classes.notes, *notes))
    return ShapeReader(config, splits=splits, classes=classes, root=root, seed=seed)


def _layout(config: DatasetConfig, root: Path) -> tuple[dict[Split, SplitFiles], list[str]]:
    """Find the folders of the splits that there are; return notes on files that are in none."""
    folders = {split: split_folder(root, names) for split, names in SPLIT_NAMES.items()}
    check_has_train(config, folders, where=root, kind="folder")
    layout = {s: SplitFiles(images=name) for s, name in folders.items() if name is not None}
    if layout:
        present = {name for name in folders.values() if name is not None}
        loose = [
            path
            for path in sorted(root.glob("*"))
            if path.name not in (*present, *CLASS_FILES)
            and path.name[0] != "."
            and (path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES)
        ]
        named = brief(", ".join(path.name for path in loose))
        return layout, [f"{named} in {root.name} are in no split and aren't read"] if loose else []
    below = [p for p in root.glob("*/*") if p.is_dir() and split_of_name(p.name) is not None]
    if below and "train" not in config.files:
        raise DatasetError(
            f"{root} has no folder of a split, but {' and '.join(map(str, sorted(below)[:3]))} "
            "are called as splits; expected them in the root: set dataset.root to the folder that "
            "holds them, or name them by dataset.files"
        )
    return {"train": SplitFiles(images=".")}, []


def _open_split(files: SplitFiles, *, root: Path) -> _LabelmeImages:
    """List a split and count its shapes; files that can't be read are met again when read."""
    folder = root / (files.images or ".")
    json_folder = root / files.annotations if files.annotations else folder
    images = list_files(folder, kind="image", suffixes=IMAGE_SUFFIXES, subfolders="keyed")
    listing = list_files(json_folder, kind="annotation", suffixes=(".json",), subfolders="keyed")
    if json_folder == root:  # the class list isn't about an image
        for name in CLASS_FILES:
            listing.names.pop(name.rpartition(".")[0], None) if name.endswith(".json") else None
    if not images.names or not listing.names:
        raise DatasetError(
            f"{folder} holds {len(images.names)} images and {json_folder} {len(listing.names)} "
            f"files of labelme; expected *.json beside the images ({describe_folder(folder)})"
        )
    listed = read_key_list(root / files.keys) if files.keys else None
    labels: Counter[str] = Counter()
    others: Counter[str] = Counter()
    empty = set()
    num_boxes = 0
    for key in listed or sorted(listing.names):
        try:
            path = listing.only(key, root=root, counterpart=None)
            areas, rest = _split_shapes(_read(path), path)
        except DatasetError:  # it is reported with its sample
            continue
        stated = [str(shape.get("label"))[:300] for shape in areas]
        labels.update(label for label in stated if is_fit_name(label))
        others.update(str(shape.get("shape_type"))[:20] for shape in rest)
        num_boxes += sum(shape.get("shape_type") == "rectangle" for shape in areas)
        if not areas:
            empty.add(key)
    survey = Survey(labels, num_boxes, others)
    return _LabelmeImages(images, listing, survey, frozenset(empty), listed)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = parse_json(read_text(path, expected=_EXPECTED))
    except ValueError as error:
        raise DatasetError(
            f"{path} is not valid JSON: {error}; expected {_EXPECTED} {CHECK}"
        ) from None
    if not isinstance(tree, dict) or not isinstance(tree.get("shapes"), list):
        raise DatasetError(f"{path} has no list of shapes; expected {_EXPECTED} {CHECK}")
    return tree


def _split_shapes(tree: dict[str, Any], path: Path) -> tuple[list[dict], list[dict]]:
    """Return the shapes that cover an area, and the others."""
    shapes = tree["shapes"]
    if not all(isinstance(shape, dict) for shape in shapes):
        raise DatasetError(f"{path} has a shape that is no object; expected {_EXPECTED} {CHECK}")
    areas = [s for s in shapes if (s.get("shape_type") or "polygon") in _AREAS]
    return areas, [s for s in shapes if (s.get("shape_type") or "polygon") not in _AREAS]


def _shapes(tree: dict[str, Any], path: Path, *, size: tuple[int, int]) -> list[Shape]:
    """Return the areas of a file.

    Raises:
        DatasetError: one isn't as labelme writes it.
    """
    shapes = []
    for position, shape in enumerate(_split_shapes(tree, path)[0], start=1):
        kind, group = shape.get("shape_type") or "polygon", shape.get("group_id")
        try:
            outline = _outline(shape, kind=kind, size=size)
            if not isinstance(shape["label"], str):
                raise TypeError("its label is no text")
            if not is_fit_name(shape["label"]):
                raise ValueError(f"its label is {brief(ascii(shape['label']))}, which is no name")
        except (KeyError, TypeError, ValueError, OverflowError, DatasetError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else f": {brief(error)}"
            raise DatasetError(
                f"{path}, shape {position} ({kind}) {what}; expected a shape as labelme writes it "
                f"{CHECK}"
            ) from None
        is_box = kind == "rectangle"
        shapes.append(
            Shape(shape["label"][:300], outline, None if group is None else cut(str(group)), is_box)
        )
    return shapes


def _outline(shape: dict[str, Any], *, kind: str, size: tuple[int, int]) -> list[float] | Patch:
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if kind in ("polygon", "oriented_rectangle"):
        return [value for point in points for value in point]
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return box(min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0))
    if kind == "circle":
        radius = math.hypot(x1 - x0, y1 - y0)
        return ellipse(x0, y0, radius, radius)
    left, top = int(x0), int(y0)
    width, height = int(x1) - left + 1, int(y1) - top + 1
    check_patch(left, top, width, height, size=size)
    return Patch(left, top, _mask(shape["mask"], width=width, height=height))


def _mask(text: str, *, width: int, height: int) -> np.ndarray:
    """Decode a mask, a PNG file in base 64; bool [height, width]."""
    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.size != (width, height) or picture.mode not in ("L", "1", "P"):
                raise ValueError(
                    f"its mask is {picture.width}x{picture.height} ({picture.mode}); expected "
                    f"{width}x{height} in grey, as its points say"
                )
            return np.asarray(picture) > 0
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError) as error:
        raise ValueError(f"its mask is no PNG file in base 64 ({brief(error)})") from None
