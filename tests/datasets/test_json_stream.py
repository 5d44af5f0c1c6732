"""Elements of large JSON files: the same as json.loads gives, with the bytes that hold them."""

import json
import tracemalloc
from pathlib import Path

import pytest

from seggen_core.datasets import json_stream
from seggen_core.datasets.json_stream import read_element, stream_arrays
from seggen_core.errors import DatasetError

TREE = {
    "info": {"annotations": [1, 2], "text": '] } \\ " , ['},
    "images": [
        {"id": i, "file_name": f"straße {i}.jpg", "nested": [[], {}, None, True]} for i in range(50)
    ],
    "empty": [],
    "number": 12.5,
    "annotations": [{"id": -i, "segmentation": [[0.5, 1e-3]] * i} for i in range(50)],
    "scalars": [123456, 1.25, "x", None],
}


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize(
    "options", [{}, {"indent": 1, "ensure_ascii": False}], ids=["dense", "spaced"]
)
def test_elements_and_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, options: dict
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(TREE, **options) + "\n", encoding="utf-8")
    found = list(stream_arrays(path, arrays={"images", "annotations", "scalars", "empty"}))
    assert [e.value for e in found if e.array == "images"] == TREE["images"]
    assert [e.value for e in found if e.array == "annotations"] == TREE["annotations"]
    assert [e.value for e in found if e.array == "scalars"] == TREE["scalars"]
    for element in found:
        assert read_element(path, start=element.start, length=element.length) == element.value


@pytest.mark.parametrize(
    "content",
    [
        '{"a": [1, 2',
        '{"a" [1]}',
        "[1, 2]",
        "",
        '{"a": [1 2]',
        '{"a": [nul]}',
        "\x00",
        '{"a": [{"b": 1}',
    ],
    ids=range(8),
)
def test_what_is_no_such_json_is_refused_with_its_place(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=r"bad\.json is not valid at byte \d+"):
        list(stream_arrays(path, arrays={"a"}))


def test_a_missing_file_and_one_that_has_changed(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is missing"):
        list(stream_arrays(tmp_path / "no.json", arrays=set()))
    (tmp_path / "a.json").write_text('{"a": [{"b": 1}]}')
    with pytest.raises(DatasetError, match="has changed or can't be read at byte 7"):
        read_element(tmp_path / "a.json", start=7, length=3)


def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 16)
    path = tmp_path / "large.json"
    path.write_text(
        json.dumps(
            {"annotations": [{"id": i, "segmentation": [[0.5] * 40]} for i in range(20_000)]}
        )
    )
    assert path.stat().st_size > 3_000_000
    tracemalloc.start()
    count = sum(1 for _ in stream_arrays(path, arrays={"annotations"}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and peak < 1_000_000
