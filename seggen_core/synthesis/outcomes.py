"""What became of an attempt at a sample: accepted with the sample, or rejected with the reason."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.attention.masks import ACCEPTED
from seggen_core.store.format import EncodedSample
from seggen_core.store.records import Record


@dataclass(frozen=True)
class Outcome:
    """One attempt at a sample, as the cache holds it.

    Attributes:
        status: "accepted", or the reason why there is no sample.
        quality: scores by name.
        sample: the sample of an accepted attempt.
    """

    status: str
    quality: Mapping[str, float]
    sample: EncodedSample | None

    def to_record(self) -> Record:
        """Return the record that `from_record` reads."""
        info: dict[str, Any] = {"status": self.status, "quality": dict(self.quality)}
        if self.sample is None:
            return Record(info)
        info |= {"key": self.sample.key, "columns": self.sample.columns}
        return Record(info, self.sample.members)

    @classmethod
    def from_record(cls, record: Record) -> "Outcome":
        """Inverse of `to_record`."""
        info, sample = record.info, None
        if info["status"] == ACCEPTED:
            sample = EncodedSample(info["key"], record.members, info["columns"])
        return cls(info["status"], info["quality"], sample)


@dataclass(frozen=True)
class Attempt:
    """One line of attempts.jsonl.

    Attributes:
        attempt: its number, from 0.
        prompt: what was asked for.
        status: "accepted" or the reason for its rejection.
        quality: scores by name.
    """

    attempt: int
    prompt: str
    status: str
    quality: Mapping[str, float]

    @property
    def is_accepted(self) -> bool:
        """Whether it became a sample."""
        return self.status == ACCEPTED


def write_attempts(path: Path, attempts: Sequence[Attempt]) -> None:
    """Write one JSON line for each attempt."""
    lines = (json.dumps(asdict(attempt), sort_keys=True) + "\n" for attempt in attempts)
    path.write_text("".join(lines), encoding="utf-8")


def summarize(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return counts, rejections by reason, and the mean quality of the accepted attempts."""
    accepted = [a for a in attempts if a.is_accepted]
    names = sorted(accepted[0].quality) if accepted else []
    rejected = Counter(a.status for a in attempts if not a.is_accepted)
    return {
        "acceptance_rate": round(len(accepted) / max(len(attempts), 1), 6),
        "accepted": len(accepted),
        "attempts": len(attempts),
        "quality": {
            name: round(float(np.mean([a.quality[name] for a in accepted])), 6) for name in names
        },
        "rejected": dict(sorted(rejected.items())),
    }
