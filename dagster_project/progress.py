"""How far a running stage is: "masksyn@car: 16 of 40 samples, about 2 min left"."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from dagster_dvc.durations import format_seconds
from dagster_dvc.graph import StageNode
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking.log import Metrics, Start, read_chunk, run_files

TAIL_BYTES = 16_384
DECODER = "decoder/"
"""Metrics of Text2Mask's second training, which has a number of steps of its own."""


@dataclass
class ProgressReader:
    """Reads the log of trainings and the caches of samples; remembers how fast samples come.

    A training logs its steps with their times. Of samples only the number is known, so the time
    left is estimated from the second look on.
    """

    _first: dict[str, tuple[float, int]] = field(default_factory=dict, init=False)
    """Of each stage: when it was looked at first, and how many samples there were."""

    def line(self, root: Path, node: StageNode) -> str | None:
        """One line on a running stage; None where nothing is known yet."""
        paths = ProjectPaths(root)
        text = self._steps(paths, node) or self._samples(paths, node)
        return None if text is None else f"{node.name}: {text}"

    def _steps(self, paths: ProjectPaths, node: StageNode) -> str | None:
        """Return the newest step of a training with its metrics, as long as its run goes on."""
        for file in run_files(paths.metrics_log, node.name)[:1]:
            head = read_chunk(file, 0).events
            tail = read_chunk(file, max(file.stat().st_size - TAIL_BYTES, 0)).events
            steps = [event for event in tail if isinstance(event, Metrics) and event.step]
            if not steps:
                return None
            last = steps[-1]
            params = head[0].params if head and isinstance(head[0], Start) else {}
            is_decoder = any(DECODER in key for key in last.metrics)
            total = params.get("decoder_steps" if is_decoder else "num_steps", "")
            values = ", ".join(f"{key} {value:.4g}" for key, value in last.metrics.items())
            if not total.isdigit() or int(total) < last.step:
                return f"step {last.step}, {values}"
            same = [s for s in steps if s.metrics.keys() == last.metrics.keys()]
            same = [s for s in same if s.step <= last.step and s.time <= last.time]
            done = last.step - same[0].step
            seconds = (last.time - same[0].time) / 1000
            left = _left(done, seconds=seconds, remaining=int(total) - last.step)
            return f"step {last.step} of {total}{left}, {values}"
        return None

    def _samples(self, paths: ProjectPaths, node: StageNode) -> str | None:
        """Return how many samples of a partition were made."""
        from seggen_core.store.cache import count_added

        if node.key is None:
            return None
        num_made = count_added(paths.record_cache(node.group, node.key))
        if not num_made:
            return None
        total = num_planned(paths, node)
        if total is None or total < num_made:
            return f"{num_made} samples made"
        now = time.monotonic()
        first_at, at_first = self._first.setdefault(node.name, (now, num_made))
        if num_made < at_first:  # another run of the stage
            first_at, at_first = self._first[node.name] = (now, num_made)
        left = _left(num_made - at_first, seconds=now - first_at, remaining=total - num_made)
        return f"{num_made} of {total} samples{left}"


def num_planned(paths: ProjectPaths, node: StageNode) -> int | None:
    """Return how many samples a class partition gets; None where that isn't known.

    The attention methods make some more, because they reject some.
    """
    params = next(iter(node.params.values()), {}).get(node.group)
    if not isinstance(params, dict) or node.key is None:
        return None
    if isinstance(per_class := params.get("samples_per_class"), int):
        return per_class
    per_source, prompts = params.get("samples_per_source"), paths.prompts(node.key)
    if not isinstance(per_source, int) or not prompts.is_file():
        return None
    import pyarrow.parquet as pq

    return per_source * pq.ParquetFile(prompts).metadata.num_rows


def _left(done: int, *, seconds: float, remaining: int) -> str:
    if done <= 0 or not remaining:
        return ""
    return f", about {format_seconds(seconds / done * remaining)} left"
