"""The text of params.yaml: it means the same to this project and to DVC, or it is refused."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml

from seggen_core.config import load_config
from seggen_core.config.params_file import MAX_BYTES, parse_params, read_params
from seggen_core.errors import ConfigError

ROOT = Path(__file__).parent.parent
REFUSED = {
    "a: 1\nb: {c: 1,\n c: 2}": "line 3: the key b.c stands twice (first in line 2)",
    "a: 1:30": "a is 1:30; expected decimal digits",
    "a: 1_000": "a is 1_000; expected decimal digits",
    "a: 0o17": "a is 0o17; expected decimal digits",
    "a: 017": "a is 017; expected decimal digits",
    "a: yes": "a is yes; expected true or false",
    "a: [on]": "a.0 is on; expected true or false",
    "off: 1": "off; expected true or false",
    "a: .inf": "a is .inf; expected a finite number",
    "a: .NaN": "a is .NaN; expected a finite number",
    "a: 1e400": "a is 1e400; expected a finite number",
    f"a: {'9' * 5000}": "expected a number of at most 9223372036854775807",
    "a: 2020-01-01": "a is 2020-01-01; expected plain text",
    "1: a": "1, which is no text",
    "[1]: a": "no plain text",
    "a: !!python/object/apply:os.system [true]": "the tag tag:yaml.org,2002:python/object/apply",
    "a: !!str 3": "has the tag",
    "a: &x [*x]": "*x in a.0 refers to itself",
    "a: *x": "*x in a has no anchor",
    "a: &x 1\nb: &x 2": "the anchor &x stands twice",
    "a: 1\n---\nb: 2": "line 2: a second document starts",
    "%YAML 1.1\n---\na: 1": "has a % directive",
    "a: [b:c]": "a.0 is b:c, with a colon between brackets",
    'a: "\\0"': "a holds a control character",
    "a: \0": "not valid YAML: control characters are not allowed",
    "a:\n\t- 1": "not valid YAML: found character that cannot start any token in line 2",
    "a: [1": "not valid YAML",
    "[" * 2000 + "]" * 2000: "nests more than 32",
    "a: " + "{a: " * 2000: "nests more than 32",
    "a0: &a0 [x, x]\n"
    + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(30)): (
        "holds more than 100000 values"
    ),
}
PLAIN = [
    *("0", "-0", "+1", "12", "1.5", "0.", ".5", ".5e-3", ".5e3", "1e-4", "1.5e3", "1E+4", "0e0"),
    *("true", "FALSE", "null", "~", "", "y", "n", "nan", "inf", "1e", "1.2.3", "0x", "1,000"),
    *("'1:30'", '"yes"', "'3 '", "a b", "a:b", "2020-1-1", "é", "|\n    x\n    y", ">\n    x\n"),
    *("[1, [a, {b: 1}]]", "{<<: {a: 1, b: 2}, b: 3}", "{<<: [{a: 1}, {a: 2, c: 3}]}", "{'1': a}"),
]
CHARACTERS = "0123456789+-._eExXob:~yntf \n'\"[]{},&*!#|>%@?<"


def typed(value: Any) -> Any:
    """Return a form of a value in which true isn't 1, and 1 isn't 1.0."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return [typed(v) for v in value] if isinstance(value, list) else (type(value), value)


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_means_two_things_or_too_much_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_params(text, name="params.yaml")
    message = str(caught.value)
    assert REFUSED[text] in message and "params.yaml" in message
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_taken_means_the_same_to_dvc(text: str) -> None:
    mine = parse_params(f"k: {text}\n", name="p")
    assert typed(mine) == typed(parse_yaml(f"k: {text}\n", "p"))


def test_random_text_is_refused_or_means_the_same_to_dvc() -> None:
    rng = random.Random(0)
    num_taken = 0
    for _ in range(1500):
        text = "k: " + "".join(rng.choices(CHARACTERS, k=rng.randint(1, 6))) + "\n"
        try:
            mine = parse_params(text, name="p")
        except ConfigError:
            continue
        num_taken += 1
        assert typed(mine) == typed(parse_yaml(text, "p")), text
    assert num_taken > 300


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *ROOT.glob("profiles/*/params.yaml")])
def test_the_profiles_mean_the_same_to_dvc(path: Path) -> None:
    assert typed(read_params(path)) == typed(parse_yaml(path.read_text(encoding="utf-8"), "p"))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"a: 1 \xff\n", "can't be read as UTF-8 text"),
        ("a: 1\n".encode("utf-16"), "can't be read as UTF-8 text"),
        (b"a: 1\n" * (MAX_BYTES // 5 + 1), f"more than {MAX_BYTES} bytes"),
        (None, "does not exist; run from the project folder or pass --params"),
    ],
    ids=["not UTF-8", "UTF-16", "large", "missing"],
)
def test_a_file_that_is_no_parameter_file(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_params(path)
    assert str(path) in str(caught.value)


def test_folders_fifos_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "can't be read as UTF-8 text: Is a directory; expected"),
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/zero"), "no regular file"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_params(path)


def test_a_byte_order_mark_means_nothing(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_params(path) == {"a": 1} == parse_yaml(path.read_text(encoding="utf-8"), "p")


@pytest.mark.parametrize(
    "text, content",
    [
        ("", "is empty"),
        ("# nothing yet\n", "is empty"),
        ("- a\n", "holds a list"),
        ("hello\n", "holds hello alone"),
    ],
)
def test_a_file_without_sections_is_named(tmp_path: Path, text: str, content: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        ConfigError, match=f"params.yaml {content}; expected a mapping, with the key"
    ):
        load_config(path)
