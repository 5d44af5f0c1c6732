"""Each data check on a small project.

What is sound passes; what a check is for fails with numbers and an example.
"""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from seggen_core.checks.registry import PARTITION_CHECKS, STAGE_CHECKS
from seggen_core.checks.samples import check_held_out, check_samples
from seggen_core.checks.scores import (
    check_captions,
    check_checkpoint,
    check_judgement,
    judge_warning,
    require_checkpoint,
)
from seggen_core.checks.synthesis import (
    check_agreement,
    check_classes,
    check_histogram,
    check_sources,
    edge_agreement,
)
from seggen_core.config import ChecksConfig
from seggen_core.errors import ArtefactError, CheckError
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import Sample, SampleStore
from tests.checks.conftest import SIZE, mask_of, partition, sample, write_store

FLOORS = ChecksConfig()


def test_sound_data_passes_all(paths: ProjectPaths) -> None:
    synthetic = partition(
        paths, *(sample(f"m{i}", mask_of(0, 1, 2, 1), source=f"train{i}") for i in range(4))
    )
    pd.DataFrame({"sample_key": [f"train{i}" for i in range(4)], "caption": "a car"}).to_parquet(
        _parent(paths.captions)
    )
    for check, folder in (
        (check_samples, paths.real("train")),
        (check_held_out, paths.real("train")),
        (check_captions, paths.captions.parent),
        (check_samples, synthetic),
        (check_classes, synthetic),
        (check_histogram, synthetic),
        (check_agreement, synthetic),
        (check_sources, synthetic),
    ):
        finding = check(folder, paths=paths, checks=FLOORS)
        assert finding.passed, (check.__name__, finding)
        assert finding.example is None


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_a_sample_that_cant_be_decoded(paths: ProjectPaths) -> None:
    folder = partition(
        paths, *(sample(f"m{i}", mask_of(0, 1, 2, 1), source="train0") for i in range(2))
    )
    row = SampleStore(folder).index.iloc[1]
    with (folder / row["shard"]).open("r+b") as shard:
        shard.seek(row["image_offset"] + 20)
        shard.write(b"\0\0\0\0")
    finding = check_samples(folder, paths=paths, checks=FLOORS)
    assert not finding.passed and finding.blocks
    assert finding.numbers == {"samples": 2, "bad": 1}
    assert finding.example is not None and finding.example.startswith(
        "data/synthetic/masksyn/car/m1: "
    )


def test_a_test_image_among_the_training_images(paths: ProjectPaths) -> None:
    leaked = SampleStore(paths.real("test"))["test1"]
    train = [
        *SampleStore(paths.real("train")),
        Sample("renamed", leaked.image, leaked.segmentation_map, None, {}),
    ]
    write_store(paths.real("train"), train)
    finding = check_held_out(paths.real("train"), paths=paths, checks=FLOORS)
    assert not finding.passed
    assert finding.example == "train/renamed is the image test/test1"
    assert finding.numbers["shared"] == 1
    accepted = ChecksConfig(max_shared_images=1)
    assert check_held_out(paths.real("train"), paths=paths, checks=accepted).passed


def test_captions_are_missing(paths: ProjectPaths) -> None:
    table = pd.DataFrame(
        {"sample_key": ["train0", "train1", "train2"], "caption": ["a car", " ", "a road"]}
    )
    table.to_parquet(_parent(paths.captions))
    finding = check_captions(paths.captions.parent, paths=paths, checks=FLOORS)
    assert (finding.passed, finding.numbers["coverage"], finding.example) == (False, 0.5, "train1")
    relaxed = check_captions(
        paths.captions.parent, paths=paths, checks=ChecksConfig(min_caption_coverage=0.5)
    )
    assert relaxed.passed


def test_an_empty_partition(paths: ProjectPaths) -> None:
    finding = check_classes(partition(paths), paths=paths, checks=FLOORS)
    assert (finding.passed, finding.blocks) == (False, True)
    # Nothing to make it from: one source, which has a rarer class than the sky.
    paths.subsets.write_text(json.dumps({"0": ["train0"]}))
    finding = check_classes(partition(paths, slug="sky"), paths=paths, checks=FLOORS)
    assert (finding.passed, finding.blocks) == (False, False)
    assert "1 of the 1 real samples that samples are made from show sky" in finding.summary
    finding = check_classes(
        partition(paths, slug="sky", method="seediff"), paths=paths, checks=FLOORS
    )
    assert (finding.passed, finding.blocks) == (False, True)


