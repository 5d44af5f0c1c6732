"""The files of stage `ablation`."""

import math
from dataclasses import dataclass
from pathlib import Path

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import write_json
from seggen_core.reports.ablation import (
    ablation_table,
    arm_figures,
    flat_metrics,
    judge_table,
    per_class_delta,
    per_class_table,
    seed_table,
)
from seggen_core.reports.ablation_markdown import ablation_markdown
from seggen_core.reports.figures import ablation_figure, per_class_figure
from seggen_core.reports.memorization import (
    MemorizationScores,
    flat_memorization,
    memorization_markdown,
)
from seggen_core.reports.scores import (
    Arm,
    JudgeScores,
    read_arms,
    read_judges,
    read_memorization,
)
from seggen_core.taxonomy import Taxonomy

_PLOTTED = [
    "variant",
    "model",
    "miou",
    "miou_std",
    "delta_miou",
    "miou_things",
    "miou_stuff",
    "pixel_accuracy",
]
"""Columns of plots.csv."""


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

    arms: list[Arm]
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
            judges=read_judges(paths=paths, taxonomy=taxonomy),
            memorization=read_memorization(paths=paths),
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

        Returns:
            the mIoU of each arm, by "<arm>/miou".
        """
        taxonomy, judges = self.taxonomy, self.judges
        seeds = seed_table(self.arms, taxonomy=taxonomy)
        table = ablation_table(self.arms, seeds=seeds, judges=judges, baseline=self.baseline)
        per_class = per_class_table(self.arms, seeds=seeds, taxonomy=taxonomy)
        table.round(4).to_csv(folder / "ablation.csv", index=False)
        per_class.round(4).to_csv(folder / "per_class.csv", index_label="variant")
        seeds.round(4).to_csv(folder / "seeds.csv", index=False)
        table[_PLOTTED].round(4).to_csv(folder / "plots.csv", index=False)
        if judges:
            judged = judge_table(judges, taxonomy=taxonomy)
            judged.round(4).to_csv(folder / "judge.csv", index_label="method")
        report = ablation_markdown(
            table, per_class=per_class, judges=judges, taxonomy=taxonomy, title=self.title
        )
        sections = [report, memorization_markdown(self.memorization)]
        text = "\n".join(section for section in sections if section)
        (folder / "ablation.md").write_text(text, encoding="utf-8")
        figure = ablation_figure(table, seeds=seeds, baseline=self.baseline, title=self.title)
        figure.savefig(folder / "ablation.png")
        delta = per_class_delta(per_class, table=table)
        figure = per_class_figure(
            per_class, delta=delta, table=table, taxonomy=taxonomy, title=self.title
        )
        figure.savefig(folder / "per_class.png")
        for name in ("arms", "methods"):
            (folder / name).mkdir()
        for arm, figures in arm_figures(table).items():
            write_json(folder / "arms" / f"{arm}.json", figures)
        for judge in judges:
            miou = None if math.isnan(judge.miou) else round(judge.miou, 2)
            write_json(folder / "methods" / f"{judge.method}.json", {"judge_miou": miou})
        metrics = flat_metrics(table, judges=judges) | flat_memorization(self.memorization)
        write_json(folder / "metrics.json", metrics)
        named = {name.replace(".", "/"): value for name, value in metrics.items()}
        return {name: value for name, value in named.items() if name.endswith("/miou")}
