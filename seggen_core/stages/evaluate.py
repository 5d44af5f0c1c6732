"""Stage `evaluate`: one arm's segmenters on the held-out test split, which no other stage reads."""

from seggen_core.checks.scores import require_checkpoint
from seggen_core.config import SegGenConfig
from seggen_core.evaluation.arm_run import log_arm, score_arm
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arms import TrainedArm, find_variant
from seggen_core.stage import open_stage
from seggen_core.store.reader import SampleStore


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/evaluate/<variant>.

    metrics.json has the scores of the arm's task (`evaluation.arm.ArmEvaluation`,
    `evaluation.segments.SegmentEvaluation`), predictions.png predictions of the first seed. For the
    task "semantic", confusion.json has the confusion matrix of each seed and confusion.csv their
    sum; for the others, per_class.csv has the score of each class, and the folder coco predictions
    and truth in COCO's formats.

    Raises:
        ConfigError: there is no such arm.
        CheckError: a segmenter of the arm is below `checks.min_val_miou`,
            `min_val_pq` or `min_val_ap`.
        FoundationError: the arm hasn't been trained.
    """
    find_variant(config, item)
    assert item is not None
    require_checkpoint(item, paths=paths, checks=config.checks)
    with open_stage("evaluate", item=item, config=config, paths=paths, params={}) as stage:
        arm = TrainedArm.read(paths, variant=item)
        test = SampleStore(paths.real("test"))
        stage.run.log_input(name="real_test", path=test.folder)
        report = score_arm(stage, arm=arm, test=test)
        log_arm(stage, arm=arm, report=report)
        stage.publish_report(report, paths.report("evaluate", item))
