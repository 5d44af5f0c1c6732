"""Masks that could be read in two ways, and folders of splits that don't match letter by letter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.datasets.scan_masks import scan_classes
from seggen_core.errors import DatasetError
from tests.datasets.damage import bad_samples, open_
from tests.datasets.layouts import WRITERS, blocks, save
from tests.datasets.test_cross_checks import PLACES, build, problems, read
from tests.datasets.tool_layouts import change_parquet

COLORS = "id,name,color\n0,road,128 64 128\n1,shadow,0 0 0\n2,sky,70 130 180\n"
AS_COLOR = np.array([[128, 64, 128], [0, 0, 0], [70, 130, 180]], np.uint8)


def rewrite(root: Path, name: str, make: Callable[[int], Image.Image]) -> None:
    """Give every sample another mask; `make` gets its number."""
    if name != "huggingface":
        for i, path in enumerate(sorted(root.glob(PLACES[name]))):
            make(i).save(path)
        return
    numbers = iter(range(100))

    def change(row: dict[str, Any]) -> None:
        make(next(numbers)).save(root.parent / "x.png")
        row["label"]["bytes"] = (root.parent / "x.png").read_bytes()

    change_parquet(root, change)


def written(tmp_path: Path, name: str, classes: str) -> tuple[Path, dict[str, Any]]:
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS[name](root)
    for path in [*root.glob("classes.csv"), *root.glob("labelmap.txt")]:
        path.unlink()
    (root / "mine.csv").write_text(classes)
    return root, section | {"classes_file": "mine.csv"}


@pytest.mark.parametrize("name", ["folder", "huggingface", "voc"])
def test_rgb_masks_of_ids_and_of_colours_are_not_mixed(tmp_path: Path, name: str) -> None:
    """A mask of id 0 alone is black, which is the colour of another class."""
    root, section = written(tmp_path, name, COLORS)

    def ids(i: int) -> Image.Image:
        values = blocks([0] * 6 if i == 0 else [0, 1, 2, 1, 0, 2])
        return Image.fromarray(values[..., None].repeat(3, 2))

    def colors(i: int) -> Image.Image:
        return Image.fromarray(AS_COLOR[blocks([1] * 6 if i == 0 else [0, 1, 2, 1, 0, 2])])

    rewrite(root, name, colors)
    config, reader = read(root, section)
    assert problems(config, root) == ""
    rewrite(root, name, ids)
    config, reader = read(root, section)
    words = r"the RGB mask of \w+/\S+ holds colours of the class list, but that of .* ids in grey"
    (report,) = [line for line in problems(config, root).splitlines() if "contradict" in line]
    with pytest.raises(DatasetError, match=words):
        build(config, reader, tmp_path / "out")
    assert report.partition(": ")[2].startswith("masks contradict one another: the RGB mask of ")


def inverted(values: list[int]) -> Image.Image:
    image = Image.fromarray(blocks(values))
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


@pytest.mark.parametrize("name", ["folder", "huggingface", "voc"])
def test_a_palette_that_paints_0_white_is_reported(tmp_path: Path, name: str) -> None:
    """As 1-bit grey, the same picture would hold the other ids."""
    root, section = written(tmp_path, name, "id,name\n0,background\n1,polyp\n")
    rewrite(root, name, lambda i: inverted([0] * 6 if i == 0 else [0, 1, 0, 0, 0, 0]))
    reports = bad_samples(open_(root, section))
    assert len(reports) == 5
    assert all(
        "has a palette in which 0 is white and nothing else is" in r for r in reports.values()
    )
    masks = [tmp_path / "m.png"]
    inverted([0, 1, 0, 0, 0, 0]).save(masks[0])
    with pytest.raises(DatasetError, match="0 is white and nothing else is"):
        scan_classes(masks)


def test_masks_of_one_class_have_it_where_they_are_not_black(tmp_path: Path) -> None:
    root, section = written(tmp_path, "folder", "id,name\n0,x\n1,crack\n2,wall\n")
    for image in list(root.glob("images/*/*/*.jpg")):
        split, *rest = image.relative_to(root / "images").with_suffix(".png").parts
        for name in ("crack", "wall"):
            save(inverted([1, 1, 1, 0, 1, 1]), root.joinpath("masks", split, name, *rest))
    section |= {"class_masks": "{class}/{name}", "background": "x", "class_overlaps": "later"}
    for path in root.glob("masks/*/[abc]/*.png"):
        path.unlink()
    assert all("0 is white" in report for report in bad_samples(open_(root, section)).values())


@pytest.mark.parametrize("images, others", [("Train", "train"), ("training", "TRAINING")])
def test_masks_and_instances_are_found_in_a_folder_of_another_case(
    tmp_path: Path, images: str, others: str
) -> None:
    """Instance maps were left out without a word."""
    section = WRITERS["folder"](tmp_path)
    for path in tmp_path.glob("masks/train/*/*.png"):
        maps = Image.fromarray(blocks([0, 1, 1, 0, 0, 0], dtype=np.uint16))
        save(maps, Path(str(path).replace("/masks/", "/instances/")))
    (tmp_path / "images" / "train").rename(tmp_path / "images" / images)
    for kind in ("masks", "instances"):
        (tmp_path / kind / "train").rename(tmp_path / kind / others)
    reader = open_(tmp_path, section)
    assert bad_samples(reader) == {}
    sample = reader.read("train", reader.keys("train")[0])
    assert sample.instance_map is not None and sample.instance_map.max() == 1
    assert any("none of test: its samples have no instances" in note for note in reader.notes)
    (tmp_path / "instances" / others).rename(tmp_path / "instances" / "Train")
    if others != "train":
        with pytest.raises(DatasetError, match=r"instances/training is missing.*folders Train"):
            open_(tmp_path, section)


def test_splits_without_instance_maps_are_noted(tmp_path: Path) -> None:
    for name, place in (
        ("mapillary", "validation/instances/*.png"),
        ("cityscapes", "gtFine/val/*/*_instanceIds.png"),
    ):
        root = tmp_path / name
        root.mkdir()
        section = WRITERS[name](root)
        for path in root.glob(place):
            path.unlink()
        if name == "mapillary":
            (root / "validation" / "instances").rmdir()
        assert any("but none of test" in note for note in open_(root, section).notes)
