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
        limit: key of `checks` in params.yaml that the failure is measured by: another value of it
            would let the data pass. None where no limit would.
    """

    passed: bool
    summary: str
    numbers: dict[str, float] = field(default_factory=dict)
    example: str | None = None
    picture: tuple[Path, str] | None = None
    blocks: bool = True
    limit: str | None = None

    @classmethod
    def of_sample(
        cls,
        passed: bool,
        summary: str,
        numbers: dict[str, float],
        *,
        picture: tuple[Path, str],
        limit: str | None = None,
    ) -> Self:
        """Return a finding; if it fails, the sample of `picture` is its example."""
        if passed:
            return cls(True, summary, numbers)
        _, key = picture
        return cls(False, summary, numbers, example=key, picture=picture, limit=limit)
