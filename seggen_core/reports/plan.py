"""Estimates the samples, hours and disk of every stage before a run starts.

The hours are network calls times seconds per call. The seconds come from a table of throughputs
(`plan_rates.json`), which says where its numbers come from; they are scaled by the number of
pixels. If a stage of this project has run here before with the same amount of work, its hours are
those of its last run.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from seggen_core.config import SegGenConfig
from seggen_core.config.overrides import set_value
from seggen_core.errors import ConfigError
from seggen_core.project.artefacts import parse_typed
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.plan_cost import halving_notes, with_memory
from seggen_core.reports.plan_inputs import (
    Workload,
    count_samples,
    foundation_family,
    has_other_results,
    num_sources,
)
from seggen_core.reports.plan_stages import StagePlan, estimate_stages
from seggen_core.tracking.dvc_lineage import DvcLock, read_dvc_lock


@dataclass(frozen=True)
class Plan:
    """A plan of a whole run.

    Attributes:
        profile: name of the planned profile.
        stages: in the order they run.
        notes: sources of the numbers, and costs that they leave out.
        price: of an hour of the device, in the user's currency; None shows no money.
    """

    profile: str
    stages: list[StagePlan]
    notes: list[str]
    price: float | None = None

    def render(self) -> str:
        """Return a readable table."""
        rows = [["stage", "items", "work", "hours", "GB", "GPU GB", "cost", "hours from"]]
        rows += [
            [
                *(
                    s.stage,
                    str(s.items),
                    s.work,
                    _format_quantity(s.hours),
                    _format_quantity(s.gigabytes),
                ),
                "" if s.gpu_gigabytes is None else _format_quantity(s.gpu_gigabytes),
                self._cost(s.hours),
                s.basis,
            ]
            for s in self.stages
        ]
        items, hours, disk = (
            sum(getattr(s, field) for s in self.stages) for field in ("items", "hours", "gigabytes")
        )
        peak = max((s.gpu_gigabytes or 0.0 for s in self.stages), default=0.0)
        largest = _format_quantity(peak) if peak else ""
        total = ["total", str(items), "", _format_quantity(hours), _format_quantity(disk), largest]
        rows.append([*total, self._cost(hours), ""])
        used = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
        rows = [[row[i] for i in used] for row in rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        text_columns = (0, 2, len(rows[0]) - 1)
        table = [
            "  ".join(
                c.ljust(w) if i in text_columns else c.rjust(w)
                for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([f"plan of the profile {self.profile}", "", *table, "", *notes])

    def _cost(self, hours: float) -> str:
        return "" if self.price is None else f"{hours * self.price:,.2f}"


class _Memory(BaseModel):
    """Weights in billions (1e9), and GB of a row of a batch."""

    unet: float
    controlnet: float
    rest: float
    row_gb: float
    row_checkpointing_gb: float
    sample_gb: float


class _Network(BaseModel):
    image_size: float
    unet_s: float
    vae_s: float
    gigabytes: float
    basis: str | None = None
    train_passes: float | None = None
    mask2img_training: float | None = None
    memory: _Memory | None = None


class _SegmenterRates(BaseModel):
    image_size: float
    train_s: float
    predict_s: float
    gigabytes: float
    row_gb: float | None = None
    of: str | None = None


class _NearestRates(BaseModel):
    image_size: float
    read_s: float
    image_pair_s: float
    mask_pair_s: float


class Rates(BaseModel):
    """Throughputs of one device, as plan_rates.json has them."""

    basis: str
    source: str
    sdxl: _Network
    sd: _Network
    embedded: _Network
    caption_s: float
    segmenter: dict[Literal["hrnet", "mask2former"], _SegmenterRates]
    nearest: _NearestRates


class _Durations(BaseModel):
    stages: dict[str, float]


def load_rates(path: Path | None, *, device: str) -> dict[str, Any]:
    """Return the throughputs of a device.

    Args:
        path: the user's table; None is the one that comes with the package.
        device: "gpu" or "cpu".

    Raises:
        ConfigError: the table can't be read, or has no such device.
    """
    try:
        table = resources.files("seggen_core.reports") / "plan_rates.json" if path is None else path
        if path is not None and path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        return parse_typed(table.read_bytes(), dict[str, Rates])[device].model_dump(
            exclude_unset=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"no throughputs of {device!r} can be read from {path}: {error!r}; see docs/datasets.md"
        ) from None


def plan_project(
    config: SegGenConfig,
    *,
    paths: ProjectPaths,
    rates: Mapping[str, Any],
    use_results: bool = True,
) -> Plan:
    """Estimate the stages that `dvc repro ablation` runs.

    Args:
        config: the project's parameters.
        paths: where the dataset, earlier stages and their durations may be found.
        rates: of one device, as `load_rates` gives them.
        use_results: take subsets and durations from what has run in the project, if that was with
            the same dataset; False plans `config` as if nothing had run.

    Raises:
        ConfigError: the dataset's settings are wrong, or `rates` lacks what is needed.
    """
    use_results = use_results and not has_other_results(config, paths=paths)
    counts, notes = count_samples(config, paths=paths)
    family = foundation_family(config, paths=paths)
    workload = Workload(
        config,
        rates,
        counts,
        num_sources(config, paths=paths, train=counts["train"], use_results=use_results),
        rates[family],
        family,
    )
    stages = with_memory(estimate_stages(workload), workload)
    all_notes = [
        f"hours of one device: {rates['source']}",
        *notes,
        *(note for stage in stages for note in stage.notes),
        "disk: DVC's cache holds everything a second time, unless it can link (dvc config "
        "cache.type)",
    ]
    all_notes += halving_notes(stages, workload)
    if use_results:
        stages = _with_durations(stages, workload, paths=paths)
    return Plan(config.profile, stages, all_notes)


def _with_durations(
    stages: list[StagePlan], workload: Workload, *, paths: ProjectPaths
) -> list[StagePlan]:
    """Replace the hours of each stage whose items all ran here by those of the last run.

    A stage that ran with other settings counts only if they make the same work.
    """
    file = paths.root / ".seggen" / "durations.json"
    try:
        durations = parse_typed(file.read_bytes(), _Durations).stages if file.is_file() else {}
    except (OSError, ValueError, KeyError):
        return stages  # a broken file of durations is no reason not to plan
    lock = read_dvc_lock(paths.root / "dvc.lock")
    plans = []
    for stage in stages:
        ran = {name: s for name, s in durations.items() if name.partition("@")[0] == stage.stage}
        measured = replace(stage, hours=sum(ran.values()) / 3600, basis="last run here")
        is_known = len(ran) == stage.items and _is_same_work(stage, ran, lock, workload)
        plans.append(measured if is_known else stage)
    return plans


def _is_same_work(
    stage: StagePlan, names: Collection[str], lock: DvcLock, workload: Workload
) -> bool:
    """Whether a stage's last run did what is planned, by the parameters in dvc.lock."""
    recorded: dict[str, Any] = {}
    for name in names:
        for key, value in lock.params.get(name, {}).items():
            if recorded.setdefault(key, value) != value:
                return False  # its items ran with different settings
    tree = workload.config.model_dump(mode="json", exclude_unset=True)
    try:
        for key, value in recorded.items():
            set_value(tree, key.split("."), value)
        config = SegGenConfig.model_validate(tree)
        then = {s.stage: s for s in estimate_stages(replace(workload, config=config))}
    except (ValueError, KeyError):  # settings that this version doesn't know
        return False
    last = then.get(stage.stage)
    return last is not None and last.work == stage.work and math.isclose(last.hours, stage.hours)


def _format_quantity(value: float) -> str:
    """Format a number with two or more significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"
