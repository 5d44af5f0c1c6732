"""The result of a check."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        passed: whether the data are as expected.
        summary: one sentence that describes the data and the expectation.
        numbers: the measured values and the limits, by name.
        example: the worst case, or the first that fails: its place and its problem.
        picture: sample store and key of a sample to show.
        blocks: whether a failure stops downstream stages; False makes it a warning.
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
