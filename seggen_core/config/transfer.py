"""Tests of an arm on another dataset than it was trained on."""

from pydantic import Field, model_validator

from seggen_core.config.base import NOTHING_TO_WATCH, Section, Slug
from seggen_core.config.data import DatasetConfig


class MatchedClasses(Section):
    """One class of a transfer: what it is called here, and there."""

    ours: tuple[Slug, ...] = Field(min_length=1)
    """Slugs of the arm's classes."""
    theirs: tuple[Slug, ...] = Field(min_length=1)
    """Slugs of the other dataset's classes."""


class TransferConfig(Section):
    """A test of an arm on the test split of another dataset.

    The classes of both datasets are brought together by `classes`. Pixels that are of none of them,
    here or there, are one more class, the rest.
    """

    arm: Slug
    """The arm that is tested."""
    dataset: DatasetConfig
    """The other dataset, as the section `dataset` describes one. Its test split is read as
    published; nothing of it is stored.
    """
    classes: dict[Slug, MatchedClasses] = Field(min_length=1)
    """The classes that are scored, by name: {"vehicle": {"ours": ["car", "bus"], "theirs":
    ["car"]}}.
    """
    groups: Slug = "transfer"
    """Name of these scores, as a name of `evaluate.groups` is: "groups/<name>/<class>"."""

    @model_validator(mode="after")
    def _check(self) -> "TransferConfig":
        for side in ("ours", "theirs"):
            listed = [slug for match in self.classes.values() for slug in getattr(match, side)]
            if twice := sorted({slug for slug in listed if listed.count(slug) > 1}):
                raise ValueError(f"classes: {', '.join(twice)} stands twice under {side!r}")
        if self.dataset.name != "scenes" and self.dataset.root is None:
            raise ValueError("dataset.root is not set; give the folder of the other dataset")
        if self.dataset.reads is None:
            raise ValueError(
                "dataset.reads is not set, which DVC watches; give the same folder as "
                f"dataset.root, or {NOTHING_TO_WATCH} without one"
            )
        return self
