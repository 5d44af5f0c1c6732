"""Elements of large JSON files: the same as json.loads gives, with the bytes that hold them."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from seggen_core.datasets import json_stream
from seggen_core.datasets.json_stream import read_elements, stream_arrays
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
    elements = list(stream_arrays(path, arrays={"images", "annotations", "scalars", "empty"}))
    assert [e.value for e in elements if e.array == "images"] == TREE["images"]
    assert [e.value for e in elements if e.array == "annotations"] == TREE["annotations"]
    assert [e.value for e in elements if e.array == "scalars"] == TREE["scalars"]
    spans = [(element.start, element.length) for element in elements]
    assert list(read_elements(path, spans=spans)) == [element.value for element in elements]


BROKEN = {
    "cut in an array": ('{"a": [1, 2', "found 'the end', not ','"),
    "cut in an element": ('{"a": [{"b": 1}', "found 'the end', not ','"),
    "cut in a string": ('{"a": [{"b": "1', "Unterminated string"),
    "cut behind a key": ('{"a"', "found 'the end', not ':'"),
    "no colon": ('{"a" [1]}', "found '\\[', not ':'"),
    "an array": ("[1, 2]", "found '\\[', not '{'"),
    "nothing": ("", "found 'the end', not '{'"),
    "no comma": ('{"a": [1 2]}', "found '2', not ','"),
    "a comma too many": ('{"a": [1, ]}', "Expecting value"),
    "no value": ('{"a": [nul]}', "Expecting value"),
    "no text": ("\x00", "found .*, not '{'"),
    "a key that is a number": ("{1: [1]}", "'1' is no key"),
    "text behind the end": ('{"a": [1]} 2', "more follows behind the end"),
    "bytes behind the end": ('{"a": [1]}\n\xff\x00\x17', "more follows behind the end"),
    "a key twice": ('{"a": [1], "a": [2]}', "'a' .* stands there twice"),
    "a key twice in an element": ('{"a": [{"id": 1, "id": 2}]}', "the key 'id' stands twice"),
    "a key twice, ü": ('{"a": [{"ü": 1, "ü": 2}]}', "stands twice"),
    "deep arrays": ('{"a": ' + "[" * 200_000, "recursion"),
    "deep objects": ('{"a": [' + '{"b":' * 200_000, "recursion"),
    "a number too long": ('{"a": [' + "9" * 5_000 + "]}", "4300 digits"),
    "no UTF-8": ('{"a": ["\xff"]}', "codec can't decode"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("chunk", [5, 1 << 20])
def test_what_is_no_such_json_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, chunk: int
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = tmp_path / "bad.json"
    content, words = BROKEN[case]
    path.write_bytes(content.encode("utf-8" if "ü" in content else "latin-1"))
    with pytest.raises(DatasetError, match=rf"bad\.json is not valid at byte \d+: .*{words}"):
        list(stream_arrays(path, arrays={"a"}))


def test_a_value_may_not_be_longer_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 64)
    monkeypatch.setattr(json_stream, "MAX_VALUE_BYTES", 1000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [[1] * 300, [1] * 300]}))
    assert len(list(stream_arrays(path, arrays={"a"}))) == 2
    path.write_text(json.dumps({"info": [0], "a": [[1] * 300, [1] * 100_000]}))
    with pytest.raises(DatasetError, match="no value ends within 1000 bytes"):
        list(stream_arrays(path, arrays={"a"}))


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [{"b": "ü"}]}', encoding="utf-8-sig")
    (element,) = stream_arrays(path, arrays={"a"})
    assert element.value == {"b": "ü"} and element.start == 10
    spans = [(element.start, element.length)]
    assert list(read_elements(path, spans=spans)) == [element.value]


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    with pytest.raises(DatasetError, match=r"fifo\.json is a FIFO; expected a regular file"):
        list(stream_arrays(tmp_path / "fifo.json", arrays=set()))
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    with pytest.raises(DatasetError, match=r"loop\.json can't be read \(Too many levels"):
        list(stream_arrays(tmp_path / "loop.json", arrays=set()))


def test_a_missing_file_and_one_that_has_changed(tmp_path: Path) -> None:
    (tmp_path / "other.json").touch()
    with pytest.raises(DatasetError, match=r"is missing.* holds 1 file\(s\): 1 \.json"):
        list(stream_arrays(tmp_path / "no.json", arrays=set()))
    (tmp_path / "a.json").write_text('{"a": [{"b": 1}]}')
    with pytest.raises(DatasetError, match="has changed or can't be read at byte 7"):
        list(read_elements(tmp_path / "a.json", spans=[(7, 3)]))


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
