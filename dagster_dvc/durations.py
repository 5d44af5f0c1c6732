"""How long stages took here: later runs are planned by it. The file is worth nothing when lost."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dagster_dvc.files import read_object, write_json
from dagster_dvc.graph import DvcManifest
from dagster_dvc.result import StageResult

FILE_NAME = "durations.json"


def read_durations(state: Path) -> dict[str, float]:
    """Return wall-clock seconds by stage; none where the file in the folder `state` is damaged."""
    stages = read_object(state / FILE_NAME).get("stages")
    return {
        name: float(seconds)
        for name, seconds in (stages.items() if isinstance(stages, dict) else ())
        if isinstance(seconds, (int, float)) and 0 <= seconds < float("inf")
    }


def note_durations(
    state: Path, results: Iterable[StageResult], *, last_run: Mapping[str, Any] | None = None
) -> None:
    """Add what stages took, and what is known of the whole run; a full disk stops nobody."""
    took = {r.name: round(r.seconds, 1) for r in results if r.outcome == "ran"}
    if not took and last_run is None:
        return
    tree = read_object(state / FILE_NAME)
    tree["stages"] = read_durations(state) | took
    if last_run is not None:
        tree["last_run"] = last_run
    with suppress(OSError):
        write_json(state / FILE_NAME, tree)


def duration_table(
    results: Iterable[StageResult], *, manifest: DvcManifest
) -> list[dict[str, Any]]:
    """One row per group of stages, in the order of dvc.yaml: how many ran, and what those took.

    "seconds" and "slowest" are wall-clock time, "cpu" the commands' CPU time and "dvc_cpu" what DVC
    spent on top of it. "up_to_date" counts those that were restored or unchanged.
    """
    by_group: dict[str, list[StageResult]] = {}
    for result in results:
        by_group.setdefault(manifest.stages[result.name].group, []).append(result)
    rows = []
    for group in manifest.groups:
        if group not in by_group:
            continue
        ran = [result for result in by_group[group] if result.outcome == "ran"]
        skipped = [r for r in by_group[group] if r.outcome in ("restored", "unchanged")]
        rows.append(
            {
                "stage": group,
                "ran": len(ran),
                "up_to_date": len(skipped),
                "seconds": round(sum((result.seconds for result in ran), 0.0), 1),
                "slowest": round(max((result.seconds for result in ran), default=0.0), 1),
                "cpu": round(sum((result.command_cpu_seconds or 0.0 for result in ran), 0.0), 1),
                "dvc_cpu": round(sum(result.dvc_cpu_seconds for result in by_group[group]), 1),
            }
        )
    return rows


def format_table(rows: list[dict[str, Any]]) -> str:
    """`duration_table` as aligned text."""
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for first, *others in cells:
        numbers = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *numbers]))
    return "\n".join(lines)


def format_seconds(seconds: float) -> str:
    """A duration for people: "45 s", "12 min", "3.5 h"."""
    if seconds <= 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
