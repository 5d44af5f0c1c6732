"""The findings of a validation, as tables to read and as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from seggen_core.config import Split
from seggen_core.datasets.files import printable
from seggen_core.project.storage import written_whole


@dataclass(frozen=True)
class Problem:
    """One fault: where it is, and what is wrong with what is there."""

    where: str
    what: str


@dataclass(frozen=True)
class SplitSummary:
    """One split of the real dataset."""

    split: Split
    """Its name."""
    num_samples: int
    """Keys listed, bad ones among them."""
    num_bad: int
    """Samples that can't be used."""
    sizes: dict[str, int]
    """Sound samples by "WIDTHxHEIGHT", most frequent first."""
    class_pixels: list[int]
    """Pixels per train id; empty where headers alone were checked."""
    class_samples: list[int]
    """Sound samples in which the class occurs, per train id."""
    ignored_pixels: int
    """Pixels that belong to no class."""
    unlisted_pixels: int = 0
    """Those of them that only a convention makes ignored."""


@dataclass(frozen=True)
class StoreSummary:
    """One sample store of the project."""

    name: str
    """Its folder."""
    num_samples: int
    """All of its samples."""
    num_bad: int
    """Those that can't be used."""


@dataclass(frozen=True)
class ValidationReport:
    """What `validate_project` found."""

    dataset: str
    """Name of the reader."""
    class_names: list[str]
    """In train-id order."""
    splits: list[SplitSummary]
    """The real dataset."""
    stores: list[StoreSummary]
    """Sample stores below data/."""
    problems: list[Problem] = field(default_factory=list)
    """What has to be put right; the dataset is sound where this is empty."""
    tolerated: list[Problem] = field(default_factory=list)
    """Bad samples of the dataset, where there are no more than `max_bad` in a split."""
    notes: list[str] = field(default_factory=list)
    """Worth knowing, not wrong."""
    headers_only: bool = False
    """No pixel was decoded, so classes, damage behind the header and repeated images are not known.
    """

    def to_json(self) -> dict:
        """Return plain dicts and lists, for the report file."""
        return asdict(self)

    def render(self, *, max_listed: int = 20) -> str:
        """Return readable tables, with the first `max_listed` problems in full."""
        lines = [
            f"{self.dataset}: "
            + ", ".join(f"{s.split} {s.num_samples}" for s in self.splits)
            + " samples",
            "",
        ]
        if not self.headers_only:
            lines += [*_table(self._class_rows()), ""]
        for s in self.splits:
            sizes = ", ".join(f"{size} ({n})" for size, n in list(s.sizes.items())[:4]) + (
                ", ..." if len(s.sizes) > 4 else ""
            )
            lines.append(
                f"{s.split}: {s.num_bad} of {s.num_samples} samples bad; sizes: {sizes or 'none'}"
            )
        if self.stores:
            lines += [
                "",
                *_table(
                    [
                        ["store", "samples", "bad"],
                        *([s.name, str(s.num_samples), str(s.num_bad)] for s in self.stores),
                    ]
                ),
            ]
        lines += ["", *(f"note: {n}" for n in self.notes)] if self.notes else []
        for title, problems in (("tolerated", self.tolerated), ("problem", self.problems)):
            lines += (
                ["", *(f"{title}: {_line(p)}" for p in problems[:max_listed])] if problems else []
            )
            lines += (
                [f"... and {len(problems) - max_listed} more"] if len(problems) > max_listed else []
            )
        checked = " in the headers" if self.headers_only else ""
        lines += [
            "",
            f"{len(self.problems)} problem(s){checked}"
            if self.problems
            else f"no problems{checked}",
        ]
        return "\n".join(lines)

    def _class_rows(self) -> list[list[str]]:
        """Share of all pixels, and samples, of each class in each split."""
        totals = [max(1, sum(s.class_pixels) + s.ignored_pixels) for s in self.splits]
        rows = [
            [
                "class",
                *(f"{s.split} %" for s in self.splits),
                *(f"in {s.split}" for s in self.splits),
            ]
        ]
        for i, name in enumerate(self.class_names):
            shares = [
                f"{100 * s.class_pixels[i] / total:.2f}"
                for s, total in zip(self.splits, totals, strict=True)
            ]
            rows.append([name, *shares, *(str(s.class_samples[i]) for s in self.splits)])
        ignored = [
            f"{100 * s.ignored_pixels / total:.2f}"
            for s, total in zip(self.splits, totals, strict=True)
        ]
        rows.append(["(ignored)", *ignored, *("" for _ in self.splits)])
        return rows

    def write(self, path: Path) -> None:
        """Write all findings to a file: as JSON if its name ends in .json, else as text.

        Raises:
            StorageError: it can't be written.
        """
        if path.suffix.lower() == ".json":
            text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        else:
            text = self.render(max_listed=len(self.problems) + len(self.tolerated) + 1)
        with written_whole(path) as file:
            file.write_text(text + "\n", encoding="utf-8")


def _line(problem: Problem) -> str:
    return printable(f"{problem.where}: {problem.what}")


def _table(rows: list[list[str]]) -> list[str]:
    """Align columns: the first to the left, numbers to the right."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(r, widths, strict=True))
        ).rstrip()
        for r in rows
    ]