def test_a_partition_of_one_class(paths: ProjectPaths) -> None:
    folder = partition(paths, *(sample(f"m{i}", mask_of(1), source="train0") for i in range(2)))
    finding = check_classes(folder, paths=paths, checks=FLOORS)
    assert not finding.passed and "show road and no other class" in finding.summary
    assert finding.picture == (folder, "m0")


def test_a_method_of_one_class_that_shows_another(paths: ProjectPaths) -> None:
    folder = partition(paths, sample("s0", mask_of(255, 1)), method="seediff")
    assert not check_classes(folder, paths=paths, checks=FLOORS).passed
    assert not check_histogram(folder, paths=paths, checks=FLOORS).passed
    folder = partition(paths, sample("s0", mask_of(255, 2)), method="seediff")
    assert check_classes(folder, paths=paths, checks=FLOORS).passed
    assert check_histogram(folder, paths=paths, checks=FLOORS).numbers["class_share"] == 0.5


def test_a_collapsed_histogram(paths: ProjectPaths) -> None:
    # The real source has shares 1/2, 1/4, 1/4; the partition 0, 1/16, 15/16: distance 11/16.
    mask = np.full((SIZE, SIZE), 2, np.uint8)
    mask[0] = 1
    folder = partition(paths, sample("m0", mask, source="train0"))
    finding = check_histogram(folder, paths=paths, checks=FLOORS)
    assert not finding.passed
    assert finding.numbers["distance"] == pytest.approx(11 / 16)
    assert "most shifted: car, 93.8% of pixels where the real ones have 25.0%" in finding.summary
    assert check_histogram(
        folder, paths=paths, checks=ChecksConfig(max_histogram_distance=0.7)
    ).passed


def test_masks_that_have_nothing_to_do_with_their_images(paths: ProjectPaths) -> None:
    noise = np.random.default_rng(0)
    unrelated = [
        Sample(
            f"m{i}",
            noise.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8),
            mask_of(0, 1, 2, 1),
            None,
            {"source_key": "train0"},
        )
        for i in range(8)
    ]
    folder = partition(paths, *unrelated)
    finding = check_agreement(folder, paths=paths, checks=FLOORS)
    assert not finding.passed
    assert finding.numbers["edge_agreement"] == pytest.approx(1, abs=0.15)
    assert finding.picture == (folder, finding.example)


def test_edge_agreement_by_hand() -> None:
    # A step of 60 between rows 1 and 2: central differences give 30 in both rows of the border and
    # 0 elsewhere.
    mask = np.repeat(np.array([0, 0, 1, 1, 1, 1], np.uint8), 6).reshape(6, 6)
    image = (mask[..., None] * 60).repeat(3, 2)
    assert edge_agreement(image, segmentation_map=mask) == pytest.approx(30 / 1e-6)
    ramp = np.arange(6, dtype=np.uint8)[:, None, None].repeat(6, 1).repeat(3, 2)
    assert edge_agreement(ramp, segmentation_map=mask) == pytest.approx(1)
    assert np.isnan(edge_agreement(image, segmentation_map=np.zeros_like(mask)))


def test_samples_with_a_held_out_source(paths: ProjectPaths) -> None:
    folder = partition(
        paths,
        sample("m0", mask_of(0, 2), source="train0"),
        sample("m1", mask_of(0, 2), source="test3"),
    )
    finding = check_sources(folder, paths=paths, checks=FLOORS)
    assert not finding.passed and "the source of m1 is test3 of the test split" in finding.summary


@pytest.mark.parametrize(
    "text",
    ["{}", '{"seeds": 3, "miou": "x"}', '{"seeds": {"0": {}}, "miou": 1}', '{"task": "x"}'],
)
def test_scores_of_another_form_name_the_file(paths: ProjectPaths, text: str) -> None:
    for check, folder, stage in (
        (check_checkpoint, paths.checkpoint("baseline"), "train_seg@baseline"),
        (check_judgement, paths.report("judge", "masksyn"), "judge@masksyn"),
    ):
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(text)
        with pytest.raises(ArtefactError, match=f"dvc repro -f -s {stage}"):
            check(folder, paths=paths, checks=FLOORS)


@pytest.mark.parametrize("lowest, passes", [(9.9, False), (10.0, True)])
def test_the_floor_of_a_checkpoint(paths: ProjectPaths, lowest: float, passes: bool) -> None:
    metrics = {"val_miou": 50.0, "seeds": {"0": {"val_miou": 90.0}, "1": {"val_miou": lowest}}}
    folder = paths.checkpoint("baseline")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    finding = check_checkpoint(folder, paths=paths, checks=FLOORS)
    assert finding.passed is passes
    assert finding.example == (None if passes else "seed1")
    if passes:
        require_checkpoint("baseline", paths=paths, checks=FLOORS)
    else:
        with pytest.raises(CheckError, match=r"baseline: .*lowest 9\.9.*checks\.min_val_miou"):
            require_checkpoint("baseline", paths=paths, checks=FLOORS)


