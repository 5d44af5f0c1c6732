"""How a stage ended."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ran", "restored", "unchanged", "failed", "cancelled"]


@dataclass(frozen=True)
class StageResult:
    """How a stage ended, from DVC's exit code, dvc.lock, the outputs and CPU times."""

    name: str
    outcome: Outcome
    """"unchanged": dvc.lock and the outputs are as they were. "ran": the stage's command took CPU
    time. "restored": it took none, so DVC had the outputs in its cache; a command of less than a
    hundredth of a second is taken for that, too. Where the system doesn't tell CPU times, a stage
    "ran" if its record in dvc.lock is another one. "cancelled": the runner ended it. "failed":
    DVC's exit code isn't 0."""
    exit_code: int
    """DVC's; negative where a signal ended DVC itself."""
    seconds: float
    """Wall-clock time, waiting for DVC's lock included."""
    dvc_cpu_seconds: float
    """CPU time of DVC itself."""
    command_cpu_seconds: float | None
    """CPU time of the stage's command; None where the system doesn't tell."""
    changed_outs: tuple[str, ...]
    """The outputs whose hash in dvc.lock is another one than before."""
    tail: tuple[str, ...]
    """The last lines of output."""

    @property
    def ok(self) -> bool:
        """The stage is up to date now."""
        return self.outcome in ("ran", "restored", "unchanged")
