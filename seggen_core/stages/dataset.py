"""Stage `dataset`: the real samples at `image_size`, in one sample store a split, with the taxonomy and the subsets."""

import json
import shutil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from seggen_core.colors.semantic import class_palette
from seggen_core.config import SegGenConfig, Split
from seggen_core.datasets.reader import (
    SPLITS,
    DatasetReader,
    RawSample,
    check_labelled,
    fit_square,
    open_dataset,
)
from seggen_core.datasets.subset import draw_subset, rarest_class_partition
from seggen_core.errors import DatasetError
from seggen_core.project.parallel import ordered_map
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.grids import pair_grid
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from seggen_core.tracking import track_stage

_MAX_LISTED = 20
"""Bad samples named in an error; so many past the allowed ones end the search for more."""

_NUM_PICTURES = 8


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/real/{train,val,test}, taxonomy.json and subsets.json.

    Raises:
        ConfigError: a class in params.yaml doesn't exist, or more samples are asked for than there
            are.
        DatasetError: more than `max_bad` samples of a split are bad; the message lists them.
    """
    assert item is None, item
    reader = open_dataset(config.dataset, seed=config.seed, base=paths.root)
    for slug in config.classes:
        reader.taxonomy.by_slug(slug)
    # Begun anew every time: files of the dataset may have been repaired since an interrupted run.
    scratch = paths.scratch / "dataset"
    shutil.rmtree(scratch, ignore_errors=True)
    with track_stage(
        "dataset",
        item=None,
        params=config.dataset.model_dump(mode="json"),
        runtime=config.runtime,
        paths=paths,
    ) as tracked:
        # 1. Stores, in the scratch folder.
        for split in SPLITS:
            dropped = _write_split(reader, split, config=config, folder=scratch / split)
            store = SampleStore(scratch / split)
            shares = np.sum(store.index["class_pixel_counts"].tolist(), axis=0, dtype=np.float64)
            shares /= shares.sum()
            tracked.log_metrics(
                {f"{split}/samples": float(len(store)), f"{split}/dropped": float(len(dropped))}
                | {
                    f"{split}/share_{slug}": float(s)
                    for slug, s in zip(reader.taxonomy.slugs, shares, strict=True)
                }
            )

        # 2. Subsets and classes.
        index = SampleStore(scratch / "train").index
        counts = dict(zip(index["key"], index["class_pixel_counts"], strict=True))
        subsets = {
            str(s): draw_subset(
                counts, size=config.dataset.subset_size, seed=config.seed, subset_seed=s
            )
            for s in config.dataset.subset_seeds
        }
        partition = rarest_class_partition(counts, reader.taxonomy)
        tracked.log_metrics(
            {f"partition/{slug}": float(len(keys)) for slug, keys in partition.items()}
        )
        _write_json(scratch / "taxonomy.json", reader.taxonomy.to_json())
        _write_json(scratch / "subsets.json", subsets)

        # 3. Into place.
        paths.taxonomy.parent.mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            shutil.rmtree(paths.real(split), ignore_errors=True)
            (scratch / split).replace(paths.real(split))
        (scratch / "taxonomy.json").replace(paths.taxonomy)
        (scratch / "subsets.json").replace(paths.subsets)
        train = SampleStore(paths.real("train"))
        every = max(1, len(train) // _NUM_PICTURES)
        preview = [train[key] for key in train.keys()[::every][:_NUM_PICTURES]]
        pair_grid(
            preview, palette=class_palette(len(reader.taxonomy)), num_columns=_NUM_PICTURES
        ).save(scratch / "samples.png")
        for artifact in (scratch / "samples.png", paths.taxonomy, paths.subsets):
            tracked.log_artifact(artifact)
        shutil.rmtree(scratch)


def _write_split(
    reader: DatasetReader, split: Split, *, config: SegGenConfig, folder: Path
) -> dict[str, str]:
    """Fill the store of one split; return the bad samples that were left out, with the reason."""
    dropped: dict[str, str] = {}
    keys = reader.keys(split)
    settings = config.dataset

    def prepare(key: str) -> RawSample | DatasetError:
        try:
            sample = fit_square(reader.read(split, key), size=settings.image_size, fit=settings.fit)
            check_labelled(
                sample.segmentation_map,
                where=f"{split} sample {key} at {settings.image_size} pixels",
            )
        except DatasetError as error:
            return error
        return sample

    prepared = tqdm(
        ordered_map(prepare, keys, num_threads=config.runtime.num_threads),
        total=len(keys),
        desc=f"dataset {split}",
        unit="image",
        disable=None,
    )
    with SampleStoreWriter(folder, num_classes=len(reader.taxonomy)) as writer:
        for position, (key, sample) in enumerate(zip(keys, prepared, strict=True)):
            if isinstance(sample, DatasetError):
                dropped[key] = str(sample)
                if len(dropped) >= settings.max_bad + _MAX_LISTED:
                    break
            else:
                writer.add(_to_store(sample, store_key=f"{split}-{position:05d}", reader_key=key))
        if len(dropped) > settings.max_bad:
            listed = "\n".join(f"  {reason}" for reason in list(dropped.values())[:_MAX_LISTED])
            raise DatasetError(
                f"{len(dropped)} of the first {position + 1} {split} samples are bad, dataset.max_bad allows "
                f"{settings.max_bad}:\n{listed}\nrepair them, or raise dataset.max_bad to leave them out (run: seggen validate)"
            )
        if len(dropped) == len(keys):
            raise DatasetError(
                f"the {split} split holds no sound sample of {len(keys)}; expected at least one (run: seggen validate)"
            )
        writer.finish(
            manifest={
                "dataset": settings.name,
                "split": split,
                "num_listed": len(keys),
                "dropped": dropped,
            }
        )
    return dropped


def _to_store(sample: RawSample, *, store_key: str, reader_key: str) -> Sample:
    return Sample(
        key=store_key,
        image=sample.image,
        segmentation_map=sample.segmentation_map,
        instance_map=sample.instance_map,
        metadata={"reader_key": reader_key, **sample.metadata},
    )


def _write_json(path: Path, tree: object) -> None:
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
