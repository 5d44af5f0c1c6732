"""Stage `evaluate`: one arm's segmenters on the held-out test split, which no other stage reads."""

from seggen_core.checks.scores import require_checkpoint
from seggen_core.config import SegGenConfig
from seggen_core.evaluation.arm import evaluate_arm
from seggen_core.evaluation.arm_run import log_arm
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arms import TrainedArm, find_variant
from seggen_core.stage import open_stage
from seggen_core.store.reader import SampleStore


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/evaluate/<variant>.

    metrics.json has the scores (`evaluation.arm.ArmEvaluation`), confusion.json the confusion
    matrix of each seed, confusion.csv their sum, predictions.png predictions of the first seed.

    Raises:
        ConfigError: there is no such arm.
        CheckError: a segmenter of the arm is below `checks.min_val_miou`.
        FoundationError: the arm hasn't been trained.
    """
    find_variant(config, item)
    assert item is not None
    require_checkpoint(item, paths=paths, checks=config.checks)
    settings = config.evaluate
    with open_stage("evaluate", item=item, config=config, paths=paths, params={}) as stage:
        arm = TrainedArm.read(paths, variant=item)
        test = SampleStore(paths.real("test"))
        stage.run.log_input(name="real_test", path=test.folder)
        report = evaluate_arm(
            arm,
            test=test,
            taxonomy=stage.taxonomy,
            settings=settings,
            zero_shot=config.zero_shot,
            device=stage.device,
        )
        log_arm(stage, arm=arm, report=report)
        stage.publish_report(report, paths.report("evaluate", item))
