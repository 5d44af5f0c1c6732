"""Label Studio's export as JSON (not JSON-MIN), and the images that it is about.

    root/*.json   root/images/**   (or train.json, val.json and test.json in the root)

A task names its image by a path of the server: the file has the same name, with or without the
eight hexadecimal digits that an upload puts in front. Polygons, rectangles, ellipses and masks of
the brush are painted in the order of the file; key points and others have no area. A task has one
annotation that wasn't cancelled, or one that is the ground truth. Predictions aren't read. The
classes are those of the class list, else all labels, sorted.
Source: https://labelstud.io/guide/export (JSON), and the run lengths of the package rle-pack (npm)
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.annotated_files import (
    CLASS_FILES,
    SPLIT_NAMES,
    NamedImages,
    find_class_file,
    split_folder,
    split_places,
)
from seggen_core.datasets.annotated_images import ImagesOfOneFile
from seggen_core.datasets.decode import MAX_PIXELS
from seggen_core.datasets.files import (
    IMAGE_SUFFIXES,
    MAX_SAMPLES,
    brief,
    describe_folder,
    list_files,
    posix,
    read_key_list,
)
from seggen_core.datasets.json_stream import read_elements, stream_list
from seggen_core.datasets.rle_pack import decode_rle_pack
from seggen_core.datasets.sample import CHECK
from seggen_core.datasets.shape_classes import StatedClass, choose_shape_classes
from seggen_core.datasets.shape_reader import ShapeReader, Survey
from seggen_core.datasets.shapes import ImageShapes, Patch, Shape, box, ellipse
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import is_fit_name

_EXPECTED = "expected Label Studio's export as JSON: a list of tasks with data and annotations"
_AREAS = {
    "polygonlabels": "polygonlabels",
    "rectanglelabels": "rectanglelabels",
    "ellipselabels": "ellipselabels",
    "brushlabels": "brushlabels",
}
_UNREAD_AREAS = frozenset(
    {"labels", "bitmasklabels", "polygon", "rectangle", "ellipse", "brush", "bitmask"}
)
"""Regions that cover an area and are written in another way, or have their label elsewhere."""

_UPLOAD = re.compile("[0-9a-f]{8}-(.+)")
_MAX_SIDE = 1 << 31


class _Task(NamedTuple):
    """Where the file speaks of an image."""

    start: int
    """Byte where it starts."""
    length: int
    """Its number of bytes."""
    is_empty: bool
    """Whether nothing was drawn on the image."""


class _LabelStudioImages(ImagesOfOneFile[_Task]):
    """The images of one split."""

    def is_empty(self, key: str) -> bool:
        """Return whether somebody looked at an image and drew nothing."""
        return self.images.has_entry(key) and self.images.entry(key)[1].is_empty

    def shapes(self, key: str, *, size: tuple[int, int]) -> ImageShapes:
        """Parse what was drawn on one image."""
        name, task = self.images.entry(key)
        where = f"{self.path}, task of {brief(name)}"
        (tree,) = read_elements(self.path, spans=[(task.start, task.length)])
        try:
            results, _ = _areas(_annotation(tree))
            sizes = {_size(result) for result in results}
            if len(sizes) > 1:
                raise ValueError(f"its regions are of images of {len(sizes)} sizes")
            listed = next(iter(sizes), size)
            if listed not in (size, size[::-1]):  # the reader says so
                return ImageShapes(where, listed, [])
            shapes = [_shape(result, size=listed) for result in results]
        except (KeyError, TypeError, ValueError, OverflowError, DatasetError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else f": {brief(error)}"
            raise DatasetError(f"{where} {what}; {_EXPECTED} {CHECK}") from None
        return ImageShapes(where, listed, shapes)


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> ShapeReader:
    """Index the splits; DatasetError where a file or folder is missing."""
    faults: list[str] = []
    splits = {
        split: _open_split(files, root=root, faults=faults)
        for split, files in split_places(config, _layout(config, root)).items()
    }
    labels = {label for split in splits.values() for label in split.survey.labels}
    if faults and not labels:
        raise DatasetError(f"no task in {root} can be read; {faults[0]}; {_EXPECTED}")
    classes = choose_shape_classes(
        [StatedClass(label) for label in sorted(labels)],
        stated_in=f"the regions in {root}",
        class_file=find_class_file(config, root, CLASS_FILES),
        background=config.background,
    )
    return ShapeReader(config, splits=splits, classes=classes, root=root, seed=seed)


def _layout(config: DatasetConfig, root: Path) -> dict[Split, SplitFiles]:
    layout: dict[Split, SplitFiles] = {}
    stems = {path.stem.lower(): path.stem for path in sorted(root.glob("*.json"))}
    for split, names in SPLIT_NAMES.items():
        name = next((stems[n] for n in names if n in stems), None)
        if name is not None:
            above, below = split_folder(root, names), split_folder(root / "images", names)
            folders = (f"images/{name}", f"images/{below}", str(above))
            folder = next((f for f in folders if (root / f).is_dir()), "images")
            layout[split] = SplitFiles(images=folder, annotations=f"{name}.json")
    if "train" in layout or config.files.get("train", SplitFiles()).annotations:
        return layout
    files = sorted(p.name for p in root.glob("*.json") if p.name not in CLASS_FILES)
    if len(files) != 1:
        raise DatasetError(
            f"{root} has {len(files)} JSON files{': ' if files else ''}{brief(', '.join(files))}; "
            "expected Label Studio's export alone: set dataset.files.train.annotations to it "
            f"({describe_folder(root)})"
        )
    images = "images" if (root / "images").is_dir() else "."
    return {"train": SplitFiles(images=images, annotations=files[0])}


def _open_split(files: SplitFiles, *, root: Path, faults: list[str]) -> _LabelStudioImages:
    """Go through a file once and match its tasks with images; `faults` gets the first fault."""
    if files.annotations is None:
        raise DatasetError(
            f"dataset.files names a split that {root} doesn't have, and no annotations of it; "
            "expected its JSON file, too: dataset.files.<split>.annotations "
            f"({describe_folder(root)})"
        )
    path = root / files.annotations
    entries: list[tuple[str, _Task]] = []
    labels: Counter[str] = Counter()
    others: Counter[str] = Counter()
    num_boxes = 0
    for element in stream_list(path, expected=_EXPECTED):
        if len(entries) == MAX_SAMPLES:
            raise DatasetError(f"{path} has more than {MAX_SAMPLES} tasks; expected fewer")
        names = _image_names(element.value)
        if len(names) != 1:
            what = f"several images ({brief(', '.join(names))})" if names else "no image"
            raise DatasetError(
                f"{path}, byte {element.start}: a task names {what}; {_EXPECTED}, with an image in "
                'data, called "image" if there are several (the export called JSON, not JSON-MIN)'
            )
        is_empty = False
        try:
            results, rest = _areas(_annotation(element.value))
            is_empty = not results
            labels.update(label for result in results for label in _labels(result))
            num_boxes += sum(_is_box(result) for result in results)
            others.update(str(result.get("type"))[:20] for result in rest)
        except (KeyError, TypeError, ValueError) as error:  # it is reported with its sample
            if not faults:
                faults.append(f"{path}, task of {brief(names[0])}: {brief(error)}")
        entries.append((names[0], _Task(element.start, element.length, is_empty)))
    if not entries:
        raise DatasetError(f"{path} holds no task; {_EXPECTED}")
    folder = root / (files.images or "images")
    images = list_files(folder, kind="image", suffixes=IMAGE_SUFFIXES, subfolders="keyed")
    named = NamedImages(entries, images=images, listed_in=path, may_drop=_without_upload)
    listed = read_key_list(root / files.keys) if files.keys else None
    return _LabelStudioImages(path, named, Survey(labels, num_boxes, others), listed)


def _image_names(task: Any) -> list[str]:
    """Return the path of the image that a task names; of several, that which is called "image".

    Paths of the server, of storages and of local files ("/data/local-files/?d=a/b.jpg") are cut to
    the part that is a path of files.
    """
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        return []
    paths = {key: _image_path(value) for key, value in data.items() if isinstance(value, str)}
    images = {key: path for key, path in paths.items() if path is not None}
    return [images["image"]] if "image" in images else sorted(set(images.values()))


def _image_path(value: str) -> str | None:
    """Return the path of files in a path of the server; None if it is none of an image."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    local = parse_qs(parts.query).get("d", [""])[0]
    path = posix(unquote(local or parts.path)).lstrip("/")
    return path if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES else None


