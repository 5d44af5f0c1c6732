"""Stage `ablation`: one comparison over all arms."""

import logging

from seggen_core.checks.scores import judge_warning
from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.comparison import Comparison
from seggen_core.stage import open_stage

logger = logging.getLogger(__name__)


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/ablation from what `evaluate`, `judge` and `memorization` wrote.

    The comparison is there as CSV, Markdown and PNG, and for `dvc metrics` and `dvc plots`
    (`Comparison.write` says which file holds what). Methods that haven't been judged, or compared
    with the training set, are left out there.

    Raises:
        SegGenError: an arm hasn't been evaluated, or a report can't be read.
    """
    assert item is None, item
    with open_stage("ablation", item=None, config=config, paths=paths) as stage:
        comparison = Comparison.read(config, paths=paths, taxonomy=stage.taxonomy)
        for kind in ("evaluate", "judge", "memorization"):
            if (reports := paths.ablation.parent / kind).is_dir():
                stage.run.log_input(name=kind, path=reports)
        for method in config.methods:
            if warning := judge_warning(method, paths=paths, checks=config.checks):
                logger.warning(warning)
        stage.publish_report(comparison, paths.ablation)