@pytest.mark.parametrize(
    "metrics, passes, example",
    [
        ({"miou": 40.0, "partitions": {"car": {"miou": 30.0}, "sky": {"miou": 50.0}}}, True, None),
        (
            {"miou": 4.0, "partitions": {"car": {"miou": 3.0}, "sky": {"miou": 5.0}}},
            False,
            "masksyn/car",
        ),
        (
            {"miou": 40.0, "mask_iou": 14.0, "per_class_mask_iou": {"sky": 8.0}, "partitions": {}},
            False,
            "masksyn/sky",
        ),
    ],
)
def test_the_floor_of_a_method(
    paths: ProjectPaths, metrics: dict[str, Any], passes: bool, example: str | None
) -> None:
    folder = paths.report("judge", "masksyn")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    finding = check_judgement(folder, paths=paths, checks=FLOORS)
    assert (finding.passed, finding.example, finding.blocks) == (passes, example, False)
    warning = judge_warning("masksyn", paths=paths, checks=FLOORS)
    assert warning is None if passes else "checks.min_judge_miou" in str(warning)


def test_scores_without_a_labelled_pixel_are_warnings(paths: ProjectPaths) -> None:
    metrics = {"val_miou": None, "seeds": {"0": {"val_miou": None}}}
    for folder, tree, check in (
        (paths.checkpoint("baseline"), metrics, check_checkpoint),
        (paths.report("judge", "masksyn"), {"miou": None, "partitions": {}}, check_judgement),
    ):
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(tree))
        finding = check(folder, paths=paths, checks=FLOORS)
        assert (finding.passed, finding.blocks, finding.limit) == (False, False, None)
    assert "limit" not in str(judge_warning("masksyn", paths=paths, checks=FLOORS))
    require_checkpoint("baseline", paths=paths, checks=FLOORS)


def test_every_check_takes_the_same_arguments() -> None:
    listed = [*PARTITION_CHECKS, *(check for checks in STAGE_CHECKS.values() for check in checks)]
    assert len({check.name for check in listed}) == 9
    for check in listed:
        function = getattr(importlib.import_module(check.module), check.function)
        assert [*function.__annotations__] == ["folder", "paths", "checks", "return"], check.name
        assert all(limit in ChecksConfig.model_fields for limit in check.limits), check.name


ANY = {
    "min_samples": 1,
    "min_edge_agreement": 0.0,
    "max_histogram_distance": 1.0,
    "min_class_share": 0.0,
    "max_class_share": 1.0,
}
"""Values of the limits of partitions that let all of them pass."""
SOUND = sample("m0", mask_of(0, 1, 2, 1), source="train0")
ONE_CLASS = sample("m0", mask_of(2, 2), source="train0")
NOISE = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
CASES = {
    "too few": (check_classes, SOUND, ChecksConfig(min_samples=2), "min_samples"),
    "one class": (check_classes, ONE_CLASS, FLOORS, None),
    "histogram": (check_histogram, ONE_CLASS, FLOORS, "max_histogram_distance"),
    "noise": (check_agreement, replace(SOUND, image=NOISE), FLOORS, "min_edge_agreement"),
    "held out": (check_sources, sample("m0", mask_of(0, 1), source="test0"), FLOORS, None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_failure_names_the_limit_that_it_is_about_or_none(paths: ProjectPaths, name: str) -> None:
    check, one, checks, limit = CASES[name]
    assert_limit(check, partition(paths, one), paths=paths, checks=checks, limit=limit)


@pytest.mark.parametrize(
    "mask, limit", [(mask_of(0, 1), "min_class_share"), (mask_of(2, 2), "max_class_share")]
)
def test_a_share_of_a_class_names_the_end_that_it_is_past(
    paths: ProjectPaths, mask: np.ndarray, limit: str
) -> None:
    folder = partition(paths, sample("m0", mask), method="seediff")
    assert_limit(check_histogram, folder, paths=paths, checks=FLOORS, limit=limit)


def assert_limit(
    check: Any, folder: Path, *, paths: ProjectPaths, checks: ChecksConfig, limit: str | None
) -> None:
    """Another value of the limit lets the data pass; where there is none, no limit does."""
    finding = check(folder, paths=paths, checks=checks)
    assert (finding.passed, finding.limit) == (False, limit)
    loosened = ANY if limit is None else {limit: ANY[limit]}
    relaxed = check(folder, paths=paths, checks=checks.model_copy(update=loosened))
    assert relaxed.passed == (limit is not None)
