"""The page of a suite: its table, beside the paper's figures, and its curve."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from seggen_core.config import SegGenConfig, SuiteFile, read_suite
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import write_json
from seggen_core.reports.suite_curve import history_figure, suite_figure
from seggen_core.reports.suite_table import RowScores, absent_scores, read_rows
from seggen_core.reports.tables import NO_VALUE, escape_markdown, markdown_table, with_spread
from seggen_core.tracking import StageRun

logger = logging.getLogger(__name__)

_METHOD = (
    "Ours: percent, mean ± sample standard deviation over seeds. Against: the difference to "
    "another arm in {score}, seed by seed, with its 95% confidence interval and the p value of a "
    "paired t-test."
)
_NO_BREAK = "\N{NO-BREAK SPACE}"
"""Between a figure and its spread, which wide tables would else put on two lines."""


@dataclass(frozen=True)
class SuiteReport:
    """What the stage `suite` writes.

    Attributes:
        name: of the suite.
        suite: its file.
        rows: with our figures.
        histories: loss and validation mIoU by step of each arm that has a history; empty unless
            the suite draws them.
    """

    name: str
    suite: SuiteFile
    rows: list[RowScores]
    histories: dict[str, pd.DataFrame]

    @classmethod
    def read(cls, config: SegGenConfig, *, name: str | None, paths: ProjectPaths) -> "SuiteReport":
        """Read the suite's file and the scores of its arms.

        Raises:
            ConfigError: params.yaml has no such suite, or its file is wrong.
            ArtefactError: a report is damaged.
        """
        if name not in config.suite:
            raise ConfigError(
                f"there is no suite {name!r} in params.yaml; it has: "
                f"{', '.join(config.suite) or 'none'} (run: seggen suites)"
            )
        suite = read_suite(paths.root / config.suite[name].file)
        histories = {}
        if suite.curve is not None and suite.curve.history:
            files = {arm: paths.checkpoint(arm) / "history.csv" for arm in suite.arms}
            histories = {arm: pd.read_csv(file) for arm, file in files.items() if file.is_file()}
        return cls(name, suite, read_rows(suite, config=config, paths=paths), histories)

    @property
    def shown(self) -> tuple[str, ...]:
        """Files that the tracked run shows."""
        return ("suite.md", "suite.csv", *(["curve.png"] if self._has_curve else []))

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the tracked run."""
        source = {"paper": self.suite.paper, "place": self.suite.place}
        return {"suite": self.name, "arms": ",".join(self.suite.arms)} | {
            key: value for key, value in source.items() if value is not None
        }

    def log_rows(self, run: StageRun) -> None:
        """Record each row with figures of ours as a child run."""
        for place, scored in enumerate(self.rows, start=1):
            if scored.absence is not None:
                continue
            row = scored.row
            params = {"arm": row.arm, "label": row.label, "num_seeds": scored.num_seeds}
            if row.against is not None:
                params["against"] = row.against
            with run.child(f"{place:02d} {row.arm}", params=params) as child:
                child.log_metrics(self._figures(scored))

    def write(self, folder: Path) -> dict[str, float]:
        """Write the page, the table, the curve and metrics.json.

        Returns:
            The mean of the first score by arm, and the number of rows with and without figures.
        """
        first = next(iter(self.suite.scores))
        if absent := self._absent_scores():
            logger.warning("suite %s: %s", self.name, absent)
        self.table().round(4).to_csv(folder / "suite.csv", index=False)
        (folder / "suite.md").write_text(self.markdown(), encoding="utf-8")
        if self._has_curve:
            assert self.suite.curve is not None
            figure = (
                history_figure(self.histories, title=self.suite.title)
                if self.suite.curve.history
                else suite_figure(self.rows, suite=self.suite, score=first)
            )
            figure.savefig(folder / "curve.png")
        ran = [row for row in self.rows if row.absence is None]
        metrics = {str(row.row.arm): round(row.mean(first), 4) for row in ran}
        metrics = {name: value for name, value in metrics.items() if not math.isnan(value)}
        counts = {"rows_with_figures": len(ran), "rows_without": len(self.rows) - len(ran)}
        write_json(folder / "metrics.json", {**counts, "arms": metrics})
        return {**counts, **{f"{name}/{first}": value for name, value in metrics.items()}}

    def table(self) -> pd.DataFrame:
        """Return one row for each of the suite's, with the paper's figures beside ours."""
        rows = []
        for scored in self.rows:
            row = scored.row
            cells: dict[str, Any] = {"label": row.label, "arm": row.arm, "x": row.x}
            for score in self.suite.scores:
                cells[f"{score}_paper"] = row.paper.get(score)
                cells |= {score: scored.mean(score), f"{score}_std": scored.spread(score)}
            paired = scored.paired
            rows.append(
                cells
                | {
                    "num_seeds": scored.num_seeds,
                    "against": row.against,
                    "difference": paired.difference if paired else math.nan,
                    "half_width": paired.half_width if paired else math.nan,
                    "p_value": paired.p_value if paired else math.nan,
                    "absence": scored.absence,
                }
            )
        return pd.DataFrame(rows)

    def markdown(self) -> str:
        """Return the page."""
        suite = self.suite
        source = f"Paper: {suite.paper}, {suite.place}." if suite.paper else ""
        gaps = [
            f"- {escape_markdown(row.row.label)}: {escape_markdown(row.absence)}"
            for row in self.rows
            if row.absence not in (None, "quoted by the paper")
        ]
        parts = [
            f"# {escape_markdown(suite.title)}",
            escape_markdown(source),
            escape_markdown(suite.note or ""),
            _METHOD.format(score=escape_markdown(next(iter(suite.scores.values())))),
            markdown_table([self._cells(row) for row in self.rows]),
            "![curve](curve.png)" if self._has_curve else "",
            escape_markdown(self._absent_scores()),
            "## Rows without figures of ours" if gaps else "",
            "\n".join(gaps),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _absent_scores(self) -> str:
        """Return a sentence on the scores that no arm has; empty if there is none."""
        names = ", ".join(absent_scores(self.rows))
        return names and (
            f"No arm that was evaluated has the score {names}. Compare the names in 'scores' with "
            "those in data/reports/evaluate/<arm>/metrics.json."
        )

    def _cells(self, scored: RowScores) -> dict[str, str]:
        cells = {"": scored.row.label}
        for score, heading in self.suite.scores.items():
            if self.suite.paper is not None:
                cells[f"{heading}, paper"] = _format_score(scored.row.paper.get(score, math.nan))
            cells[heading] = _format_score(scored.mean(score), spread=scored.spread(score))
        cells["Seeds"] = str(scored.num_seeds or NO_VALUE)
        if any(row.row.against for row in self.rows):
            cells |= _comparison(scored)
        return cells

    def _figures(self, scored: RowScores) -> dict[str, float]:
        """Return the metrics of a row's run."""
        values: dict[str, float] = {}
        for score in self.suite.scores:
            values |= {score: scored.mean(score), f"{score}_std": scored.spread(score)}
            values[f"{score}_paper"] = scored.row.paper.get(score, math.nan)
        if scored.paired is not None:
            values |= {"difference": scored.paired.difference, "p_value": scored.paired.p_value}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    @property
    def _has_curve(self) -> bool:
        curve = self.suite.curve
        if curve is None:
            return False
        if curve.history:
            return bool(self.histories)
        return any(row.row.x is not None for row in self.rows)


def _comparison(scored: RowScores) -> dict[str, str]:
    paired = scored.paired
    if paired is None:
        return {"Against": NO_VALUE, "Difference": NO_VALUE, "p": NO_VALUE}
    p_value = NO_VALUE if math.isnan(paired.p_value) else f"{paired.p_value:.2g}"
    difference = _format_score(paired.difference, spread=paired.half_width, sign=True)
    return {"Against": paired.against, "Difference": difference, "p": p_value}


def _format_score(value: float, *, spread: float = math.nan, sign: bool = False) -> str:
    return with_spread(value, spread, sign=sign).replace(" ", _NO_BREAK)
