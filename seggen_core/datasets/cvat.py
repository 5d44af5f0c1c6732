"""CVAT's own export, "CVAT for images 1.1", as it is unpacked.

    root/annotations.xml   root/images/**   (or one such folder for each of train, val and test)

The labels of the task and their colours are the classes. Polygons, rectangles, ellipses and masks
of the brush are painted by their z_order; polylines, points, cuboids, skeletons and tags have no
area. Images of several subsets lie in images/<subset>; a subset that is called train, validation or
test is that split. A shape is an instance; shapes of one group and label are one.
Source: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.annotated_files import (
    CLASS_FILES,
    SPLIT_NAMES,
    NamedImages,
    check_has_train,
    find_class_file,
    split_folder,
    split_of_name,
    split_places,
)
from seggen_core.datasets.annotated_images import ImagesOfOneFile
from seggen_core.datasets.decode import MAX_PIXELS
from seggen_core.datasets.files import (
    IMAGE_SUFFIXES,
    MAX_SAMPLES,
    brief,
    cut,
    describe_folder,
    list_files,
    read_key_list,
)
from seggen_core.datasets.sample import CHECK
from seggen_core.datasets.shape_classes import StatedClass, choose_shape_classes
from seggen_core.datasets.shape_reader import ShapeReader, Survey
from seggen_core.datasets.shapes import ImageShapes, Patch, Shape, box, check_patch, ellipse
from seggen_core.datasets.splits import published_splits
from seggen_core.datasets.xml_stream import XmlElement, read_element, stream_elements
from seggen_core.errors import DatasetError

_FILE = "annotations.xml"
_TAGS = frozenset({"label", "image", "track"})
_AREAS = ("polygon", "box", "ellipse", "mask")
_OTHERS = ("polyline", "points", "cuboid", "skeleton")
_MAX_SIDE = 1 << 31


class _Entry(NamedTuple):
    """Where the file speaks of an image."""

    start: int
    """Byte where it starts."""
    length: int
    """Its number of bytes; 0 where nothing was drawn on the image."""


class _Document(NamedTuple):
    """What a file lists."""

    images: dict[str, list[tuple[str, _Entry]]]
    """Name and place of each image, by subset."""
    labels: list[StatedClass]
    """The labels of the project."""
    survey: Survey
    """How many shapes there are of each kind."""


class _CvatImages(ImagesOfOneFile[_Entry]):
    """The images of one split."""

    def is_empty(self, key: str) -> bool:
        """Return whether nothing is drawn on an image that the file lists."""
        return self.images.has_entry(key) and self.images.entry(key)[1].length == 0

    def shapes(self, key: str, *, size: tuple[int, int]) -> ImageShapes:
        """Parse what was drawn on one image."""
        name, entry = self.images.entry(key)
        where = f"{self.path}, image {brief(name)}"
        if entry.length == 0:
            return ImageShapes(where, size, [])
        element = read_element(self.path, start=entry.start, length=entry.length)
        try:
            listed = _int(element, "width", 1, _MAX_SIDE), _int(element, "height", 1, _MAX_SIDE)
            shapes = [_shape(child, size=listed) for child in element.children if _is_area(child)]
        except (KeyError, ValueError, OverflowError, DatasetError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else f": {brief(error)}"
            raise DatasetError(
                f"{where} {what}; expected width, height, and shapes as CVAT for images 1.1 has "
                f"them {CHECK}"
            ) from None
        return ImageShapes(where, listed, shapes)


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> ShapeReader:
    """Index the splits; DatasetError where a file or folder is missing."""
    places = split_places(config, _layout(root))
    documents: dict[str, _Document] = {}
    for files in places.values():
        name = files.annotations or _FILE
        documents[name] = documents.get(name) or _read_document(root / name)
    by_split = {
        split: (files, [i for images in _of(documents, files).images.values() for i in images])
        for split, files in places.items()
    }
    if list(places) == ["train"]:  # one file, which may have subsets
        files = places["train"]
        subsets: dict[Split, list[tuple[str, _Entry]]] = {}
        for subset, images in _of(documents, files).images.items():
            subsets.setdefault(split_of_name(subset) or "train", []).extend(images)
        if len(subsets) > 1:
            present: dict[Split, str | None] = {split: split for split in subsets}
            check_has_train(
                config, present, where=root / (files.annotations or _FILE), kind="subset"
            )
        if "train" in subsets:
            by_split = {
                split: (files if split == "train" else _without_list(files), subsets[split])
                for split in published_splits(config)
                if split in subsets
            }
    notes: list[str] = []
    if list(places) == ["train"]:
        notes = _unknown_subsets(_of(documents, places["train"]).images)
    splits = {
        split: _open_split(files, images, of=_of(documents, files), root=root, all_splits=by_split)
        for split, (files, images) in by_split.items()
    }
    stated = [(root / name, document.labels) for name, document in documents.items()]
    for path, labels in stated[1:]:
        if labels != stated[0][1]:
            raise DatasetError(
                f"{stated[0][0]} and {path} list different labels; expected the same in all splits"
            )
    classes = choose_shape_classes(
        stated[0][1],
        stated_in=str(stated[0][0]),
        class_file=find_class_file(config, root, CLASS_FILES),
        background=config.background,
    )
    classes = replace(classes, notes=(*classes.notes, *notes))
    return ShapeReader(config, splits=splits, classes=classes, root=root, seed=seed)


def _unknown_subsets(subsets: Iterable[str]) -> list[str]:
    """Return a note on subsets that are called as no split, whose images are train."""
    unknown = [name for name in subsets if name and split_of_name(name) is None]
    unknown = [name for name in unknown if name.lower() != "default"]
    if not unknown:
        return []
    named = brief(", ".join(map(repr, unknown)))
    return [f"subsets {named} are called as no split (train, val, test), so their images are train"]


def _layout(root: Path) -> dict[Split, SplitFiles]:
    if not (root / _FILE).exists():
        layout: dict[Split, SplitFiles] = {}
        for split, names in SPLIT_NAMES.items():
            name = split_folder(root, names)
            if name is not None and (root / name / _FILE).exists():
                layout[split] = SplitFiles(images=f"{name}/images", annotations=f"{name}/{_FILE}")
        if layout:
            return layout
    return {"train": SplitFiles(images="images", annotations=_FILE)}


def _without_list(files: SplitFiles) -> SplitFiles:
    """Return the places of another subset of the same file; the list names samples of train."""
    return files.model_copy(update={"keys": None})


def _of(documents: dict[str, _Document], files: SplitFiles) -> _Document:
    return documents[files.annotations or _FILE]


def _open_split(
    files: SplitFiles,
    entries: list[tuple[str, _Entry]],
    *,
    of: _Document,
    root: Path,
    all_splits: Mapping[Split, tuple[SplitFiles, list]],
) -> _CvatImages:
    """Match the entries of a split with the images of its folder.

    Where several splits share a folder, an image without an entry belongs to train alone.
    """
    path = root / (files.annotations or _FILE)
    folder = root / (files.images or "images")
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is missing; expected the images that {path.name} is about: export from CVAT "
            f"with 'Save images', or name their folder in dataset.files ({describe_folder(folder)})"
        )
    images = list_files(folder, kind="image", suffixes=IMAGE_SUFFIXES, subfolders="keyed")
    named = NamedImages(entries, images=images, listed_in=path)
    listed = read_key_list(root / files.keys) if files.keys else None
    if listed is None and len(all_splits) > 1 and files.images == "images":
        listed = named.entry_keys
    return _CvatImages(path, named, of.survey, listed)


def _read_document(path: Path) -> _Document:
    """Go through a file once.

    Raises:
        DatasetError: it is missing, no CVAT for images, or lists too many images.
    """
    images: dict[str, list[tuple[str, _Entry]]] = {}
    labels: list[StatedClass] = []
    areas: Counter[str] = Counter()
    others: Counter[str] = Counter()
    num_images = num_boxes = 0
    try:
        for element in stream_elements(path, tags=_TAGS, root="annotations"):
            if element.tag == "track":
                raise DatasetError(
                    f"{path} has tracks: it is CVAT for video; expected CVAT for images 1.1: "
                    "export it in that format"
                )
            if element.tag == "label":
                if not any(child.tag == "parent" for child in element.children):
                    labels.append(_label(element, path=path))
                continue
            num_images += 1
            if num_images > MAX_SAMPLES or "name" not in element.attributes:
                raise DatasetError(
                    f"{path} has an image without a name, or more than {MAX_SAMPLES}; expected "
                    "CVAT for images 1.1"
                )
            shapes = [child for child in element.children if _is_area(child)]
            entry = _Entry(element.start, element.length if shapes else 0)
            subset = element.attributes.get("subset", "")
            images.setdefault(subset, []).append((element.attributes["name"], entry))
            areas.update(child.attributes.get("label", "") for child in shapes)
            num_boxes += sum(_is_upright_box(child) for child in shapes)
            others.update(c.tag for c in element.children if c.tag in _OTHERS)
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing; expected the annotations of CVAT for images 1.1: set dataset.root "
            f"to the unpacked export ({describe_folder(path.parent)})"
        ) from None
    if not images:
        raise DatasetError(f"{path} lists no image; expected CVAT for images 1.1")
    if not labels:  # other tools write the format without them
        labels = [StatedClass(name) for name in sorted(areas)]
    return _Document(images, labels, Survey(areas, num_boxes, others))


def _label(element: XmlElement, *, path: Path) -> StatedClass:
    texts = {child.tag: child.text for child in element.children}
    name, color = texts.get("name", ""), texts.get("color", "")
    if not name:
        raise DatasetError(f"{path} has a label without a name; expected CVAT for images 1.1")
    if not re.fullmatch("#[0-9a-fA-F]{6}", color):
        return StatedClass(cut(name))
    r, g, b = bytes.fromhex(color[1:])
    return StatedClass(cut(name), (r, g, b))


def _is_area(element: XmlElement) -> bool:
    return element.tag in _AREAS


def _is_upright_box(element: XmlElement) -> bool:
    return element.tag == "box" and element.attributes.get("rotation", "0") in ("0", "0.0", "0.00")


def _shape(element: XmlElement, *, size: tuple[int, int]) -> Shape:
    """Return one shape; KeyError where an attribute is missing, ValueError where it is wrong."""
    attributes = element.attributes
    outline: list[float] | Patch
    if element.tag == "polygon":
        outline = [float(v) for point in attributes["points"].split(";") for v in point.split(",")]
    elif element.tag == "box":
        outline = _box(element)
    elif element.tag == "ellipse":
        x, y, radius_x, radius_y = (float(attributes[k]) for k in ("cx", "cy", "rx", "ry"))
        outline = ellipse(x, y, radius_x, radius_y, turned=float(attributes.get("rotation", 0)))
    else:
        outline = _patch(element, size=size)
    return Shape(
        attributes["label"],
        outline,
        group=attributes.get("group_id") if attributes.get("group_id") != "0" else None,
        is_box=_is_upright_box(element),
        order=_int(element, "z_order", -_MAX_SIDE, _MAX_SIDE) if "z_order" in attributes else 0,
    )


def _box(element: XmlElement) -> list[float]:
    """Return the corners of a rectangle, which CVAT turns around its middle."""
    left, top, right, bottom = (float(element.attributes[k]) for k in ("xtl", "ytl", "xbr", "ybr"))
    turned = float(element.attributes.get("rotation", 0))
    width, height = right - left, bottom - top
    corners = box(-width / 2, -height / 2, width, height)
    cosine, sine = math.cos(math.radians(turned)), math.sin(math.radians(turned))
    x, y = left + width / 2, top + height / 2
    return [
        value
        for a, b in zip(corners[::2], corners[1::2], strict=True)
        for value in (x + a * cosine - b * sine, y + a * sine + b * cosine)
    ]


def _patch(element: XmlElement, *, size: tuple[int, int]) -> Patch:
    """Decode a mask: run lengths row by row in its own rectangle, background first."""
    left, top = (_int(element, side, 0, _MAX_SIDE) for side in ("left", "top"))
    width, height = (_int(element, side, 1, _MAX_SIDE) for side in ("width", "height"))
    check_patch(left, top, width, height, size=size)
    lengths = [int(n) for n in element.attributes["rle"].split(",")]
    if min(lengths) < 0 or sum(lengths) != width * height:
        raise ValueError(
            f"run lengths of a mask add up to {sum(lengths)}; expected {width * height} "
            f"({width}x{height})"
        )
    if width * height > MAX_PIXELS:
        raise ValueError(f"a mask of {width}x{height}; expected at most {MAX_PIXELS} pixels")
    bits = np.arange(len(lengths)) % 2 == 1
    return Patch(left, top, np.repeat(bits, lengths).reshape(height, width))


def _int(element: XmlElement, name: str, low: int, high: int) -> int:
    value = int(element.attributes[name])
    if not low <= value < high:
        raise ValueError(f"{name} is {brief(value)}, not {low} to {high - 1}")
    return value
