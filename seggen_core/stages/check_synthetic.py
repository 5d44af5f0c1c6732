"""Stage `check_synthetic`: the gate behind one method's samples. It looks at every partition."""

from seggen_core.checks.gate import pass_gate
from seggen_core.checks.results import Checked
from seggen_core.config import SegGenConfig
from seggen_core.evaluation.methods import check_method
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import open_partitions
from seggen_core.taxonomy import Taxonomy


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/checks/<method>.json, and open the gate to data/synthetic/<method>.

    The file that opens it lists the classes, so that stages that read the method run again when
    params.yaml lists others.

    Raises:
        CheckError: a blocking check fails.
        ConfigError: there is no such method.
        SampleStoreError: the partition of a listed class is missing or of another dataset.
    """
    method, taxonomy = check_method(item, config=config), Taxonomy.read(paths.taxonomy)
    folder = paths.synthetic(method)
    stores = open_partitions(folder, classes=config.classes, taxonomy=taxonomy)
    slugs = [store.folder.name for store in stores]
    outputs = [Checked(method, slug, paths, config.checks) for slug in slugs]
    passed = {paths.passed(folder): {"passed": True, "classes": slugs}}
    pass_gate(outputs, report=paths.check_report(method), passed=passed)
