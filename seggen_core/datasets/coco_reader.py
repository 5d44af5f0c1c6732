"""What the readers of COCO's JSON share."""

from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.annotated_files import SPLIT_NAMES, split_folder
from seggen_core.datasets.class_table import ClassTable
from seggen_core.datasets.coco_categories import choose_classes
from seggen_core.datasets.coco_index import CocoImage, CocoIndex, index_coco
from seggen_core.datasets.decode import Picture, is_turned
from seggen_core.datasets.files import read_key_list
from seggen_core.datasets.json_stream import check_file
from seggen_core.datasets.reader import MAX_UNLISTED_SHARE, SPLITS, Conventions
from seggen_core.datasets.sample import CHECK
from seggen_core.datasets.split_reader import SplitReader
from seggen_core.datasets.splits import places, published_splits
from seggen_core.errors import DatasetError

ROBOFLOW_FILE = "_annotations.coco.json"


class CocoReader(SplitReader[ClassTable]):
    """One JSON file a split, gone through once for its places.

    Annotations are parsed again with their sample.
    """

    dataset: ClassVar[str]
    """Name of the dataset and of its published class table."""
    assumed_thing: ClassVar[bool | None]
    """What a class is where nothing says whether it is a thing; None if it has to be said."""

    max_unlisted_share: ClassVar[float] = MAX_UNLISTED_SHARE
    unlisted: ClassVar[str]
    """See `Conventions`."""

    def __init__(
        self, config: DatasetConfig, *, layout: dict[Split, SplitFiles], root: Path, seed: int
    ) -> None:
        """Index the annotation files; DatasetError where one or a folder is missing."""
        self._root, self._config = root, config
        files = {
            split: places(config, split=split, layout=layout)
            for split in published_splits(config)
            if split in layout or split in config.files
        }
        for split, where in files.items():  # all of them before minutes are spent on the first
            if where.annotations is None or where.images is None:
                raise DatasetError(
                    f"{root} has no {split} split, and dataset.files.{split} doesn't name both its "
                    "images and annotations; expected both, or neither"
                )
            check_file(root / where.annotations)
        indexes = {split: self._index(where) for split, where in files.items()}
        table, self._is_published = choose_classes(
            self.dataset,
            indexes=list(indexes.values()),
            class_file=root / config.classes_file if config.classes_file else None,
            assumed_thing=self.assumed_thing,
        )
        super().__init__(table)
        self._notes += [
            f"{index.num_foreign} annotations of {index.path.name} are of images that it doesn't "
            "list"
            for index in indexes.values()
            if index.num_foreign
        ]
        sources = self._choose(
            {split: self._listed_keys(files[split], index) for split, index in indexes.items()},
            config=config,
            seed=seed,
            dataset=self.dataset,
        )
        self._indexes = {split: indexes[source] for split, source in sources.items()}
        self._files = {split: files[source] for split, source in sources.items()}

    def _index(self, files: SplitFiles) -> CocoIndex:
        assert files.images is not None
        assert files.annotations is not None
        return index_coco(self._root / files.annotations, image_folder=self._root / files.images)

    def _listed_keys(self, files: SplitFiles, index: CocoIndex) -> list[str]:
        """Return the images of a file that are part of the task, of those that the user lists.

        A listed name without an entry is among them, to be reported when it is read.
        """
        keys = self._task_keys(index)
        if files.keys is None:
            return keys
        in_task = set(keys)
        listed = read_key_list(self._root / files.keys)
        return [key for key in listed if key in in_task or key not in index.entries]

    def _task_keys(self, index: CocoIndex) -> list[str]:
        """Return the images of a file that are part of the task, in order: all of them."""
        return index.keys

    @property
    def conventions(self) -> Conventions:
        """What is taken for granted about the annotations."""
        return Conventions(
            self.max_unlisted_share, self.unlisted, has_own_classes=not self._is_published
        )

    def _metadata(self, path: Picture, *, image_id: int, instance_ids: list[int]) -> dict[str, Any]:
        return {
            "file": path.relative_to(self._root).as_posix(),
            "image_id": image_id,
            "instance_ids": instance_ids,
        }


def check_listed_size(
    size: tuple[int, int], *, path: Picture, entry: CocoImage, listed_in: Path
) -> None:
    """Raise DatasetError where an image isn't of the size that JSON says.

    Polygons and maps are in pixels of the image that the file speaks of.
    """
    listed = entry.width, entry.height
    if not all(side in (0, real) for side, real in zip(listed, size, strict=True)):
        said = "no numbers of pixels" if min(listed) < 0 else f"{entry.width}x{entry.height}"
        raise DatasetError(
            f"{path} is {size[0]}x{size[1]} but {listed_in} says {said}; expected the same size "
            f"{CHECK}"
        )


def is_turned_as_listed(
    picture: Image.Image, *, path: Picture, entry: CocoImage, listed_in: Path
) -> bool:
    """Return whether polygons were drawn on an image as its EXIF tag displays it, by JSON's size.

    Raises:
        DatasetError: no size fits, or nothing can tell.
    """
    listed = (entry.width, entry.height)
    if picture.size[::-1] != listed:
        check_listed_size(picture.size, path=path, entry=entry, listed_in=listed_in)
    where = f"{listed_in}, image {entry.image_id}"
    size = listed if min(listed) > 0 else None
    return is_turned(picture, path=path, drawn_on=where, size=size)


def coco_layout(root: Path, **patterns: str) -> dict[Split, SplitFiles]:
    """Return where COCO's splits of 2017 are, or those of a tool that exports COCO's format.

    Args:
        root: of the dataset. COCO's images may lie in it or in root/images.
        patterns: the other fields of `SplitFiles`, with "{split}" for the split's name.
    """
    layout = _exported_layout(root) if "masks" not in patterns else {}
    if layout:
        return layout
    below = "images/" if (root / "images").is_dir() else ""
    patterns["images"] = f"{below}{{split}}2017"
    return {
        split: SplitFiles(**{kind: text.format(split=split) for kind, text in patterns.items()})
        for split in SPLITS
    }


def _exported_layout(root: Path) -> dict[Split, SplitFiles]:
    """Return where the splits of a tool's export are; empty where there is none.

    - Roboflow: train/_annotations.coco.json beside the images, valid, test.
    - CVAT: annotations/instances_<subset>.json and images/ or images/<subset>; the subset
      "default" is train.
    - Label Studio: result.json and images/.
    """
    layout: dict[Split, SplitFiles] = {}
    for split, names in SPLIT_NAMES.items():
        name = split_folder(root, names)
        if name is not None and (root / name / ROBOFLOW_FILE).exists():
            layout[split] = SplitFiles(images=name, annotations=f"{name}/{ROBOFLOW_FILE}")
        subsets = [case for name in names for case in (name, name.capitalize())]
        for subset in [*subsets, *(["default"] if split == "train" else [])]:
            file = f"annotations/instances_{subset}.json"
            if split not in layout and (root / file).exists():
                folder = f"images/{subset}"
                images = folder if (root / folder).is_dir() else "images"
                layout[split] = SplitFiles(images=images, annotations=file)
    if not layout and (root / "result.json").exists():
        layout["train"] = SplitFiles(images="images", annotations="result.json")
    return layout if "train" in layout else {}
