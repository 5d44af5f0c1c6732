"""What Dagster shows of a stage: texts of stages and of files are no Markdown."""

from pathlib import Path

import pytest

from dagster_dvc.events import StageReader, markdown_lines, markdown_picture, stage_metadata
from dagster_dvc.graph import StageNode
from dagster_dvc.lock import LockedOut, LockedStage


@pytest.mark.parametrize("text", ["a ``` b", "````\n<img src=x onerror=alert(1)>\n````", "plain"])
def test_output_is_shown_as_it_is_whatever_fences_it_holds(text: str) -> None:
    first, *lines, last = markdown_lines(text).value.split("\n")
    assert "\n".join(lines) == text
    assert first == last == "`" * len(first) and first not in text


def test_the_name_of_a_picture_is_no_markdown() -> None:
    value = markdown_picture("a](javascript:x) ![b", b"", kind="image/png").value
    assert value == r"![a\]\(javascript\:x\) \!\[b](data:image/png;base64,)"


def test_the_table_of_outputs_is_no_wider_than_a_page_and_sizes_are_sums(tmp_path: Path) -> None:
    outs = {"data/train": LockedOut("a.dir", 70, 3), "data/classes.json": LockedOut("b", 7, None)}
    locked = LockedStage(cmd=(), deps={}, params={}, outs=outs)
    nothing = dict.fromkeys(("cmd", "template", "deps", "metrics", "plots", "upstream"), ())
    node = StageNode(
        "data", "data", None, dimensions={}, outs=(*outs,), params={}, desc=None, meta={}, **nothing
    )
    metadata = stage_metadata(tmp_path, node, locked=locked, reader=StageReader())
    assert "dvc/out" not in metadata
    rows = [row.data for row in metadata["dvc/outs"].records]
    assert rows == [{"path": path, "md5": out.md5} for path, out in outs.items()]
    assert (metadata["dvc/bytes"], metadata["dvc/files"]) == (77, 4)
    single = LockedStage(cmd=(), deps={}, params={}, outs={"data/train": outs["data/train"]})
    metadata = stage_metadata(tmp_path, node, locked=single, reader=StageReader())
    assert (metadata["dvc/out"], metadata["dvc/md5"]) == ("data/train", "a.dir")
    assert "dvc/outs" not in metadata and metadata["dvc/files"] == 3
