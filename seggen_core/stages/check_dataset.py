"""Stage `check_dataset`: the gate behind `dataset`. It looks at the real samples."""

from seggen_core.checks.gate import pass_gate
from seggen_core.checks.results import Checked
from seggen_core.config import SegGenConfig
from seggen_core.datasets.reader import SPLITS
from seggen_core.project.paths import ProjectPaths


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/checks/dataset.json, and open the gate to data/real.

    Raises:
        CheckError: a blocking check fails.
    """
    assert item is None, item
    outputs = [Checked("dataset", None, paths, config.checks)]
    passed = {
        paths.passed(paths.real(split) / "index.parquet"): {"passed": True} for split in SPLITS
    }
    pass_gate(outputs, report=paths.check_report("dataset"), passed=passed)
