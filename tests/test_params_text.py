"""Changing a parameter file's text: what isn't edited stays byte for byte."""

import copy
import difflib
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from seggen_core.cli import main
from seggen_core.config import load_config, merge_params, read_suite
from seggen_core.config.params_file import parse_params, read_params
from seggen_core.config.params_text import MAX_COLUMNS, merge_text

ROOT = Path(__file__).parent.parent
PROFILES = sorted(path.parent.name for path in (ROOT / "profiles").glob("*/params.yaml"))
SUITES = sorted((ROOT / "profiles" / "suites").glob("*.yaml"))


def merged(text: str, changes: dict[str, Any]) -> str:
    """Merge changes into YAML and check that both versions of YAML read them."""
    before = parse_params(text, name="before")
    after = copy.deepcopy(before)
    merge_params(after, changes)
    new = merge_text(text, before, after)
    assert parse_params(new, name="after") == yaml.safe_load(new) == after
    return new


def edited(before: str, after: str) -> tuple[list[str], list[str]]:
    """Return the lines that are gone and those that are new."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [s[2:] for s in lines if s[0] == "-"], [s[2:] for s in lines if s[0] == "+"]


def write_suite(file: Path, profile: str) -> dict[str, Any]:
    """Write a suite that changes the seed and adds an arm; return the arms."""
    arms = read_params(ROOT / "profiles" / profile / "params.yaml")["variants"]
    new = {"another": copy.deepcopy(next(iter(arms.values())))} if arms else {}
    tree = {
        "title": "t",
        "profile": profile,
        "paper": "P",
        "place": "Table 1",
        "scores": {"miou": "mIoU"},
        "rows": [{"label": "a", "paper": {"miou": 5}}],
        "params": {"seed": 7} | ({"variants": new} if new else {}),
    }
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return new


@pytest.mark.parametrize("profile", PROFILES)
def test_a_suite_changes_the_lines_of_its_keys_alone(tmp_path: Path, profile: str) -> None:
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    params = tmp_path / "params.yaml"
    shutil.copy(tmp_path / "profiles" / profile / "params.yaml", params)
    new = write_suite(tmp_path / "mine.yaml", profile)
    before = params.read_text(encoding="utf-8")
    command = ["--params", str(params), "suites", str(tmp_path / "mine.yaml"), "--force"]
    assert main(command) == 0
    after = params.read_text(encoding="utf-8")
    gone, added = edited(before, after)
    assert gone == ["seed: 0"] and added[0] == "seed: 7"
    assert added[-1] == "suite: {mine: {file: mine.yaml}}"
    assert yaml.safe_load("".join(line + "\n" for line in added[1:-1])) == (new or None)
    assert max(map(len, after.splitlines())) <= MAX_COLUMNS
    assert load_config(params).seed == 7


@pytest.mark.parametrize("file", SUITES, ids=lambda file: file.stem)
def test_every_suite_fits_its_profiles_text(file: Path) -> None:
    suite = read_suite(file)
    text = (ROOT / "profiles" / suite.profile / "params.yaml").read_text(encoding="utf-8")
    after = merged(text, suite.params)
    gone, _ = edited(text, after)
    assert max(map(len, after.splitlines())) <= MAX_COLUMNS
    assert not [line for line in gone if line.lstrip().startswith("#")]
    assert len(gone) <= 4, "a list or a number, not what stands around it"


TEXT = """\
# head
seed: 0 # of all
methods: [a, b]
empty:
none: {} # yet
box: {v: 1, # of two lines
  w: 2}
section: # first
  k: 'v'
  deep:
    n: 1.0e-3 # small
    # behind it

  # of the section
rows:
  - {a: 1}
  - {a: 2}
"""


@pytest.mark.parametrize(
    "changes, old, new",
    [
        ({"seed": 1}, "seed: 0", "seed: 1"),
        ({"methods": ["c"]}, "[a, b]", "[a, b, c]"),
        ({"empty": {"a": None}}, "empty:", "empty: {a: null}"),
        ({"none": {"a": "yes"}}, "{} #", '{a: "yes"} #'),
        ({"box": {"w": 3, "y": True}}, "{v: 1, # of two lines\n  w: 2}", '{v: 1, w: 3, "y": true}'),
        ({"section": {"k": 1e-5}}, "'v'", "1.0e-05"),
        ({"section": {"deep": {"m": -2.5}}}, "# small\n", "# small\n    m: -2.5\n"),
        ({"section": {"l": []}}, "# small\n", "# small\n  l: []\n"),
        (
            {"section": {"l": 1, "deep": {"m": 2}}},
            "# small\n",
            "# small\n    m: 2\n  l: 1\n",
        ),
        ({"rows": [1]}, "rows:\n  - {a: 1}\n  - {a: 2}\n", "rows: [1]\n"),
        ({"last": "a: b"}, "  - {a: 2}\n", '  - {a: 2}\nlast: "a: b"\n'),
    ],
)
def test_an_edit_by_hand(changes: dict[str, Any], old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    assert merged(TEXT, changes) == TEXT.replace(old, new)
    assert merged(TEXT.rstrip("\n"), changes) == TEXT.replace(old, new)


def test_what_is_wide_takes_several_lines() -> None:
    text = "a: 1\nb: |\n  c\n  d\n"
    numbers = list(range(60))
    after = merged(text, {"wide": {"list": numbers, "one": 1, "text": "x " * 60}})
    assert after.startswith(text)
    first, *lists, one, last = after[len(text) :].splitlines()
    assert [first, one] == ["wide:", "  one: 1"] and last.startswith('  text: "x x')
    assert len(lists) == 3 and lists[0].startswith("  list: [0, 1, ")
    assert all(line.startswith("    ") and len(line) <= MAX_COLUMNS for line in lists[1:])


def test_a_file_between_braces_and_an_empty_one_are_written_by_keys() -> None:
    assert merge_text("{a: 1}\n", {"a": 1}, {"a": 1, "b": [2]}) == "a: 1\nb: [2]\n"
    assert merge_text("# none\n", {}, {"b": 1}) == "b: 1\n"


def test_a_part_of_two_names_is_changed_once() -> None:
    text = "a: &shared\n  x: 1\nb: *shared\n"
    before = parse_params(text, name="before")
    after = copy.deepcopy(before)
    merge_params(after, {"a": {"z": 2}})
    assert merge_text(text, before, after) == "a: &shared\n  x: 1\n  z: 2\nb: *shared\n"