def _without_upload(name: str) -> str:
    """Return the name of a file as the user called it."""
    match = _UPLOAD.fullmatch(PurePosixPath(name).name)
    return match[1] if match else PurePosixPath(name).name


def _annotation(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the regions of a task's annotation.

    Raises:
        KeyError, TypeError, ValueError: there is none, or there are several.
    """
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise KeyError("annotations")
    valid = [a for a in annotations if not (a.get("was_cancelled") or a.get("skipped"))]
    truth = [a for a in valid if a.get("ground_truth")]
    if len(truth) == 1:
        valid = truth
    if len(valid) != 1:
        raise ValueError(
            f"it has {len(valid)} annotations; expected one, or one that is the ground truth"
        )
    results = valid[0]["result"]
    if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
        raise TypeError("its result is no list of regions")
    _check_one_image(results)
    return results


def _check_one_image(results: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError where regions are on several images of a task: one alone is read."""
    areas = [r for r in results if r.get("type") in _AREAS]
    targets = sorted({str(r["to_name"]) for r in areas if "to_name" in r})
    if len(targets) > 1 or any(r.get("item_index") for r in areas):
        named = f": {', '.join(targets)}" if len(targets) > 1 else ""
        raise ValueError(
            f"its regions are on several images{brief(named)}; expected one image a task"
        )


def _areas(results: Sequence[dict[str, Any]]) -> tuple[list[dict], list[dict]]:
    """Return the regions that cover an area, and others with a place."""
    unread = next((r["type"] for r in results if r.get("type") in _UNREAD_AREAS), None)
    if unread is not None:
        raise ValueError(
            f"a region has the type {unread!r}, whose area isn't read; expected "
            f"{', '.join(_AREAS)}: label by PolygonLabels, RectangleLabels, EllipseLabels or "
            "BrushLabels, or export COCO's format"
        )
    areas = [r for r in results if r.get("type") in _AREAS]
    return areas, [r for r in results if str(r.get("type")).endswith("labels") and r not in areas]


def _labels(result: dict[str, Any]) -> list[str]:
    labels = result["value"][_AREAS[result["type"]]]
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
        raise ValueError(f"a region has the labels {brief(labels)}; expected one")
    if not is_fit_name(labels[0]):
        raise ValueError(f"a region has the label {brief(ascii(labels[0]))}, which is no name")
    return [labels[0][:300]]


def _is_box(result: dict[str, Any]) -> bool:
    return result["type"] == "rectanglelabels" and not result["value"].get("rotation")


def _size(result: dict[str, Any]) -> tuple[int, int]:
    width, height = result["original_width"], result["original_height"]
    if not all(isinstance(n, int) and 0 < n < _MAX_SIDE for n in (width, height)):
        raise ValueError(f"a region is of an image of {brief(width)}x{brief(height)}")
    if result.get("image_rotation"):
        raise ValueError("a region is on a turned image; expected image_rotation 0")
    return width, height


def _shape(result: dict[str, Any], *, size: tuple[int, int]) -> Shape:
    """Return one region; coordinates are percent of width and height."""
    value, kind = result["value"], result["type"]
    (label,) = _labels(result)
    x_scale, y_scale = size[0] / 100, size[1] / 100
    outline: list[float] | Patch
    if kind == "polygonlabels":
        outline = [v for x, y in value["points"] for v in (float(x) * x_scale, float(y) * y_scale)]
    elif kind == "brushlabels":
        outline = Patch(0, 0, _brush(value, size=size))
    else:
        sides = ("width", "height") if kind == "rectanglelabels" else ("radiusX", "radiusY")
        x, y, a, b = (float(value[k]) for k in ("x", "y", *sides))
        draw = box if kind == "rectanglelabels" else ellipse
        outline = draw(
            x * x_scale,
            y * y_scale,
            a * x_scale,
            b * y_scale,
            turned=float(value.get("rotation") or 0),
        )
    return Shape(label, outline, is_box=_is_box(result))


def _brush(value: dict[str, Any], *, size: tuple[int, int]) -> np.ndarray:
    """Decode a mask of the brush, bool [H, W]: the opacity of an RGBA picture."""
    width, height = size
    if value.get("format") != "rle" or width * height > MAX_PIXELS:
        raise ValueError(f"a brush has the format {brief(value.get('format'))}; expected rle")
    numbers = value["rle"]
    if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 256 for n in numbers):
        raise TypeError("a brush's run lengths are no list of bytes")
    pixels = decode_rle_pack(bytes(numbers), count=4 * width * height)
    return pixels.reshape(height, width, 4)[..., 3] > 0
