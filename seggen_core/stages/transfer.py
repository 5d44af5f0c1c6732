"""Stage `transfer`: one arm's segmenters on the test split of another dataset."""

from seggen_core.checks.scores import require_checkpoint
from seggen_core.config import SegGenConfig
from seggen_core.datasets.open import open_dataset
from seggen_core.errors import ConfigError
from seggen_core.evaluation.arm import test_protocol
from seggen_core.evaluation.transfer import score_transfer
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arms import TrainedArm
from seggen_core.stage import open_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/evaluate/<item>: metrics.json (`evaluation.transfer.TransferScores`).

    Raises:
        ConfigError: there is no such entry of `transfer`, or a class of it isn't there.
        CheckError: a segmenter of the arm is below `checks.min_val_miou`.
        DatasetError: the other dataset can't be read.
    """
    if item not in config.transfer:
        known = ", ".join(config.transfer) or "none"
        raise ConfigError(f"there is no transfer {item!r}; params.yaml has: {known}")
    section = config.transfer[item]
    require_checkpoint(section.arm, paths=paths, checks=config.checks)
    reader = open_dataset(section.dataset, seed=config.seed, base=paths.root)
    params = section.model_dump(mode="json", exclude_unset=True)
    with open_stage("transfer", item=item, config=config, paths=paths, params=params) as stage:
        arm = TrainedArm.read(paths, variant=section.arm)
        scores = score_transfer(
            arm,
            section=section,
            reader=reader,
            taxonomy=stage.taxonomy,
            protocol=test_protocol(arm, config.evaluate),
            device=stage.device,
        )
        stage.publish_report(scores, paths.report("evaluate", item))
