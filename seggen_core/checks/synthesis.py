"""Checks of one class partition of a synthetic method."""

import json
from pathlib import Path

import numpy as np

from seggen_core.checks.finding import Finding, read_taxonomy
from seggen_core.config import ChecksConfig
from seggen_core.datasets.subset import rarest_class_partition
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore

EMPTY = Finding(True, "the partition has no sample to look at")


def check_classes(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:
    """The partition has samples; its masks show its class, and unless the method labels one class at a time, others as well.

    A partition without samples to which no real sample belongs is a warning: there was nothing to
    make it from.
    """
    store, slug = SampleStore(folder), folder.name
    taxonomy = read_taxonomy(paths)
    numbers = {"samples": float(len(store)), "min_samples": float(checks.min_samples)}
    if len(store) < checks.min_samples:
        sources = _num_sources(paths, slug=slug)
        numbers["sources"] = float(sources)
        if not len(store) and not sources and _is_sourced(folder):
            what = f"no real sample of the subsets has {slug} as its rarest class, so there is nothing to make {slug} from"
            return Finding(False, what, numbers, blocks=False)
        what = f"{len(store)} samples, expected at least {checks.min_samples}"
        return Finding(
            False, what, numbers, example=f"{folder.parent.name}/{slug} is short of samples"
        )
    counts = _pixel_counts(store)
    present = counts.sum(0) > 0
    numbers |= {"classes": float(present.sum())}
    own = taxonomy.by_slug(slug).train_id
    one_class = store.index["source_key"].isna().all()
    if one_class:
        without = np.flatnonzero(counts[:, own] == 0)
        numbers["without_class"] = float(len(without))
        if len(without) == len(store):
            return Finding(
                False,
                f"no mask shows {slug}",
                numbers,
                example=store.keys()[0],
                picture=(folder, store.keys()[0]),
            )
        return Finding(
            True, f"{len(store) - len(without)} of {len(store)} masks show {slug}", numbers
        )
    if present.sum() < 2:
        name = taxonomy[int(np.flatnonzero(present)[0])].name if present.any() else "nothing"
        key = store.keys()[0]
        what = f"all {len(store)} masks show {name} and no other class"
        return Finding(False, what, numbers, example=key, picture=(folder, key))
    return Finding(True, f"{len(store)} samples with {int(present.sum())} classes", numbers)


def check_histogram(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:
    """The class histogram hasn't collapsed against that of the real samples that the partition was made from.

    Compared by total variation distance, half the sum of the absolute differences of the shares of
    labelled pixels. Methods that label one class at a time have no real samples to compare with:
    there, the class has to cover a plausible share of the images.
    """
    store, slug = SampleStore(folder), folder.name
    if not len(store):
        return EMPTY
    taxonomy = read_taxonomy(paths)
    counts = _pixel_counts(store)
    sources = store.index["source_key"]
    if sources.isna().all():
        pixels = _image_pixels(store)
        shares = counts[:, taxonomy.by_slug(slug).train_id] / pixels
        mean = float(shares.mean())
        numbers = {
            "class_share": mean,
            "min_class_share": checks.min_class_share,
            "max_class_share": checks.max_class_share,
        }
        worst = store.keys()[int(np.abs(shares - mean).argmax())]
        passed = checks.min_class_share <= mean <= checks.max_class_share
        summary = f"{slug} covers {mean:.1%} of the images; allowed {checks.min_class_share:.1%} to {checks.max_class_share:.1%}"
        if passed:
            return Finding(True, summary, numbers)
        return Finding(False, summary, numbers, example=worst, picture=(folder, worst))
    real = SampleStore(paths.real("train"))
    real_counts = dict(zip(real.index["key"], real.index["class_pixel_counts"], strict=True))
    expected = np.sum([real_counts[key] for key in sources], axis=0, dtype=np.float64)
    expected /= max(expected.sum(), 1)
    found = counts.sum(0) / max(counts.sum(), 1)
    distance = float(np.abs(found - expected).sum() / 2)
    numbers = {"distance": distance, "max_histogram_distance": checks.max_histogram_distance}
    shift = int(np.abs(found - expected).argmax())
    name = taxonomy[shift].name
    summary = (
        f"class histogram at distance {distance:.2f} from that of its real sources, allowed {checks.max_histogram_distance}; "
        f"most shifted: {name}, {found[shift]:.1%} of pixels where the real ones have {expected[shift]:.1%}"
    )
    if distance <= checks.max_histogram_distance:
        return Finding(True, summary, numbers)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    worst = store.keys()[int((np.abs(shares - expected).sum(1)).argmax())]
    return Finding(False, summary, numbers, example=worst, picture=(folder, worst))


def check_agreement(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001
    """Images are steeper along the borders of their masks than elsewhere, on the mean over the partition.

    A quick look without a network, before anything is trained on the pairs; the stage `judge` looks
    closer, later.
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
    summary = f"images are {mean:.2f} times as steep along mask borders as elsewhere, expected {checks.min_edge_agreement}"
    if mean >= checks.min_edge_agreement:
        return Finding(True, summary, numbers)
    worst = store.keys()[int(np.nanargmin(scores))]
    return Finding(False, summary, numbers, example=worst, picture=(folder, worst))


def check_sources(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001
    """Every sample was made from a sample of the training split; none from one of the test split."""
    store = SampleStore(folder)
    sources = store.index["source_key"].dropna()
    held_out = set(SampleStore(paths.real("test")).keys())
    train = set(SampleStore(paths.real("train")).keys())
    foreign = [
        (key, source)
        for key, source in zip(store.index["key"], store.index["source_key"], strict=True)
        if isinstance(source, str) and (source in held_out or source not in train)
    ]
    numbers = {
        "samples": float(len(store)),
        "with_source": float(len(sources)),
        "foreign": float(len(foreign)),
    }
    if not foreign:
        return Finding(
            True, f"none of the {len(store)} samples was made from a held-out one", numbers
        )
    key, source = foreign[0]
    where = "the test split" if source in held_out else "no training split"
    what = f"{len(foreign)} samples weren't made from training samples; {key} is from {source} of {where}"
    return Finding(False, what, numbers, example=what, picture=(folder, key))


def edge_agreement(image: np.ndarray, *, segmentation_map: np.ndarray) -> float:
    """Mean gradient of the image along borders of the mask, over its mean elsewhere; nan for a mask without borders.

    Args:
        image: uint8 [H, W, 3].
        segmentation_map: uint8 [H, W]; "ignore" counts as a label like any other.
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


def _image_pixels(store: SampleStore) -> int:
    height, width = store.read_mask(0).shape
    return height * width


def _is_sourced(folder: Path) -> bool:
    """Whether the method makes samples from real ones: MaskSyn and ImgSyn say so by their `samples_per_source`."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return "samples_per_source" in manifest.get("params", {})


def _num_sources(paths: ProjectPaths, *, slug: str) -> int:
    """Real samples of the subsets that belong to the partition of this class."""
    index = SampleStore(paths.real("train")).index
    counts = dict(zip(index["key"], index["class_pixel_counts"], strict=True))
    wanted = {
        key
        for keys in json.loads(paths.subsets.read_text(encoding="utf-8")).values()
        for key in keys
    }
    return sum(key in wanted for key in rarest_class_partition(counts, read_taxonomy(paths))[slug])
