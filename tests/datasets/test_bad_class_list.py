"""Class lists with bad rows."""

from pathlib import Path

import pytest

from seggen_core.errors import DatasetError
from tests.datasets.damage import open_
from tests.datasets.layouts import WRITERS


@pytest.mark.parametrize(
    "content, words",
    [
        ("id,name\n1,wall\n1,floor\n", "gives id 1 twice"),
        ("id,name\n1,wall\n2,Wall\n", "share the slug 'wall'"),
        ("number,name\n1,wall\n", "row 1 is"),
        ("id,name\n-1,wall\n", "has id '-1'; expected a whole number"),
        ("id,name,color\n1,wall,10 20\n", "has color '10 20'; expected three numbers"),
        ("id,name,is_thing\n1,wall,perhaps\n", "has is_thing 'perhaps'; expected true or false"),
        ("", "holds nothing; expected 1 to 255 classes"),
        ("id,name,id\n1,wall,2\n", "column 'id' stands twice"),
        ("id,name\n1," + "x" * 200_000, "is no CSV table: field larger"),
        ("id,name\n" + "9" * 5000 + ",wall\n", "row 1 has id '9999"),
        ("id,name\n" + "".join(f"{i},c{i}\n" for i in range(70_000)), "has more than 65536 rows"),
        ("id,name\n" + "".join(f"{i % 300},c{i}\n" for i in range(60_000)), "gives id 0, 1,"),
    ],
)
def test_a_bad_class_list_is_reported_with_its_row(
    tmp_path: Path, content: str, words: str
) -> None:
    section = WRITERS["folder"](tmp_path)
    (tmp_path / "classes.csv").write_text(content)
    with pytest.raises(DatasetError, match=words) as caught:
        open_(tmp_path, section)
    assert "classes.csv" in str(caught.value)


@pytest.mark.parametrize(
    "content, words",
    [
        ("[" * 100_000, "it nests too deep"),
        ('{"1": "wall", "1": "floor"}', "the key '1' stands twice"),
        ('[{"id": ' + "9" * 5000 + "}]", "4300 digits"),
        ('[{"id": 1, "name": "wall"}] x', "Extra data"),
        ('[{"id": 1, "name": ["wall"]}]', "row 1 is"),
        ('[{"id": 1e999, "name": "wall"}]', "row 1 has id inf"),
        ('[{"id": 1, "name": "wall", "color": [1e999, 0, 0]}]', "row 1 has color"),
        ("3", "holds int"),
    ],
)
@pytest.mark.parametrize("name, file", [("folder", "classes.json"), ("mapillary", "config.json")])
def test_a_bad_json_class_list_is_reported(
    tmp_path: Path, name: str, file: str, content: str, words: str
) -> None:
    section = WRITERS[name](tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(DatasetError, match=words if name == "folder" else "config.json") as caught:
        open_(tmp_path, section)
    assert file in str(caught.value) and len(str(caught.value)) < 600
