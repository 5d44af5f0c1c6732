"""The stage `memorization` on tiny stores: planted copies, masks left out, and the reference."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seggen_core.config import SegGenConfig
from seggen_core.errors import ConfigError, SampleStoreError
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages import memorization
from seggen_core.store.reader import Sample, SampleStoreWriter
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy
from seggen_core.tracking.log import run_files
from tests.minimal_config import minimal_config

SIZE = 40
TAXONOMY = Taxonomy.from_names(stuff=["sky", "grass"], things=["car"])


def settings(**changes: Any) -> SegGenConfig:
    return minimal_config(
        {"name": "scenes", "image_size": SIZE},
        classes=["car", "grass"],
        memorization={"neighbors": 3, "batch_size": 2, "num_pictures": 2} | changes,
    )


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture of blocks and its mask: uint8 [SIZE, SIZE, 3] and [SIZE, SIZE]."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 3, (5, 5)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    blocks = rng.integers(0, 200, (5, 5, 3)).repeat(8, 0).repeat(8, 1)
    return (blocks + rng.integers(0, 30, (SIZE, SIZE, 3))).astype(np.uint8), mask


def write(
    folder: Path,
    samples: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    sources: dict[str, str] | None = None,
) -> None:
    with SampleStoreWriter(folder, num_classes=len(TAXONOMY)) as writer:
        for key, (image, mask) in samples.items():
            metadata = {"source_key": sources[key]} if sources else {}
            writer.add(
                Sample(key, np.ascontiguousarray(image), np.ascontiguousarray(mask), None, metadata)
            )
        writer.finish(manifest={})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectPaths:
    """Return a project in which MaskSyn has copied train-1, and train-2 mirrored and darker."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    paths = ProjectPaths(tmp_path)
    paths.data.mkdir()
    train = {f"train-{n}": picture(n) for n in range(7)}
    write(paths.real("train"), train)
    write(paths.real("val"), {f"val-{n}": picture(100 + n) for n in range(5)})
    paths.taxonomy.write_text(json.dumps(TAXONOMY.to_json()))
    image, mask = train["train-2"]
    mirrored = (0.75 * image[:, ::-1]).astype(np.uint8), mask[:, ::-1]
    cars = {"copy": train["train-1"], "new-0": picture(200), "new-1": picture(201)}
    write(
        paths.synthetic("masksyn", "car"),
        cars,
        sources={"copy": "train-1", "new-0": "train-0", "new-1": "train-5"},
    )
    write(
        paths.synthetic("masksyn", "grass"), {"mirrored": mirrored}, sources={"mirrored": "train-6"}
    )
    return paths


def read(paths: ProjectPaths, method: str) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    out = paths.report("memorization", method)
    assert sorted(p.name for p in out.iterdir()) == [
        "distances.csv",
        "metrics.json",
        "nearest.png",
        "reference.csv",
    ]
    return (
        json.loads((out / "metrics.json").read_text()),
        pd.read_csv(out / "distances.csv"),
        pd.read_csv(out / "reference.csv"),
    )


