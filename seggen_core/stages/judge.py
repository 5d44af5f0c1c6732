"""Stage `judge`: how well a method's masks fit its images, by a segmenter of all real samples."""

from seggen_core.checks.scores import require_checkpoint
from seggen_core.config import SegGenConfig
from seggen_core.evaluation.judge import Judge
from seggen_core.evaluation.methods import MethodSamples, check_method
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arms import find_variant
from seggen_core.stage import open_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/judge/<method>.

    metrics.json and scores.csv hold what `evaluation.judge` computes; pairs.png shows the best and
    the worst pairs.

    Raises:
        CheckError: the judge is below `checks.min_val_miou`.
        ConfigError: there is no such method, or no such variant as `judge.variant`.
        SampleStoreError: the method has no sample.
    """
    method, settings = check_method(item, config=config), config.judge
    find_variant(config, settings.variant)
    require_checkpoint(settings.variant, paths=paths, checks=config.checks)
    with open_stage("judge", item=item, config=config, paths=paths) as stage:
        samples = MethodSamples.open(paths, method=method, classes=config.classes)
        stage.run.log_input(name=method, path=paths.synthetic(method))
        judge = Judge.load(paths, settings=settings, taxonomy=stage.taxonomy, device=stage.device)
        stage.publish_report(judge.score(samples), paths.report("judge", method))
