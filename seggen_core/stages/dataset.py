"""Stage `dataset`: the real samples at `image_size`, with the taxonomy and the subsets."""

from pathlib import Path

from PIL import Image

from seggen_core.colors.palette import class_palette
from seggen_core.config import SegGenConfig
from seggen_core.datasets.build import build_dataset
from seggen_core.datasets.open import open_project_dataset
from seggen_core.datasets.reader import SPLITS
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.grids import pair_grid
from seggen_core.stage import open_stage
from seggen_core.store.reader import SampleStore

_NUM_PICTURES = 8


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
        _preview(folder / "train", num_classes=len(reader.taxonomy)).save(folder / "samples.png")
        for name in ("samples.png", paths.taxonomy.name, paths.subsets.name):
            stage.run.log_artifact(folder / name)
        stage.publish_all(
            {folder / split: paths.real(split) for split in SPLITS}
            | {folder / out.name: out for out in (paths.taxonomy, paths.subsets)}
        )


def _preview(folder: Path, *, num_classes: int) -> Image.Image:
    """Draw samples from all over the store."""
    store = SampleStore(folder)
    step = max(1, len(store) // _NUM_PICTURES)
    samples = [store[key] for key in store.keys()[::step][:_NUM_PICTURES]]
    return pair_grid(samples, palette=class_palette(num_classes), num_columns=_NUM_PICTURES)
