"""From a real dataset to sample stores: one a split, with the taxonomy and the subsets."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from seggen_core.colors.class_colors import colored_classes, with_synonyms
from seggen_core.config import DatasetConfig, SegGenConfig, Split
from seggen_core.datasets.bad_samples import attempt_all
from seggen_core.datasets.fit import fit_sample
from seggen_core.datasets.label_checks import SampleLabels, SplitLabels, label_faults
from seggen_core.datasets.licenses import license_of
from seggen_core.datasets.reader import SPLITS, DatasetReader
from seggen_core.datasets.sample import CHECK, RawSample, check_labelled
from seggen_core.datasets.subset import class_partitions, draw_subset, subset_union
from seggen_core.datasets.words import WordsReader
from seggen_core.errors import DatasetError
from seggen_core.project.publish import write_json
from seggen_core.store.card import describe_classes
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter

logger = logging.getLogger(__name__)

_MAX_LISTED = 20
"""Bad samples named in an error; so many past the allowed ones end the search for more."""


def build_dataset(
    reader: DatasetReader,
    *,
    config: SegGenConfig,
    folder: Path,
    log_metrics: Callable[[Mapping[str, float]], None],
) -> None:
    """Write the stores train, val and test, taxonomy.json and subsets.json.

    The folder is emptied first, and nothing is resumed: files of the dataset may have been repaired
    since an interrupted run.

    Args:
        reader: the dataset.
        config: sizes, limits and subsets, seed and threads.
        folder: where to write.
        log_metrics: gets samples and class shares of each split, and the size of each partition.

    Raises:
        ConfigError: more samples are asked for than there are.
        DatasetError: more than `max_bad` samples of a split are bad, and the message lists them; or
            the labels of a split as a whole can't be right (`label_checks`).
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    slugs = reader.taxonomy.slugs
    train = SplitLabels("train")
    for split in SPLITS:
        labels = train if split == "train" else train.of_split(split)
        num_dropped = _write_split(reader, labels, config=config, folder=folder / split)
        _check_labels(labels, train=train, reader=reader, config=config)
        pixels = labels.pixels[: len(slugs)]
        shares = pixels / max(pixels.sum(), 1)
        log_metrics(
            {f"{split}/samples": float(labels.num_samples), f"{split}/dropped": float(num_dropped)}
            | {f"{split}/share_{slug}": float(s) for slug, s in zip(slugs, shares, strict=True)}
        )
    counts = SampleStore(folder / "train").class_pixel_counts()
    subsets = _subsets(counts, dataset=config.dataset, seed=config.seed)
    partition = class_partitions(counts, reader.taxonomy, sources=subset_union(subsets))
    log_metrics({f"partition/{slug}": float(len(keys)) for slug, keys in partition.items()})
    rows = colored_classes(reader.taxonomy, reader.palette)
    if isinstance(reader, WordsReader):
        rows = with_synonyms(rows, reader.synonyms)
    write_json(folder / "taxonomy.json", rows)
    write_json(folder / "subsets.json", subsets)


def _subsets(
    counts: Mapping[str, list[int]], *, dataset: DatasetConfig, seed: int
) -> dict[str, list[str]]:
    return {
        str(s): draw_subset(counts, size=dataset.subset_size, seed=seed, subset_seed=s)
        for s in dataset.subset_seeds
    }


def _check_labels(
    labels: SplitLabels, *, train: SplitLabels, reader: DatasetReader, config: SegGenConfig
) -> None:
    """Raise DatasetError where scores would mean nothing; warn of other faults."""
    faults = label_faults(labels, train=train, reader=reader, config=config)
    fatal = [fault.what for fault in faults if fault.is_fatal]
    if fatal:
        raise DatasetError(
            f"the labels of the {labels.split} split can't be right:\n"
            + "\n".join(f"  {what}" for what in fatal)
            + f"\n{CHECK}"
        )
    for fault in faults:
        logger.warning("%s split: %s %s", labels.split, fault.what, CHECK)


def _write_split(
    reader: DatasetReader, labels: SplitLabels, *, config: SegGenConfig, folder: Path
) -> int:
    """Fill the store of one split and count its `labels`; return how many samples were left out."""
    dropped: dict[str, str] = {}
    split = labels.split
    keys = reader.keys(split)
    assert keys or isinstance(reader, WordsReader), split
    settings = config.dataset

    def prepare(key: str) -> RawSample:
        sample = fit_sample(reader.read(split, key), config=settings, split=split)
        height, width = sample.segmentation_map.shape
        where = f"{split} sample {key} at {width}x{height} pixels"
        check_labelled(sample.segmentation_map, where=where)
        return sample

    num_threads = config.runtime.num_threads
    prepared = attempt_all(keys, prepare, num_threads=num_threads, label=f"dataset {split}")
    encoding = settings.encoding if split == "train" else {}
    with SampleStoreWriter(folder, num_classes=len(reader.taxonomy), **encoding) as writer:
        for position, (key, sample) in enumerate(prepared):
            if not isinstance(sample, DatasetError):
                labels.add(key, SampleLabels.of(sample))
                writer.add(_to_store(sample, store_key=f"{split}-{position:05d}", reader_key=key))
                continue
            dropped[key] = str(sample)
            if len(dropped) >= settings.max_bad + _MAX_LISTED:
                break
        if keys:
            _check_dropped(
                dropped,
                split=split,
                num_read=position + 1,
                num_listed=len(keys),
                max_bad=settings.max_bad,
            )
        writer.finish(
            manifest={
                "dataset": settings.name,
                **describe_classes(
                    reader.taxonomy, colors=reader.palette, license_text=license_of(settings)
                ),
                "split": split,
                "num_listed": len(keys),
                "dropped": dropped,
                **_changed_images(split, settings),
            }
        )
    return len(dropped)


def _changed_images(split: Split, settings: DatasetConfig) -> dict[str, int]:
    """Return what the manifest says about images that aren't stored as they were read."""
    changes = {}
    if split == "train" and settings.max_size is not None:
        changes["max_size"] = settings.max_size
    if split == "train" and settings.image_format == "jpeg":
        changes["jpeg_quality"] = settings.jpeg_quality
    return changes


def _check_dropped(
    dropped: Mapping[str, str], *, split: Split, num_read: int, num_listed: int, max_bad: int
) -> None:
    """Raise DatasetError for more bad samples than are allowed, or where no sample is sound."""
    if len(dropped) > max_bad:
        listed = "\n".join(f"  {reason}" for reason in list(dropped.values())[:_MAX_LISTED])
        raise DatasetError(
            f"{len(dropped)} of the first {num_read} {split} samples are bad, dataset.max_bad "
            f"allows {max_bad}:\n{listed}\nrepair them, or raise dataset.max_bad to leave them out "
            "(run: seggen validate)"
        )
    if len(dropped) == num_listed:
        raise DatasetError(
            f"the {split} split holds no sound sample of {num_listed}; expected at least one "
            "(run: seggen validate)"
        )


def _to_store(sample: RawSample, *, store_key: str, reader_key: str) -> Sample:
    return Sample(
        key=store_key,
        image=sample.image,
        segmentation_map=sample.segmentation_map,
        instance_map=sample.instance_map,
        metadata={"source_key": reader_key, **sample.metadata},
    )
