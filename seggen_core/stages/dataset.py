"""Stage `dataset`: the real samples at `image_size`, with the taxonomy and the subsets."""

from seggen_core.config import SegGenConfig
from seggen_core.datasets.build import build_dataset
from seggen_core.datasets.open import open_project_dataset
from seggen_core.datasets.reader import SPLITS
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.real_samples import write_samples_picture
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
        pictures = write_samples_picture(
            SampleStore(folder / "train"),
            folder / "samples.png",
            num_classes=len(reader.taxonomy),
        )
        for file in (*pictures, folder / paths.taxonomy.name, folder / paths.subsets.name):
            stage.run.log_artifact(file)
        stage.publish_all(
            {folder / split: paths.real(split) for split in SPLITS}
            | {folder / out.name: out for out in (paths.taxonomy, paths.subsets)}
        )
