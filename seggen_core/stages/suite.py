"""Stage `suite`: one page on some arms, beside the figures of a paper's table."""

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.suite import SuiteReport
from seggen_core.stage import open_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/suite/<item> from what `evaluate` wrote.

    suite.md is the page, suite.csv its table, curve.png its curve, metrics.json our figures. Rows
    whose arm hasn't been evaluated, or doesn't exist yet, stand there with the reason.

    Raises:
        ConfigError: there is no such suite, or its file is wrong.
    """
    report = SuiteReport.read(config, name=item, paths=paths)
    assert item is not None
    with open_stage("suite", item=item, config=config, paths=paths, params=report.params) as stage:
        report.log_rows(stage.run)
        stage.publish_report(report, paths.report("suite", item))
