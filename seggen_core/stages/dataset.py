"""Stage `dataset`: the real samples at `image_size`, with the taxonomy and the subsets."""

from seggen_core.config import SegGenConfig
from seggen_core.datasets.build import build_dataset
from seggen_core.datasets.open import open_project_dataset
from seggen_core.datasets.reader import SPLITS
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.grids import store_grid
from seggen_core.stage import open_stage
from seggen_core.store.reader import SampleStore


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/real/{train,val,test}, taxonomy.json and subsets.json.

    Raises:
        ConfigError: a class in params.yaml doesn't exist, or more samples are asked for than there
            are.
        DatasetError: more than `max_bad` samples of a split are bad; the message lists them.
    """
    assert item is None, item
    reader = open_project_dataset(config, base=paths.root)
    with open_stage("dataset", item=None, config=config, paths=paths) as stage:
        folder = stage.scratch([config.dataset.model_dump(mode="json")])
        build_dataset(reader, config=config, folder=folder, log_metrics=stage.run.log_metrics)
        if len(train := SampleStore(folder / "train")):  # a list of words has none
            grid = store_grid(
                train, num_classes=len(reader.taxonomy), num_pictures=8, num_columns=8
            )
            grid.save(folder / "samples.png")
            stage.run.log_artifact(folder / "samples.png")
        for name in (paths.taxonomy.name, paths.subsets.name):
            stage.run.log_artifact(folder / name)
        stage.publish_all(
            {folder / split: paths.real(split) for split in SPLITS}
            | {folder / out.name: out for out in (paths.taxonomy, paths.subsets)}
        )
