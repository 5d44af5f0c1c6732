"""What the readers of annotation tools' files share: images with shapes drawn on them.

Shapes are painted in the tool's order, later ones on top. What no shape covers is ignored, unless
`dataset.background` names a class for it. An image without a shape is part of the task only then.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import ImageOps

from seggen_core.config import DatasetConfig, Split
from seggen_core.datasets.decode import IMAGE_MODES, is_turned, open_picture, to_rgb
from seggen_core.datasets.files import brief
from seggen_core.datasets.ids import number_instances
from seggen_core.datasets.rasterize import decode_runs
from seggen_core.datasets.reader import Conventions
from seggen_core.datasets.sample import CHECK, RawSample, check_labelled
from seggen_core.datasets.shape_classes import ShapeClasses
from seggen_core.datasets.shapes import ImageShapes, draw_shapes
from seggen_core.datasets.split_reader import SplitReader
from seggen_core.errors import DatasetError

MAX_BOX_SHARE = 0.1
"""More rectangles than that may be boxes around objects, which are no masks."""

_UNLISTED = (
    "What no shape covers is ignored; if it is background, name a class for it: dataset.background."
)


class Survey(NamedTuple):
    """What a file's shapes are, counted when it is opened.

    Attributes:
        labels: areas of each label.
        boxes: areas that are upright rectangles.
        others: shapes that cover no area, by kind.
    """

    labels: Counter[str]
    boxes: int
    others: Counter[str]


class AnnotatedImages(Protocol):
    """The images of one published split, with what was drawn on them."""

    @property
    def keys(self) -> list[str]:
        """Names of all samples, sorted: those with an image or with annotations."""

    @property
    def survey(self) -> Survey:
        """What the shapes are."""

    def is_empty(self, key: str) -> bool:
        """Return whether a sample has annotations, and no shape among them."""

    def image(self, key: str, *, root: Path) -> Path:
        """Return the image of a sample; DatasetError where there is none."""

    def shapes(self, key: str, *, size: tuple[int, int]) -> ImageShapes:
        """Return what was drawn; DatasetError where there is nothing or it can't be read.

        Args:
            key: of the sample.
            size: (width, height) of its image as stored, for coordinates that are shares of it.
        """


class ShapeReader(SplitReader[ShapeClasses]):
    """Shapes are drawn with their sample."""

    def __init__(
        self,
        config: DatasetConfig,
        *,
        splits: Mapping[Split, AnnotatedImages],
        classes: ShapeClasses,
        root: Path,
        seed: int,
    ) -> None:
        """Choose the samples of each split.

        Args:
            config: `boxes`, `background`, counts.
            splits: the published splits that there are and are needed; others come out of train.
            classes: of the labels.
            root: of the dataset.
            seed: of held-out samples and limits.

        Raises:
            DatasetError: there is no sample, or so many shapes are boxes that they may be no masks.
        """
        super().__init__(classes)
        self._root, self._config = root, config
        surveys = [annotated.survey for annotated in splits.values()]
        self._draws_boxes = _check_boxes(surveys, config=config)
        others: Counter[str] = sum((s.others for s in surveys), Counter())
        if others:
            listed = brief(", ".join(f"{count} {kind}" for kind, count in sorted(others.items())))
            self._notes.append(f"shapes without an area aren't read: {listed}")
        sources = self._choose(
            {split: self._task_keys(split, annotated) for split, annotated in splits.items()},
            config=config,
            seed=seed,
            dataset=config.name,
        )
        self._note_missing_splits(sources, config=config)
        self._splits = {split: splits[source] for split, source in sources.items()}

    def _task_keys(self, split: Split, annotated: AnnotatedImages) -> list[str]:
        """Return the samples of a split; images on which nothing is drawn need a background."""
        keys = annotated.keys
        if self._config.background is not None:
            return keys
        drawn = [key for key in keys if not annotated.is_empty(key)]
        if len(drawn) < len(keys):
            self._notes.append(
                f"{len(keys) - len(drawn)} images of {split} have no shape and are no part of the "
                "task; dataset.background makes them part of it"
            )
        if keys and not drawn:
            raise DatasetError(
                f"none of the {len(keys)} images of {split} has a shape; expected polygons, masks "
                "or other areas: check that the annotations were exported with their shapes"
            )
        return drawn

    @property
    def conventions(self) -> Conventions:
        """What no shape covers is ignored by definition, so that no share of it is too much."""
        return Conventions(1.0, _UNLISTED, has_own_classes=True)

    def read(self, split: Split, key: str) -> RawSample:
        """Decode one image and paint its shapes; metadata names the file."""
        path, drawn, turned = self._look_up(split, key)
        with open_picture(path, modes=IMAGE_MODES) as picture:
            picture.load()
        upright = ImageOps.exif_transpose(picture) if turned else picture
        image = np.asarray(to_rgb(upright, path=path))
        segmentation_map, numbers = self._paint(drawn, image.shape[0], image.shape[1])
        check_labelled(segmentation_map, where=f"{drawn.where} ({path})")
        instance_map, ids = number_instances(numbers, path=path)
        metadata: dict[str, Any] = {
            "file": path.relative_to(self._root).as_posix(),
            "instance_ids": ids,
        }
        return RawSample(image, segmentation_map, instance_map, metadata)

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Check one sample's annotations and the header of its image; return (width, height)."""
        path, drawn, turned = self._look_up(split, key)
        with open_picture(path, modes=IMAGE_MODES, header_only=True) as picture:
            width, height = picture.size
        for shape in drawn.shapes:
            self._train_id(shape.label, where=drawn.where)
        return (height, width) if turned else (width, height)

    def _look_up(self, split: Split, key: str) -> tuple[Path, ImageShapes, bool]:
        """Return a sample's image, its shapes, and whether they are on the image as displayed."""
        annotated = self._splits[split]
        path = annotated.image(key, root=self._root)
        with open_picture(path, modes=IMAGE_MODES, header_only=True) as picture:
            drawn = annotated.shapes(key, size=picture.size)
            turned = is_turned(picture, path=path, drawn_on=drawn.where, size=drawn.size)
        return path, drawn, turned

    def _paint(self, drawn: ImageShapes, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the segmentation map, uint8 [H, W], and numbers of instances, uint16 [H, W].

        Instances are numbered in the order of the file, 0 is none. A group is the instance of its
        first shape.
        """
        shapes = [s for s in drawn.shapes if self._draws_boxes or not s.is_box]
        try:
            masks = draw_shapes(shapes, width=width, height=height)
        except DatasetError as error:
            raise DatasetError(f"{drawn.where}: {error} {CHECK}") from None
        segmentation_map = np.full((height, width), self._table.rest, np.uint8)
        numbers = np.zeros((height, width), np.uint16)
        groups: dict[tuple[str, str], int] = {}
        for i in sorted(range(len(shapes)), key=lambda i: shapes[i].order):
            shape, mask = shapes[i], decode_runs(masks[i])
            train_id = self._train_id(shape.label, where=drawn.where)
            instance = i + 1
            if shape.group is not None:
                instance = groups.setdefault((shape.label, shape.group), instance)
            segmentation_map[mask] = train_id
            numbers[mask] = instance if self._table.is_thing(train_id) else 0
        return segmentation_map, numbers

    def _train_id(self, label: str, *, where: str) -> int:
        train_id = self._table.train_ids.get(label)
        if train_id is None:
            allowed = brief(", ".join(self._table.train_ids))
            raise DatasetError(
                f"{where} has a shape of {brief(repr(label))}; expected a class of "
                f"{self._table.source}: {allowed} {CHECK}"
            )
        return train_id


def _check_boxes(surveys: Sequence[Survey], *, config: DatasetConfig) -> bool:
    """Return whether rectangles are drawn.

    Raises:
        DatasetError: so many shapes are rectangles that they may be boxes around objects.
    """
    if config.boxes is not None:
        return config.boxes == "areas"
    num_boxes = sum(s.boxes for s in surveys)
    num_areas = sum(s.labels.total() for s in surveys)
    if num_boxes > MAX_BOX_SHARE * num_areas:
        raise DatasetError(
            f"{num_boxes} of {num_areas} shapes are upright rectangles; expected at most "
            f"{MAX_BOX_SHARE:.0%}, since boxes around objects are no masks: set dataset.boxes to "
            "areas if these rectangles are the objects' areas, or to ignore to leave them out"
        )
    return True
