"""The result of a check."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    passed: bool
    """Whether the data are as expected."""
    summary: str
    """One sentence that describes the data and the expectation."""
    numbers: dict[str, float] = field(default_factory=dict)
    """The measured values and the limits, by name."""
    example: str | None = None
    """The worst case, or the first that fails: its place and its problem."""
    picture: tuple[Path, str] | None = None
    """Sample store and key of a sample to show."""
    blocks: bool = True
    """Whether a failure stops downstream stages; False makes it a warning."""
    limit: str | None = None
    """Key of `checks` in params.yaml that the failure is measured by: another value of it would let
    the data pass. None where no limit would."""

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
