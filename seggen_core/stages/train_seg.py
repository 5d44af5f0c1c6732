"""Stage `train_seg`: one ablation arm's segmenters, one for each subset seed."""

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arm_training import train_arm
from seggen_core.segmentation.arms import ArmConfig
from seggen_core.stage import open_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/checkpoints/<variant>.

    It has a segmenter in seed<k> for each subset seed, metrics.json and history.csv, and with
    validation while training the best segmenter in seed<k>/best. metrics.json
    has mIoU (percent) on the validation split, the one to tune on; the test split is read by
    `evaluate` alone. An interrupted run goes on from the last finished seed, and within a seed from
    its last saved state.

    Raises:
        ConfigError: there is no such arm, or its settings contradict each other.
        SampleStoreError: the arm's samples aren't there.
    """
    arm = ArmConfig.read(config, item)
    assert item is not None
    with open_stage("train_seg", item=item, config=config, paths=paths, params=arm.params) as stage:
        finished = train_arm(stage, arm)
        stage.run.log_artifact(finished / "history.csv")
        stage.publish(finished, paths.checkpoint(item))
