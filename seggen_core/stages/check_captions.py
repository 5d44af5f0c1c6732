"""Stage `check_captions`: the gate behind `captions`. It looks at the captions."""

from seggen_core.checks.gate import pass_gate
from seggen_core.checks.results import Checked
from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/checks/captions.json, and open the gate to data/captions.

    Raises:
        CheckError: a blocking check fails.
    """
    assert item is None, item
    outputs = [Checked("captions", None, paths, config.checks)]
    passed = {paths.passed(paths.captions.parent): {"passed": True}}
    pass_gate(outputs, report=paths.check_report("captions"), passed=passed)
