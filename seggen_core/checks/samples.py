"""Checks of sample stores, real and synthetic."""

from pathlib import Path

from seggen_core.checks.finding import Finding
from seggen_core.config import ChecksConfig
from seggen_core.datasets.reader import SPLITS
from seggen_core.datasets.same_images import image_digests
from seggen_core.datasets.validate_store import check_store
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy


def check_samples(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001 (as all)
    """Every sample of the store is sound.

    It can be decoded, and every value of its mask is a train id of the taxonomy or "ignore". For
    the real dataset, the check reads the stores of all splits.
    """
    real_folders = [paths.real(split) for split in SPLITS]
    taxonomy = Taxonomy.read(paths.taxonomy)
    problems = []
    num_samples = 0
    for store in real_folders if folder in real_folders else [folder]:
        name = store.relative_to(paths.root).as_posix()
        summary, store_problems = check_store(store, taxonomy=taxonomy, name=name)
        num_samples += summary.num_samples
        problems += store_problems
    numbers = {"samples": float(num_samples), "bad": float(len(problems))}
    if not num_samples and folder in real_folders:
        return Finding(True, "there are no real samples: the dataset is a list of words", numbers)
    if not problems:
        return Finding(True, f"all {num_samples} samples are sound", numbers)
    first = f"{problems[0].where}: {problems[0].what}"
    summary_text = f"{len(problems)} of {num_samples} samples can't be used, first {first}"
    return Finding(False, summary_text, numbers, example=first)


def check_held_out(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001 (as all)
    """No training or validation image is a test image: neither its key nor its pixels.

    Published datasets have a few images twice; `max_shared_images` says how many are accepted.
    """
    test = SampleStore(paths.real("test"))
    shared: list[str] = []
    num_others = 0
    for split in ("train", "val"):
        other = SampleStore(paths.real(split))
        num_others += len(other)
        test_keys = dict(zip(image_digests(test, like=other), test.keys(), strict=True))
        for key, digest in zip(other.keys(), image_digests(other), strict=True):
            if digest in test_keys:
                shared.append(f"{split}/{key} is the image test/{test_keys[digest]}")
            elif key in test:
                shared.append(f"{split}/{key} has the key of a test sample")
    numbers = {
        "test": float(len(test)),
        "train_and_val": float(num_others),
        "shared": float(len(shared)),
        "max_shared_images": float(checks.max_shared_images),
    }
    if not shared:
        summary = f"none of the {len(test)} test samples is among the {num_others} others"
        return Finding(True, summary, numbers)
    summary = (
        f"{len(shared)} samples are in the test split too, so its scores are not on unseen data; "
        f"first {shared[0]}"
    )
    if len(shared) <= checks.max_shared_images:
        return Finding(True, summary, numbers)
    return Finding(False, summary, numbers, example=shared[0], limit="max_shared_images")