def test_copies_are_found_and_new_samples_are_as_far_as_validation_samples(
    project: ProjectPaths,
) -> None:
    memorization.run(settings(), paths=project, item="masksyn")
    metrics, table, reference = read(project, "masksyn")
    assert table[["class_slug", "key"]].to_numpy().tolist() == [
        ["car", "copy"], ["car", "new-0"], ["car", "new-1"], ["grass", "mirrored"],
    ]  # fmt: skip
    rows = table.set_index("key")
    assert (
        rows.loc["copy", ["mask_nearest", "image_nearest", "structure_nearest"]].tolist()
        == ["train-1"] * 3
    )
    assert not rows.loc["copy", ["mask_mirrored", "image_mirrored", "structure_mirrored"]].any()
    assert (
        rows.loc[
            "copy", ["mask_distance", "image_rms", "image_relative", "image_structure"]
        ].tolist()
        == [0] * 4
    )
    assert rows.loc["mirrored", ["mask_nearest", "structure_nearest"]].tolist() == ["train-2"] * 2
    assert rows.loc["mirrored", ["mask_mirrored", "structure_mirrored"]].all()
    assert (
        rows.loc["mirrored", "mask_distance"] == 0
        and rows.loc["mirrored", "image_structure"] < 0.01
    )
    assert rows.loc[["new-0", "new-1"], "image_structure"].min() > 0.2

    assert (
        metrics["samples"] == 4 and metrics["training_samples"] == 7 and metrics["masks"] == "own"
    )
    assert (
        metrics["reference_samples"] == len(reference) == 5 and metrics["reference_in_train"] == 0
    )
    assert (
        metrics["synthetic"]["mask_distance"]["min"] == 0
        and metrics["synthetic"]["mask_distance"]["below_reference"] >= 50
    )
    for name in ("mask_distance", "image_rms", "image_relative", "image_structure"):
        assert metrics["synthetic"][name]["median"] == pytest.approx(table[name].median(), abs=1e-3)
        assert metrics["reference"][name]["p5"] == pytest.approx(
            np.percentile(reference[name], 5), abs=1e-3
        )
        nearer = 100 * (table[name] < np.percentile(reference[name], 1)).mean()
        assert metrics["synthetic"][name]["below_reference"] == nearer
    assert metrics["source_is_nearest"] == 25.0
    shown = np.asarray(Image.open(project.report("memorization", "masksyn") / "nearest.png"))
    assert shown.shape[0] > 8 * 2 * SIZE
    logged = run_files(project.metrics_log, "memorization@masksyn")[0].read_text()
    assert (
        '"synthetic/mask_distance/min":0.0' in logged
        and "nearest.png" in logged
        and '"status":"FINISHED"' in logged
    )


def test_a_second_run_and_other_batches_give_the_same_bytes(project: ProjectPaths) -> None:
    contents = []
    for batch_size in (2, 2, 5):
        memorization.run(settings(batch_size=batch_size), paths=project, item="masksyn")
        out = project.report("memorization", "masksyn")
        contents.append({p.name: p.read_bytes() for p in out.iterdir()})
    assert contents[0] == contents[1] == contents[2]


def test_masks_that_are_real_by_design_are_left_out(project: ProjectPaths) -> None:
    image = picture(300)[0]
    samples = {"own-image": (image, picture(3)[1])}
    write(project.synthetic("imgsyn", "car"), samples, sources={"own-image": "train-3"})
    write(project.synthetic("imgsyn", "grass"), {})
    memorization.run(settings(), paths=project, item="imgsyn")
    metrics, table, reference = read(project, "imgsyn")
    assert metrics["masks"] == "real" and not any("mask" in name for name in [*table, *reference])
    assert (
        set(metrics["synthetic"])
        == set(metrics["reference"])
        == {"image_rms", "image_relative", "image_structure"}
    )


def test_masks_of_one_class_are_left_out(project: ProjectPaths) -> None:
    image, mask = picture(301)
    write(
        project.synthetic("seediff", "car"),
        {"one": (image, np.where(mask == 2, mask, IGNORE_INDEX).astype(np.uint8))},
    )
    write(project.synthetic("seediff", "grass"), {})
    memorization.run(settings(), paths=project, item="seediff")
    metrics, table, _ = read(project, "seediff")
    assert (
        metrics["masks"] == "one_class"
        and "mask_distance" not in table
        and "source_is_nearest" not in metrics
    )


def test_validation_samples_that_were_trained_on_are_not_compared_with_themselves(
    project: ProjectPaths,
) -> None:
    shutil.rmtree(project.real("val"))
    write(project.real("val"), {"val-0": picture(4), "val-1": picture(101)})
    memorization.run(settings(), paths=project, item="masksyn")
    metrics, _, reference = read(project, "masksyn")
    assert metrics["reference_in_train"] == 1
    assert (
        reference["image_nearest"][0] != "train-4"
        and reference["image_rms"].min() > 10
        and reference["mask_distance"].min() > 0
    )


def test_what_is_missing_is_named(project: ProjectPaths) -> None:
    with pytest.raises(ConfigError, match="there is no synthetic method 'syn'; known: masksyn"):
        memorization.run(settings(), paths=project, item="syn")
    with pytest.raises(
        SampleStoreError, match="holds no class partition; run: dvc repro diffumask"
    ):
        memorization.run(settings(), paths=project, item="diffumask")
    for slug in ("car", "grass"):
        write(project.synthetic("seediff", slug), {})
    with pytest.raises(
        SampleStoreError, match="holds no sample in any class partition; run: dvc repro seediff"
    ):
        memorization.run(settings(), paths=project, item="seediff")
