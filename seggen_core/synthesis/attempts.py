"""What became of every attempt at a sample, on disk as it happens, so that an interrupted stage can go on."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np

from seggen_core.attention.seediff import ACCEPTED


class AttemptLog:
    """What became of every attempt so far, one JSON line each, on disk before any of their samples is committed."""

    def __init__(self, path: Path, *, keep: int) -> None:
        """Read the first `keep` attempts and cut the rest off: attempts after the last committed sample are made again."""
        lines = (
            path.read_text(encoding="utf-8").splitlines(keepends=True)[:keep]
            if path.exists()
            else []
        )
        path.write_text("".join(lines), encoding="utf-8")
        self._path = path
        self.records: list[dict] = [json.loads(line) for line in lines]

    def extend(self, records: list[dict]) -> None:
        """Add attempts, safely on disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, sort_keys=True) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
        self.records += records

    @property
    def accepted(self) -> list[dict]:
        """The attempts that became samples."""
        return [record for record in self.records if record["status"] == ACCEPTED]

    def summary(self) -> dict:
        """Return counts, rejections by reason, and mean quality of the accepted."""
        accepted = self.accepted
        names = accepted[0]["quality"] if accepted else {}
        return {
            "accepted": len(accepted),
            "attempts": len(self.records),
            "acceptance_rate": round(len(accepted) / max(len(self.records), 1), 6),
            "rejected": dict(
                sorted(
                    Counter(r["status"] for r in self.records if r["status"] != ACCEPTED).items()
                )
            ),
            "quality": {
                name: round(float(np.mean([r["quality"][name] for r in accepted])), 6)
                for name in names
            },
        }
