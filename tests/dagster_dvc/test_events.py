"""What Dagster shows of a stage: texts of stages and of files are no Markdown."""

import pytest

from dagster_dvc.events import markdown_lines, markdown_picture


@pytest.mark.parametrize("text", ["a ``` b", "````\n<img src=x onerror=alert(1)>\n````", "plain"])
def test_output_is_shown_as_it_is_whatever_fences_it_holds(text: str) -> None:
    first, *lines, last = markdown_lines(text).value.split("\n")
    assert "\n".join(lines) == text
    assert first == last == "`" * len(first) and first not in text


def test_the_name_of_a_picture_is_no_markdown() -> None:
    value = markdown_picture("a](javascript:x) ![b", b"", kind="image/png").value
    assert value == r"![a\]\(javascript\:x\) \!\[b](data:image/png;base64,)"
