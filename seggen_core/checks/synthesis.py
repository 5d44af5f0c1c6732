"""Checks of one class partition of a synthetic method."""

from pathlib import Path

import numpy as np

from seggen_core.checks.finding import Finding
from seggen_core.config import ChecksConfig
from seggen_core.datasets.subset import class_partitions, subset_union
from seggen_core.project.artefacts import read_artefact
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.format import SIZE_COLUMNS, read_manifest
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy

EMPTY = Finding(True, "the partition has no sample to look at")


def check_classes(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:
    """The partition has samples, and its masks show its class.

    The masks also show other classes, unless the method labels one class at a time. An empty
    partition is only a warning if no real sample belongs to it: it had no sources.
    """
    store, slug = SampleStore(folder), folder.name
    numbers = {"samples": float(len(store)), "min_samples": float(checks.min_samples)}
    if len(store) < checks.min_samples:
        return _too_few_samples(store, folder=folder, paths=paths, numbers=numbers)
    taxonomy = Taxonomy.read(paths.taxonomy)
    counts = _pixel_counts(store)
    is_present = counts.sum(0) > 0
    num_present = int(is_present.sum())
    numbers |= {"classes": float(num_present)}
    first_key = store.keys()[0]
    if _labels_one_class(store):
        num_without = int((counts[:, taxonomy.by_slug(slug).train_id] == 0).sum())
        numbers["without_class"] = float(num_without)
        passed = num_without < len(store)
        summary = f"{len(store) - num_without} of {len(store)} masks show {slug}"
        summary = summary if passed else f"no mask shows {slug}"
        return Finding.of_sample(passed, summary, numbers, picture=(folder, first_key))
    if num_present < 2:
        name = taxonomy[int(np.flatnonzero(is_present)[0])].name if num_present else "nothing"
        summary = f"all {len(store)} masks show {name} and no other class"
        return Finding.of_sample(False, summary, numbers, picture=(folder, first_key))
    return Finding(True, f"{len(store)} samples with {num_present} classes", numbers)


def _too_few_samples(
    store: SampleStore, *, folder: Path, paths: ProjectPaths, numbers: dict[str, float]
) -> Finding:
    slug = folder.name
    num_sources = _num_sources(paths, slug=slug)
    numbers = numbers | {"sources": float(num_sources)}
    if not len(store) and not num_sources and _is_sourced(folder):
        return Finding(False, why_empty(paths, slug=slug), numbers, blocks=False)
    summary = f"{len(store)} samples, expected at least {numbers['min_samples']:.0f}"
    example = f"{folder.parent.name}/{slug} is short of samples"
    return Finding(False, summary, numbers, example=example, limit="min_samples")


def check_histogram(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:
    """The class histogram is near that of the partition's real sources.

    The measure is the total variation distance: half the sum of the absolute differences of the
    shares of labelled pixels. Methods that label one class at a time have no real sources. For
    them, the class has to cover a plausible share of the images.
    """
    store = SampleStore(folder)
    if not len(store):
        return EMPTY
    taxonomy = Taxonomy.read(paths.taxonomy)
    if _labels_one_class(store):
        return _check_class_share(store, folder=folder, taxonomy=taxonomy, checks=checks)
    real = SampleStore(paths.real("train"))
    # Samples of other sizes than their sources count like them.
    real_shares = (
        _pixel_counts(real) / real.index[list(SIZE_COLUMNS)].prod(axis=1).to_numpy()[:, None]
    )
    real_counts = dict(zip(real.index["key"], real_shares, strict=True))
    expected = _shares(np.stack([real_counts[key] for key in store.index["source_key"]]).sum(0))
    counts = _pixel_counts(store)
    shares = _shares(counts.sum(0))
    distance = float(np.abs(shares - expected).sum() / 2)
    numbers = {"distance": distance, "max_histogram_distance": checks.max_histogram_distance}
    shifted = int(np.abs(shares - expected).argmax())
    summary = (
        f"class histogram at distance {distance:.2f} from that of its real sources, allowed "
        f"{checks.max_histogram_distance}; most shifted: {taxonomy[shifted].name}, "
        f"{shares[shifted]:.1%} of pixels where the real ones have {expected[shifted]:.1%}"
    )
    worst = store.keys()[int(np.abs(_shares(counts) - expected).sum(1).argmax())]
    passed = distance <= checks.max_histogram_distance
    limit = "max_histogram_distance"
    return Finding.of_sample(passed, summary, numbers, picture=(folder, worst), limit=limit)


def _check_class_share(
    store: SampleStore, *, folder: Path, taxonomy: Taxonomy, checks: ChecksConfig
) -> Finding:
    """The partition's class covers a plausible share of the images."""
    slug = folder.name
    pixels = np.array([store.read_mask(i).size for i in range(len(store))])
    shares = _pixel_counts(store)[:, taxonomy.by_slug(slug).train_id] / pixels
    mean = float(shares.mean())
    numbers = {
        "class_share": mean,
        "min_class_share": checks.min_class_share,
        "max_class_share": checks.max_class_share,
    }
    summary = (
        f"{slug} covers {mean:.1%} of the images; allowed {checks.min_class_share:.1%} to "
        f"{checks.max_class_share:.1%}"
    )
    worst = store.keys()[int(np.abs(shares - mean).argmax())]
    passed = checks.min_class_share <= mean <= checks.max_class_share
    limit = "min_class_share" if mean < checks.min_class_share else "max_class_share"
    return Finding.of_sample(passed, summary, numbers, picture=(folder, worst), limit=limit)


def check_agreement(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001 (as all)
    """On average, images are steeper along the borders of their masks than elsewhere.

    This check is quick and needs no network. The stage `judge` is more exact and runs later.
    """
    store = SampleStore(folder)
    scores = np.array([edge_agreement(s.image, segmentation_map=s.segmentation_map) for s in store])
    if not len(store) or np.isnan(scores).all():
        return EMPTY
    mean = float(np.nanmean(scores))
    numbers = {
        "edge_agreement": mean,
        "min_edge_agreement": checks.min_edge_agreement,
        "lowest": float(np.nanmin(scores)),
    }
    summary = (
        f"images are {mean:.2f} times as steep along mask borders as elsewhere, expected "
        f"{checks.min_edge_agreement}"
    )
    worst = store.keys()[int(np.nanargmin(scores))]
    passed = mean >= checks.min_edge_agreement
    limit = "min_edge_agreement"
    return Finding.of_sample(passed, summary, numbers, picture=(folder, worst), limit=limit)


def check_sources(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001 (as all)
    """The source of every sample is a training sample, and none is a test sample."""
    store = SampleStore(folder)
    sources = store.index["source_key"]
    held_out = set(SampleStore(paths.real("test")).keys())
    train = set(SampleStore(paths.real("train")).keys())
    foreign = [
        (key, source)
        for key, source in zip(store.index["key"], sources, strict=True)
        if isinstance(source, str) and (source in held_out or source not in train)
    ]
    numbers = {
        "samples": float(len(store)),
        "with_source": float(sources.notna().sum()),
        "foreign": float(len(foreign)),
    }
    if not foreign:
        summary = f"none of the {len(store)} samples has a held-out source"
        return Finding(True, summary, numbers)
    key, source = foreign[0]
    where = "the test split" if source in held_out else "no training split"
    summary = (
        f"the sources of {len(foreign)} samples are not training samples; the source of {key} is "
        f"{source} of {where}"
    )
    return Finding(False, summary, numbers, example=summary, picture=(folder, key))


def edge_agreement(image: np.ndarray, *, segmentation_map: np.ndarray) -> float:
    """Mean gradient of the image along borders of the mask, over its mean elsewhere.

    Args:
        image: uint8 [H, W, 3].
        segmentation_map: uint8 [H, W]; "ignore" counts as a label like any other.

    Returns:
        The ratio; NaN for a mask without borders.
    """
    grey = image.astype(np.float32).mean(2)
    gradient = np.hypot(*np.gradient(grey))
    border = np.zeros(segmentation_map.shape, bool)
    for axis in (0, 1):
        differs = np.diff(segmentation_map.astype(np.int16), axis=axis) != 0
        # Both pixels beside a border are on it.
        border |= np.pad(differs, [(0, 1) if a == axis else (0, 0) for a in (0, 1)])
        border |= np.pad(differs, [(1, 0) if a == axis else (0, 0) for a in (0, 1)])
    if not border.any() or border.all():
        return float("nan")
    return float(gradient[border].mean() / max(gradient[~border].mean(), 1e-6))


def _pixel_counts(store: SampleStore) -> np.ndarray:
    """Pixels per class of each sample, int64 [N, num_classes]."""
    return np.stack(store.index["class_pixel_counts"].to_list()).astype(np.int64)


def _shares(counts: np.ndarray) -> np.ndarray:
    """Turn pixels [..., num_classes] into shares of all labelled ones."""
    return counts / np.maximum(counts.sum(-1, keepdims=True), 1)


def _labels_one_class(store: SampleStore) -> bool:
    """Whether the method labels one class at a time: its samples have no real source."""
    return bool(store.index["source_key"].isna().all())


def _is_sourced(folder: Path) -> bool:
    """Whether the method makes samples from real ones, as MaskSyn and ImgSyn do.

    Their manifests say so by `samples_per_source`.
    """
    manifest = read_manifest(folder)
    return "samples_per_source" in manifest.get("params", {})


def why_empty(paths: ProjectPaths, *, slug: str) -> str:
    """Return why a partition of MaskSyn or ImgSyn that has no sources has none."""
    counts, sources = _sources(paths)
    class_id = Taxonomy.read(paths.taxonomy).by_slug(slug).train_id
    num_showing = sum(counts[key][class_id] > 0 for key in sources)
    if not num_showing:
        return (
            f"the partition is empty: none of the {len(sources)} real samples that samples are "
            f"made from shows {slug}"
        )
    return (
        f"the partition is empty: {num_showing} of the {len(sources)} real samples that samples "
        f"are made from show {slug}, and all went to rarer classes (there are fewer samples than "
        "classes in them; raise dataset.subset_size)"
    )


def _num_sources(paths: ProjectPaths, *, slug: str) -> int:
    """Count the real samples that belong to the partition of this class."""
    counts, sources = _sources(paths)
    return len(class_partitions(counts, Taxonomy.read(paths.taxonomy), sources=sources)[slug])


def _sources(paths: ProjectPaths) -> tuple[dict[str, list[int]], set[str]]:
    """Return the pixels per class of all training samples, and the keys of the sources."""
    index = SampleStore(paths.real("train")).index
    counts = dict(zip(index["key"], index["class_pixel_counts"], strict=True))
    subsets = read_artefact(paths.subsets, dict[str, list[str]], stage="dataset")
    return counts, subset_union(subsets)
