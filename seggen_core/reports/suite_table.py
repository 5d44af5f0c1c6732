"""Our figures of a suite's rows, and what they are compared with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from seggen_core.config import SegGenConfig, SuiteFile, SuiteRow
from seggen_core.project.artefacts import read_artefact
from seggen_core.project.paths import ProjectPaths

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """An arm against another one, seed by seed.

    Attributes:
        against: the other arm.
        num_seeds: seeds that both have.
        difference: mean of the differences, in points.
        half_width: of its 95% confidence interval (Student's t); NaN for one seed.
        p_value: of the two-sided paired t-test that the difference is 0; NaN for one seed.
    """

    against: str
    num_seeds: int
    difference: float
    half_width: float
    p_value: float


@dataclass(frozen=True)
class RowScores:
    """A row of a suite with our figures.

    Attributes:
        row: what the suite's file says of it.
        seeds: for each score, its value by seed; empty where the arm has no such score.
        paired: the comparison of the first score; None where there is none.
        absence: why there are no figures of ours; None where there are.
    """

    row: SuiteRow
    seeds: dict[str, dict[str, float]]
    paired: Paired | None
    absence: str | None

    def mean(self, score: str) -> float:
        """Return the mean over the seeds; NaN for none."""
        return float(np.mean([*self.seeds[score].values()])) if self.seeds.get(score) else math.nan

    def spread(self, score: str) -> float:
        """Return the sample standard deviation over the seeds; NaN for fewer than two."""
        values = [*self.seeds.get(score, {}).values()]
        return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan

    @property
    def num_seeds(self) -> int:
        """Seeds of the first score."""
        return len(next(iter(self.seeds.values()), {}))


def read_rows(suite: SuiteFile, *, config: SegGenConfig, paths: ProjectPaths) -> list[RowScores]:
    """Return the rows of a suite with the scores that `evaluate` wrote.

    Args:
        suite: the suite.
        config: which arms and tests there are.
        paths: the project.

    Raises:
        ArtefactError: a report is damaged.
    """
    first = next(iter(suite.scores))
    read = {arm: _read_seeds(arm, suite, paths=paths) for arm in suite.arms}
    rows = []
    for row in suite.rows:
        scores = read.get(row.arm or "") or {}
        absence = row.missing
        if row.arm is None and absence is None:
            absence = "quoted by the paper"
        elif row.arm is not None and row.arm not in (*config.variants, *config.transfer):
            absence, scores = f"params.yaml has no arm {row.arm}", {}
        elif row.arm is not None and not scores:
            stage = "transfer" if row.arm in config.transfer else "evaluate"
            absence = f"not run: dvc repro {stage}@{row.arm}"
        elif row.arm is not None and not any(scores.values()):
            absence = "its arm has no such score"
        other = read.get(row.against or "") or {}
        paired = None
        if row.against is not None:
            paired = compare(scores.get(first, {}), other.get(first, {}), against=row.against)
        rows.append(RowScores(row, scores, paired, absence))
    return rows


def absent_scores(rows: Sequence[RowScores]) -> list[str]:
    """Return the scores that no arm has, though some arms have been evaluated: typing errors."""
    evaluated = [row.seeds for row in rows if row.seeds]
    names = list(dict.fromkeys(name for seeds in evaluated for name in seeds))
    return [name for name in names if not any(seeds[name] for seeds in evaluated)]


def compare(
    ours: Mapping[str, float], other: Mapping[str, float], *, against: str
) -> Paired | None:
    """Compare two arms over the seeds that both have; None where there is no such seed."""
    seeds = sorted(set(ours) & set(other))
    if not seeds:
        return None
    differences = np.array([ours[seed] - other[seed] for seed in seeds])
    mean, num_seeds = float(differences.mean()), len(seeds)
    if num_seeds < 2 or not differences.std():
        return Paired(against, num_seeds, mean, math.nan, math.nan)
    test = stats.ttest_rel([ours[s] for s in seeds], [other[s] for s in seeds])
    low, high = test.confidence_interval(_CONFIDENCE)
    return Paired(against, num_seeds, mean, float(high - low) / 2, float(test.pvalue))


def _read_seeds(
    arm: str, suite: SuiteFile, *, paths: ProjectPaths
) -> dict[str, dict[str, float]] | None:
    """Return each score of an arm by seed; None if it hasn't been evaluated."""
    file = paths.report("evaluate", arm) / "metrics.json"
    if not file.is_file():
        return None
    tree = read_artefact(file, dict[str, Any], stage=f"evaluate@{arm}")
    seeds: dict[str, Any] = tree.get("seeds") or {}
    by_score = {}
    for score in suite.scores:
        values = {seed: _look_up(scores, score) for seed, scores in seeds.items()}
        by_score[score] = {seed: value for seed, value in values.items() if value is not None}
    return by_score


def _look_up(tree: Any, name: str) -> float | None:
    """Return the number that a name with slashes leads to; None where there is none."""
    for part in name.split("/"):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return float(tree) if isinstance(tree, int | float) else None
