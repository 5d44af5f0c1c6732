"""What a check returns."""

from dataclasses import dataclass, field
from pathlib import Path

from seggen_core.project.paths import ProjectPaths
from seggen_core.taxonomy import Taxonomy


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        passed: nothing is wrong.
        summary: one sentence: what was found, and what was expected.
        numbers: what it rests on.
        example: the worst case, or the first that fails: where it is and what is wrong with it.
        picture: sample store and key of `example`, where it can be looked at.
        blocks: whether a failure should stop what is downstream; False is a warning.
    """

    passed: bool
    summary: str
    numbers: dict[str, float] = field(default_factory=dict)
    example: str | None = None
    picture: tuple[Path, str] | None = None
    blocks: bool = True


def read_taxonomy(paths: ProjectPaths) -> Taxonomy:
    """The classes of the real dataset."""
    return Taxonomy.read(paths.taxonomy)
