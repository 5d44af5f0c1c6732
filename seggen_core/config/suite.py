"""Suites: arms that answer one question, beside the figures of a paper's table.

params.yaml lists the suites of a project (`suite`). Each has a file of its own, such as
profiles/suites/seggen-table4.yaml, which says what the suite changes in params.yaml and what stands
in its table.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from seggen_core.config.base import SLUG, Section, Slug, TrackedPath
from seggen_core.config.library_settings import first_error
from seggen_core.config.params_file import read_params, require_mapping
from seggen_core.errors import ConfigError

Figure = Annotated[float, Field(ge=-100, le=100)]
"""A figure of a paper's table, in percent."""


class SuiteConfig(Section):
    """One suite of the project."""

    file: Annotated[str, TrackedPath]
    """The suite's file, relative to the project's folder; DVC watches it."""


class SuiteRow(Section):
    """One row of a suite's table: an arm, a figure of the paper, or both."""

    label: str
    """What the row is called."""
    arm: Slug | None = None
    """The arm that gives our figures, or the entry of `transfer`; None where there is none."""
    paper: dict[str, Figure] = Field(default_factory=dict)
    """The paper's figures, by the names of `scores`."""
    against: Slug | None = None
    """Arm that this one is compared with, seed by seed."""
    missing: str | None = None
    """Why there is no arm: what isn't there yet. None for an arm, and for rows that the paper
    itself quotes.
    """
    x: float | None = None
    """Place of the row on the curve's axis."""
    group: str | None = None
    """Line of the curve that the row belongs to."""

    @model_validator(mode="after")
    def _check(self) -> "SuiteRow":
        if self.arm is not None and self.missing is not None:
            raise ValueError(f"the row {self.label!r} has an arm, so it isn't missing")
        if self.arm is None and not self.paper and self.missing is None:
            raise ValueError(f"the row {self.label!r} has neither an arm nor a figure of the paper")
        if self.against is not None and self.arm is None:
            raise ValueError(f"the row {self.label!r} has no arm to compare with {self.against}")
        return self


class SuiteCurve(Section):
    """A curve through the rows that have a place on its axis."""

    x: str
    """Name of the axis."""
    log: bool = False
    """Logarithmic axis."""
    history: bool = False
    """Draw loss and validation mIoU of each arm's training, step by step, instead of one point for
    each row.
    """


class SuiteFile(Section):
    """The file of a suite."""

    title: str
    """Heading of its page."""
    profile: Slug
    """Profile whose dataset it is for."""
    paper: str | None = None
    """The paper whose figures stand beside ours; None for a suite without."""
    place: str | None = None
    """Where in the paper they are."""
    note: str | None = None
    """What a reader has to know about the figures."""
    params: dict[str, Any] = Field(default_factory=dict)
    """What the suite changes in params.yaml: mappings are merged, the names of `methods` are added,
    and everything else is replaced.
    """
    scores: dict[str, str] = Field(min_length=1)
    """Columns of its table: the heading of each score of metrics.json, by its name there ("miou",
    "groups/diffumask/bus").
    """
    curve: SuiteCurve | None = None
    """The curve of its page; None draws none."""
    rows: tuple[SuiteRow, ...] = Field(min_length=1)
    """The table, in its order."""

    @model_validator(mode="after")
    def _check(self) -> "SuiteFile":
        for row in self.rows:
            if unknown := sorted(set(row.paper) - set(self.scores)):
                raise ValueError(
                    f"the row {row.label!r} has a figure for {unknown[0]!r}, which isn't among "
                    f"'scores': {', '.join(self.scores)}"
                )
        methods = self.params.get("methods", [])
        is_list = isinstance(methods, list)
        if not is_list:
            raise ValueError(f"params.methods is {methods!r}; expected a list: [{methods}]")
        if (self.paper is None) != (self.place is None):
            raise ValueError("'paper' and 'place' go together: figures need a source")
        if self.paper is None and any(row.paper for row in self.rows):
            raise ValueError("a row has figures of a paper, and 'paper' doesn't name it")
        return self

    @property
    def arms(self) -> list[str]:
        """Names of the arms that its rows need, each once."""
        named = (name for row in self.rows for name in (row.arm, row.against) if name is not None)
        return list(dict.fromkeys(named))


def read_suite(path: Path) -> SuiteFile:
    """Read and check the file of a suite.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    tree = read_params(path)
    require_mapping(tree, name=str(path), keys="title, profile, scores, rows, ...")
    try:
        # As JSON, because values are strict there, but a list is a tuple.
        return SuiteFile.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_error(error, section='')}") from None


def check_arms(
    suite: SuiteFile, *, arms: Collection[str], transfers: Collection[str], name: str
) -> None:
    """Check that the rows of a suite name what is scored.

    Args:
        suite: the suite.
        arms: names of the arms that `evaluate` scores; none with a list of words.
        transfers: names of the entries of `transfer`.
        name: of the suite.

    Raises:
        ConfigError: it names the arms that are nowhere.
    """
    known = [*arms, *transfers]
    if absent := [arm for arm in suite.arms if arm not in known]:
        expected = (
            "arms of params.yaml or of the suite's own params.variants, or entries of transfer"
            if arms
            else "entries of transfer, because a list of words has no test images"
        )
        raise ConfigError(
            f"rows of the suite {name} name {', '.join(absent)}; expected {expected}: "
            f"{', '.join(known) or 'there are none'}"
        )


def check_suite_name(file: Path) -> None:
    """Check the name of a suite's file, which becomes an item of dvc.yaml.

    Raises:
        ConfigError: it says which names there may be.
    """
    if not SLUG.fullmatch(file.stem):
        raise ConfigError(
            f"the suite's file is called {file.name!r}; expected letters of English, digits, '_' "
            "and '-', the first of them a letter or digit, and then .yaml: rename it"
        )


def merge_params(
    tree: dict[str, Any], changes: Mapping[str, Any], *, key: str = ""
) -> list[tuple[str, Any, Any]]:
    """Merge what a suite changes into the content of params.yaml, in place.

    Returns:
        (key, what was there, what is there now) of each value that was there and differs.
    """
    replaced = []
    for name, value in changes.items():
        place = f"{key}.{name}" if key else str(name)
        present = tree.get(name)
        if place == "methods" and isinstance(present, list):
            present += [method for method in value if method not in present]
        elif isinstance(value, Mapping) and isinstance(present, dict):
            replaced += merge_params(present, value, key=place)
        elif name not in tree or present is None or present in ([], {}):
            tree[name] = value
        elif present != value:
            replaced.append((place, present, value))
            tree[name] = value
    return replaced
