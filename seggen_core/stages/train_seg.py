"""Stage `train_seg`: one ablation arm's segmenters, one for each subset seed."""

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arm_training import ArmStores, ArmTraining
from seggen_core.segmentation.arms import arm_settings, find_variant
from seggen_core.stage import open_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/checkpoints/<variant>.

    It has a segmenter in seed<k> for each subset seed, metrics.json and history.csv. metrics.json
    has mIoU (percent) on the validation split, the one to tune on; the test split is read by
    `evaluate` alone. An interrupted run goes on from the last finished seed, and within a seed from
    its last saved state.

    Raises:
        ConfigError: there is no such arm, or its settings contradict each other.
        SampleStoreError: the arm's samples aren't there.
    """
    variant = find_variant(config, item)
    assert item is not None
    settings = arm_settings(config, item)
    unseen = config.zero_shot.unseen if variant.hide_unseen else ()
    params = {
        "variant": variant.model_dump(mode="json"),
        "unseen": list(unseen),
        **settings.model_dump(mode="json", exclude={"overrides"}),
    }
    with open_stage("train_seg", item=item, config=config, paths=paths, params=params) as stage:
        stores = ArmStores.open(paths, variant=variant)
        stage.run.log_input(name="real_train", path=paths.real("train"))
        for method in stores.partitions:
            stage.run.log_input(name=method, path=paths.synthetic(method))
        training = ArmTraining(
            stage=stage,
            variant=variant,
            settings=settings,
            stores=stores,
            unseen=unseen,
        )
        identity = [params, config.seed, stage.taxonomy.to_json(), *stores.identity()]
        scratch = stage.scratch(identity)
        finished = training.train(config.dataset.subset_seeds, scratch=scratch)
        stage.run.log_artifact(finished / "history.csv")
        stage.publish(finished, paths.checkpoint(item))
