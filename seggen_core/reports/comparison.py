"""The files of stage `ablation`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from seggen_core.config import SegGenConfig, Task
from seggen_core.metrics.tasks import CLASS_FIGURE, FIGURES, PRIMARY
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import write_json
from seggen_core.reports.ablation import (
    BOUNDARY,
    ablation_table,
    arm_figures,
    flat_metrics,
    judge_table,
    per_class_delta,
    per_class_table,
    seed_table,
)
from seggen_core.reports.ablation_markdown import HOW_TO_READ, ablation_markdown
from seggen_core.reports.figures import ablation_figure, per_class_figure
from seggen_core.reports.memorization import (
    MemorizationScores,
    flat_memorization,
    memorization_markdown,
)
from seggen_core.reports.scores import (
    Arm,
    JudgeScores,
    SegmentArm,
    read_arms,
    read_judges,
    read_memorization,
)
from seggen_core.reports.segments import task_tables
from seggen_core.reports.tables import escape_markdown
from seggen_core.taxonomy import Taxonomy


@dataclass(frozen=True)
class Comparison:
    """The scores of all arms of an ablation.

    Attributes:
        arms: in the order of params.yaml.
        judges: scores of the methods that were judged.
        memorization: distances of the methods that were compared with the training set.
        taxonomy: the classes.
        baseline: the arm that others are compared with.
        title: heading of the report and the charts.
    """

    arms: list[Arm | SegmentArm]
    judges: list[JudgeScores]
    memorization: list[MemorizationScores]
    taxonomy: Taxonomy
    baseline: str
    title: str
    shown = ("ablation.md", "ablation.csv", "ablation.png", "per_class.png")

    @classmethod
    def read(cls, config: SegGenConfig, *, paths: ProjectPaths, taxonomy: Taxonomy) -> "Comparison":
        """Read the reports of `evaluate`, `judge` and `memorization`.

        Raises:
            SegGenError: an arm hasn't been evaluated, or a report can't be read.
        """
        return cls(
            arms=read_arms(config, paths=paths, taxonomy=taxonomy),
            judges=read_judges(config.synthetic_stores, paths=paths, taxonomy=taxonomy),
            memorization=read_memorization(config.synthetic_stores, paths=paths),
            taxonomy=taxonomy,
            baseline=config.ablation.baseline,
            title=f"Ablation: {config.profile}",
        )

    def write(self, folder: Path) -> dict[str, float]:
        """Write tables, the report and charts to `folder`.

        ablation.csv, per_class.csv, seeds.csv and judge.csv hold the tables of `reports.ablation`.
        plots.csv has one row for each arm, for `dvc plots`. arms/<arm>.json and
        methods/<method>.json have a few figures of each, for `dvc metrics`: it prints one row for
        each file. ablation.md is the report, ablation.png and per_class.png are the charts.
        metrics.json has all figures.

        Arms of different tasks aren't compared with each other. The files above are about the task
        of the baseline. Those of another task have its name before theirs: panoptic_ablation.csv.

        Returns:
            the score of each arm by its task, by "<arm>/miou", "<arm>/pq" and "<arm>/ap".
        """
        for name in ("arms", "methods"):
            (folder / name).mkdir()
        main, *others = self._tasks
        texts: list[str] = []
        plotted: list[pd.DataFrame] = []
        metrics: dict[str, float] = {}
        for task in (main, *others):
            part = _Part(folder, "" if task == main else f"{task}_", self)
            text, rows, figures = (
                part.write_semantic() if task == "semantic" else part.write_segments(task)
            )
            texts.append(text)
            plotted.append(rows)
            metrics |= figures
        pd.concat(plotted).round(4).to_csv(folder / "plots.csv", index=False)
        if self.judges:
            judged = judge_table(self.judges, taxonomy=self.taxonomy)
            judged.round(4).to_csv(folder / "judge.csv", index_label="method")
        for judge in self.judges:
            miou = None if math.isnan(judge.miou) else round(judge.miou, 2)
            write_json(folder / "methods" / f"{judge.method}.json", {"judge_miou": miou})
        if main != "semantic":
            texts.insert(0, f"# {escape_markdown(self.title)}\n\n{HOW_TO_READ}\n")
        texts.append(memorization_markdown(self.memorization))
        text = "\n".join(section for section in texts if section)
        (folder / "ablation.md").write_text(text, encoding="utf-8")
        metrics |= {f"judge.{j.method}": round(j.miou, 4) for j in self.judges if j.miou == j.miou}
        metrics |= flat_memorization(self.memorization)
        write_json(folder / "metrics.json", metrics)
        named = {name.replace(".", "/"): value for name, value in metrics.items()}
        scores = tuple(f"/{name}" for name in PRIMARY.values())
        return {name: value for name, value in named.items() if name.endswith(scores)}

    @property
    def _tasks(self) -> list[Task]:
        """The tasks of the arms, that of the baseline first."""
        tasks = {arm.variant: _task_of(arm) for arm in self.arms}
        first = tasks.get(self.baseline, next(iter(tasks.values())))
        return list(dict.fromkeys([first, *tasks.values()]))


def _task_of(arm: Arm | SegmentArm) -> Task:
    return arm.task if isinstance(arm, SegmentArm) else "semantic"


_Written = tuple[str, pd.DataFrame, dict[str, float]]
"""A section of the report, rows of plots.csv, and figures by "<arm>.<name>"."""


@dataclass(frozen=True)
class _Part:
    """Writes the files of one task.

    Attributes:
        folder: of the report.
        prefix: before the names of files.
        whole: what is compared.
    """

    folder: Path
    prefix: str
    whole: Comparison

    def write_semantic(self) -> _Written:
        """Write the comparison of the arms for semantic segmentation."""
        whole, taxonomy = self.whole, self.whole.taxonomy
        arms = [arm for arm in whole.arms if isinstance(arm, Arm)]
        baseline = _own_baseline(arms, whole.baseline)
        seeds = seed_table(arms, taxonomy=taxonomy)
        table = ablation_table(arms, seeds=seeds, judges=whole.judges, baseline=baseline)
        per_class = per_class_table(arms, seeds=seeds, taxonomy=taxonomy)
        self._write_tables(table, per_class=per_class, seeds=seeds)
        text = ablation_markdown(
            table,
            per_class=per_class,
            judges=whole.judges,
            taxonomy=taxonomy,
            title="Semantic segmentation" if self.prefix else whole.title,
        )
        self._draw(table, per_class=per_class, seeds=seeds, baseline=baseline, task="semantic")
        for arm, figures in arm_figures(table).items():
            write_json(self.folder / "arms" / f"{arm}.json", figures)
        columns = ["variant", "model", "miou", "miou_std", "delta_miou", "miou_things"]
        columns += ["miou_stuff", "pixel_accuracy", *([BOUNDARY] if BOUNDARY in table else [])]
        plotted = table[columns].assign(task="semantic", score=table["miou"])
        return text, plotted, flat_metrics(table, judges=[])

    def write_segments(self, task: Task) -> _Written:
        """Write the comparison of the arms of a task that tells instances apart."""
        whole = self.whole
        arms = [arm for arm in whole.arms if isinstance(arm, SegmentArm) and arm.task == task]
        tables = task_tables(arms, task=task, taxonomy=whole.taxonomy, baseline=whole.baseline)
        options = {"per_class": tables.per_class, "seeds": tables.seeds}
        self._write_tables(tables.table, **options)
        self._draw(tables.table, **options, baseline=tables.baseline, task=task)
        figures = tables.figures()
        for arm, values in figures.items():
            write_json(self.folder / "arms" / f"{arm}.json", values)
        flat = {f"{arm}.{name}": v for arm, values in figures.items() for name, v in values.items()}
        names = ["variant", "model", *FIGURES[task]]
        plotted = tables.table[names].assign(task=task, score=tables.table[tables.score])
        return tables.markdown(whole.taxonomy), plotted, flat

    def _write_tables(
        self, table: pd.DataFrame, *, per_class: pd.DataFrame, seeds: pd.DataFrame
    ) -> None:
        table.round(4).to_csv(self._file("ablation.csv"), index=False)
        per_class.round(4).to_csv(self._file("per_class.csv"), index_label="variant")
        seeds.round(4).to_csv(self._file("seeds.csv"), index=False)

    def _draw(
        self,
        table: pd.DataFrame,
        *,
        per_class: pd.DataFrame,
        seeds: pd.DataFrame,
        baseline: str,
        task: Task,
    ) -> None:
        title, score = self.whole.title, PRIMARY[task]
        if self.prefix:
            title = f"{title} ({task})"
        figure = ablation_figure(
            table, seeds=seeds, baseline=baseline, title=title, score=(score, FIGURES[task][score])
        )
        figure.savefig(self._file("ablation.png"))
        figure = per_class_figure(
            per_class,
            delta=per_class_delta(per_class, table=table),
            table=table,
            taxonomy=self.whole.taxonomy,
            title=title,
            score=CLASS_FIGURE[task],
        )
        figure.savefig(self._file("per_class.png"))

    def _file(self, name: str) -> Path:
        return self.folder / f"{self.prefix}{name}"


def _own_baseline(arms: Sequence[Arm], baseline: str) -> str:
    """Return the baseline, or the first arm without synthetic samples if it is of another task."""
    names = [arm.variant for arm in arms]
    if baseline in names:
        return baseline
    return next((arm.variant for arm in arms if not arm.methods), names[0])
