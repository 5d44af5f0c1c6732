"""Masks of the user's own that are one file a class."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.config import DatasetConfig
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS, DatasetReader
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX
from tests.datasets.layouts import blocks, picture, save

CLASSES = "id,name\n0,background\n4,Hot dog\n7,wall\n"
NAMES = {4: "hot_dog", 7: "wall"}
IDS = [0, 4, 4, 0, 7, 7]
TRAIN_IDS = blocks([0, 1, 1, 0, 2, 2])
STEMS = ["a_1", "b_2", "c_3", "d_4", "e_5", "f_6"]
PATTERNS = ["{class}/{name}", "{name}/{class}", "{name}_{class}"]


def open_(root: Path, **settings: Any) -> DatasetReader:
    tree = {"name": "folder", "root": root, "background": "background"} | settings
    return open_dataset(DatasetConfig.model_validate(tree), seed=0)


def write(root: Path, *, pattern: str, names: dict[int, str], value: int = 255) -> None:
    for i, stem in enumerate(STEMS):
        save(picture(seed=i), root / f"images/{stem}.jpg")
        for file_id, name in names.items():
            path = pattern.replace("{class}", name).replace("{name}", stem)
            mask = np.where(blocks(IDS) == file_id, value, 0).astype(np.uint8)
            save(Image.fromarray(mask), root / f"masks/{path}.png")
    (root / "classes.csv").write_text(CLASSES)


def read_all(reader: DatasetReader) -> list[np.ndarray]:
    keys = [(split, key) for split in SPLITS for key in reader.keys(split)]
    assert sorted(key for _, key in keys) == STEMS
    for split, key in keys:
        assert reader.read_header(split, key) == (24, 16)
    return [reader.read(split, key).segmentation_map for split, key in keys]


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("names", [NAMES, {4: "Hot Dog", 7: "WALL"}, {4: "004", 7: "7"}])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_masks_of_all_classes_become_one(
    tmp_path: Path, pattern: str, names: dict[int, str], value: int
) -> None:
    write(tmp_path, pattern=pattern, names=names, value=value)
    reader = open_(tmp_path)
    assert f"each class has masks of its own, called {pattern}" in reader.notes
    for segmentation_map in read_all(reader):
        np.testing.assert_array_equal(segmentation_map, TRAIN_IDS)


def test_what_no_mask_covers_is_ignored_and_counted(tmp_path: Path) -> None:
    write(tmp_path, pattern=PATTERNS[0], names=NAMES)
    reader = open_(tmp_path, background=None)
    sample = reader.read("train", reader.keys("train")[0])
    np.testing.assert_array_equal(
        sample.segmentation_map, np.where(TRAIN_IDS == 0, IGNORE_INDEX, TRAIN_IDS)
    )
    assert sample.unlisted_share == pytest.approx(1 / 3)
    assert "dataset.background" in reader.conventions.unlisted


def test_masks_that_overlap(tmp_path: Path) -> None:
    write(tmp_path, pattern=PATTERNS[0], names=NAMES)
    for stem in STEMS:
        everywhere = Image.fromarray(blocks([1] * 6))
        save(everywhere, tmp_path / f"masks/hot_dog/{stem}.png")
    reader = open_(tmp_path)
    with pytest.raises(DatasetError, match=r"wall.*128 pixel.*class_overlaps to later"):
        reader.read("train", reader.keys("train")[0])
    for segmentation_map in read_all(open_(tmp_path, class_overlaps="later")):
        np.testing.assert_array_equal(segmentation_map, blocks([1, 1, 1, 1, 2, 2]))


def test_one_class_alone_has_to_be_asked_for(tmp_path: Path) -> None:
    write(tmp_path, pattern=PATTERNS[2], names={7: "wall"})
    for segmentation_map in read_all(open_(tmp_path, class_masks=PATTERNS[2])):
        np.testing.assert_array_equal(segmentation_map, blocks([0, 0, 0, 0, 2, 2]))
    with pytest.raises(ConfigError, match="hold all classes in one file"):
        open_(tmp_path)  # masks called <image>_wall: the ending of all masks


def test_an_image_may_lack_classes_but_not_all(tmp_path: Path) -> None:
    write(tmp_path, pattern=PATTERNS[0], names=NAMES)
    (tmp_path / "masks/wall/a_1.png").unlink()
    (tmp_path / "masks/wall/b_2.png").unlink()
    (tmp_path / "masks/hot_dog/b_2.png").unlink()
    reader = open_(tmp_path, splits="all_from_train")
    where = {key: split for split in SPLITS for key in reader.keys(split)}
    segmentation_map = reader.read(where["a_1"], "a_1").segmentation_map
    np.testing.assert_array_equal(segmentation_map, blocks([0, 1, 1, 0, 0, 0]))
    with pytest.raises(DatasetError, match=r"b_2.jpg has no mask of any class.*0 everywhere"):
        reader.read(where["b_2"], "b_2")


def _grey_steps(root: Path) -> None:
    save(Image.fromarray(blocks([0, 1, 2, 3, 4, 5])), root / "masks/wall/a_1.png")


def _colors(root: Path) -> None:
    save(picture(seed=3), root / "masks/wall/a_1.png")


def _other_size(root: Path) -> None:
    save(Image.new("L", (8, 8)), root / "masks/wall/a_1.png")


def _damage(root: Path) -> None:
    file = root / "masks/wall/a_1.png"
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.parametrize(
    "change, message",
    [
        (_grey_steps, r"wall.a_1.png has values 0, 1, 2.*mask of one class"),
        (_colors, r"wall.a_1.png has colours"),
        (_other_size, r"a_1.png is 8x8 but .*a_1.png is 24x16"),
        (_damage, r"wall.a_1.png can't be decoded"),
    ],
)
def test_a_bad_mask_of_one_class_is_named(tmp_path: Path, change: Any, message: str) -> None:
    write(tmp_path, pattern=PATTERNS[0], names=NAMES)
    change(tmp_path)
    reader = open_(tmp_path)
    where = next(split for split in SPLITS if "a_1" in reader.keys(split))
    with pytest.raises(DatasetError, match=message):
        reader.read(where, "a_1")


def test_a_mask_of_no_listed_class_is_named(tmp_path: Path) -> None:
    write(tmp_path, pattern=PATTERNS[0], names=NAMES)
    save(Image.new("L", (24, 16)), tmp_path / "masks/dog/a_1.png")
    with pytest.raises(DatasetError, match=r"1 mask.*\(dog/a_1\).*background, hot_dog, wall"):
        open_(tmp_path)


def test_a_background_that_the_list_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path, pattern=PATTERNS[0], names=NAMES)
    with pytest.raises(ConfigError, match=r"'nothing'.*background, hot_dog, wall"):
        open_(tmp_path, background="nothing")
