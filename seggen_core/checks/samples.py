"""Checks of sample stores, real and synthetic."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from seggen_core.checks.finding import Finding, read_taxonomy
from seggen_core.config import ChecksConfig
from seggen_core.datasets.reader import SPLITS
from seggen_core.datasets.validate_store import check_store
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore


def check_samples(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001
    """Every sample of the store can be decoded, and every mask value is a train id of the taxonomy or "ignore".

    Of the real dataset, the stores of all splits are looked at.
    """
    splits = [paths.real(split) for split in SPLITS]
    folders = splits if folder in splits else [folder]
    taxonomy = read_taxonomy(paths)
    problems, total = [], 0
    for store in folders:
        summary, found = check_store(
            store, taxonomy=taxonomy, name=store.relative_to(paths.root).as_posix()
        )
        total += summary.num_samples
        problems += found
    numbers = {"samples": float(total), "bad": float(len(problems))}
    if not problems:
        return Finding(True, f"all {total} samples are sound", numbers)
    first = f"{problems[0].where}: {problems[0].what}"
    return Finding(
        False,
        f"{len(problems)} of {total} samples can't be used, first {first}",
        numbers,
        example=first,
    )


def check_held_out(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001
    """No image of the test split is one of the training or validation split: neither its key nor its pixels."""
    test = SampleStore(paths.real("test"))
    hashes = dict(zip(_image_hashes(test), test.keys(), strict=True))
    shared: list[str] = []
    total = 0
    for split in ("train", "val"):
        other = SampleStore(paths.real(split))
        total += len(other)
        for key, digest in zip(other.keys(), _image_hashes(other), strict=True):
            if digest in hashes:
                shared.append(f"{split}/{key} is the image test/{hashes[digest]}")
            elif key in test:
                shared.append(f"{split}/{key} has the key of a test sample")
    numbers = {
        "test": float(len(test)),
        "train_and_val": float(total),
        "shared": float(len(shared)),
    }
    if not shared:
        return Finding(
            True, f"the {len(test)} test samples are kept apart from the {total} others", numbers
        )
    summary = f"{len(shared)} samples are in the test split too, so that its scores aren't on unseen data; first {shared[0]}"
    return Finding(False, summary, numbers, example=shared[0])


def _image_hashes(store: SampleStore) -> Iterable[str]:
    """A hash of the pixels of each image, in the store's order."""
    for position in range(len(store)):
        image = store.read_image(position)
        yield hashlib.blake2b(
            f"{image.shape}".encode() + np.ascontiguousarray(image).data, digest_size=16
        ).hexdigest()
