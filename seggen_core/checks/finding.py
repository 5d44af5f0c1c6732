"""What a check returns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        passed: nothing is wrong.
        summary: one sentence: what the data are like, and what was expected.
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

    @classmethod
    def of_sample(
        cls, passed: bool, summary: str, numbers: dict[str, float], *, folder: Path, key: str
    ) -> Self:
        """Return a finding; if it fails, sample `key` of the store `folder` is its example."""
        if passed:
            return cls(True, summary, numbers)
        return cls(False, summary, numbers, example=key, picture=(folder, key))
