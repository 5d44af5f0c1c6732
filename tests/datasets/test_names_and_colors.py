"""Lists of classes in which a line, a cell or a number would silently mean something else."""

import json
from pathlib import Path
from typing import Any

import pytest

from seggen_core.datasets.class_list import read_class_list
from seggen_core.errors import DatasetError
from tests.datasets.damage import bad_samples, change_json, open_
from tests.datasets.layouts import WRITERS

UNFIT = ["wall\nbrick", "wall\x1b[31m", "wall\ud800", "wall\u2028b", " "]


def name_in_xml(root: Path, name: str) -> None:
    path = root / "annotations.xml"
    coded = name.replace("\n", "&#10;")
    path.write_text(path.read_text().replace("<name>wall</name>", f"<name>{coded}</name>"))


def name_in_coco(root: Path, name: str) -> None:
    def change(tree: dict) -> None:
        tree["categories"] = [{"id": i, "name": f"c{i}", "isthing": 1} for i in (3, 90, 1, 187)]
        tree["categories"][0]["name"] = name
        for annotation in tree["annotations"]:
            annotation["iscrowd"] = 0

    for path in (root / "annotations").glob("*.json"):
        change_json(path, change)


def name_in_labelme(root: Path, name: str) -> None:
    (root / "labels.txt").unlink()
    for path in root.glob("*/*.json"):
        change_json(path, lambda tree: tree["shapes"][0].update(label=name))


def name_in_label_studio(root: Path, name: str) -> None:
    def change(tree: Any) -> None:
        for task in tree:
            task["annotations"][0]["result"][0]["value"]["polygonlabels"] = [name]

    for path in root.glob("*.json"):
        change_json(path, change)


def name_in_list(root: Path, name: str) -> None:
    for path in [*root.glob("classes.csv"), *root.glob("labelmap.txt")]:
        path.unlink()
    names = {"0": name, "1": "car", "2": "c", "7": "d", "9": "e", "255": "f"}
    for file in ("id2label.json", "classes.json"):
        if (root / file).exists() or file == "classes.json":
            (root / file).write_text(json.dumps(names))
            return


def name_in_config(root: Path, name: str) -> None:
    change_json(root / "config.json", lambda tree: tree["labels"][0].update(readable=name))


def name_in_yaml(root: Path, name: str) -> None:
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text.replace("'wall'", json.dumps(name)))


NAMES = {
    "coco_instance": name_in_coco,
    "coco_panoptic": name_in_coco,
    "cvat": name_in_xml,
    "folder": name_in_list,
    "huggingface": name_in_list,
    "label_studio": name_in_label_studio,
    "labelme": name_in_labelme,
    "mapillary": name_in_config,
    "voc": name_in_list,
    "yolo": name_in_yaml,
}
"""How each reader with classes of the user's own is given a name."""


@pytest.mark.parametrize("unfit", UNFIT)
@pytest.mark.parametrize("name", NAMES)
def test_names_that_no_prompt_can_hold_are_refused(tmp_path: Path, name: str, unfit: str) -> None:
    """A quote that isn't closed makes them of several rows; consoles obey some of them."""
    section = WRITERS[name](tmp_path)
    if name == "cvat" and unfit[-1] in "m\ud800":
        pytest.skip("no XML can hold it")
    NAMES[name](tmp_path, unfit)
    try:
        message = " ".join(bad_samples(open_(tmp_path, section)).values())
    except DatasetError as error:
        message = str(error)
    assert str(tmp_path) in message
    message.encode()  # it can be printed
    assert "\x1b" not in message


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.csv", "id,name\n1,wall, brick\n", "row 1 has more cells than the first line names"),
        ("a.csv", 'id,name\n1,"wall\n2,dog\n', None),
        ("class_names.txt", "sky\n#1 road\nwall\n", r"line 2 is '#1 road', which may be a comment"),
        ("labelmap.txt", "a:0,0,0::\nb:1,2,3::\nsky\n", "row 3 is 'sky'; expected CVAT's"),
        ("labelmap.txt", "a:0,0,0::\nb:1,2,3,4::\n", r"row 2 is 'b:1,2,3,4::'; expected CVAT's"),
        ("classes.txt", "id,name\n0,sky\n1,road\n", r"row 1 is 'id,name', and every row holds ','"),
        ("a.json", '[{"id": 1, "name": "a", "color": [1.0, 0.5, 0.0]}]', "numbers .*, whole ones"),
        ("a.json", '[{"id": 1, "name": "a", "color": 5}]', "has color 5; expected three numbers"),
    ],
)
def test_lists_whose_rows_would_mean_something_else_are_refused(
    tmp_path: Path, name: str, text: str, words: str | None
) -> None:
    path = tmp_path / name
    path.write_text(text)
    if words is None:  # the reader of the dataset refuses the name
        assert "\n" in read_class_list(path).rows[0].name
        return
    with pytest.raises(DatasetError, match=words) as caught:
        read_class_list(path)
    assert str(path) in str(caught.value)


def test_a_label_without_a_name_is_bad_where_it_stands(tmp_path: Path) -> None:
    section = WRITERS["labelme"](tmp_path)
    (tmp_path / "labels.txt").unlink()
    path = tmp_path / "train" / "a_000001.json"
    change_json(path, lambda tree: tree["shapes"][1].update(label=" "))
    reader = open_(tmp_path, section)
    assert reader.taxonomy.slugs == ["car", "wall"]
    (report,) = bad_samples(reader).values()
    assert str(path) in report and "its label is ' ', which is no name" in report


@pytest.mark.parametrize("name", ["classes.csv", "classes.json"])
def test_what_is_not_read_of_a_list_is_noted(tmp_path: Path, name: str) -> None:
    section = WRITERS["folder"](tmp_path)
    (tmp_path / "classes.csv").unlink()
    rows = [{"id": i, "name": f"c{i}", "ignored": "yes", "trainId": 1} for i in (0, 7, 9, 255)]
    text = "id,name,ignored,trainId\n" + "".join(f"{r['id']},{r['name']},yes,1\n" for r in rows)
    (tmp_path / name).write_text(text if name.endswith("csv") else json.dumps(rows))
    (note,) = open_(tmp_path, section).notes
    assert note == f"{name}: nothing is read from column ignored, trainid"


def test_comments_and_empty_cells_are_no_classes(tmp_path: Path) -> None:
    path = tmp_path / "class_names.txt"
    path.write_text("# what we look for\n#\nsky\n\nroad\n")
    assert [row.name for row in read_class_list(path).rows] == ["sky", "road"]
    path = tmp_path / "classes.csv"
    path.write_text("id,name\n1,wall,,\n2,dog,,\n")
    assert [row.name for row in read_class_list(path).rows] == ["wall", "dog"]


@pytest.mark.parametrize("key, value", [("color", [0.5, 0.2, 1.0]), ("instances", "false")])
def test_mapillarys_numbers_are_whole(tmp_path: Path, key: str, value: object) -> None:
    section = WRITERS["mapillary"](tmp_path)
    change_json(tmp_path / "config.json", lambda tree: tree["labels"][1].update({key: value}))
    with pytest.raises(DatasetError, match=r"config\.json can't be read .*is no whole number"):
        open_(tmp_path, section)


def test_all_readers_with_own_classes_are_tried() -> None:
    published = {"ade20k", "camvid", "cityscapes", "coco_stuff", "voc2012"}
    assert NAMES.keys() | published == WRITERS.keys()
