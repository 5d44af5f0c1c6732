import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seggen_core import stage
from seggen_core.errors import StorageError
from seggen_core.project.paths import ProjectPaths
from seggen_core.scenes.layout import SCENES_TAXONOMY
from seggen_core.stages import imgsyn, masksyn
from seggen_core.store.cache import RecordCache, count_added
from seggen_core.store.reader import SampleStore
from seggen_core.synthesis import seggen_partition
from seggen_core.synthesis.seggen import PairMasks
from seggen_core.synthesis.seggen_methods import MaskSyn
from tests.synthesis.conftest import PARAMS, write_config
from tests.synthesis.seggen_helpers import Project, contents, sources_of


@pytest.fixture(scope="module")
def whole(make_project: Project) -> ProjectPaths:
    """A project in which MaskSyn and ImgSyn have run for `car`, uninterrupted."""
    paths = make_project("whole")
    config = write_config(paths)
    masksyn.run(config, paths=paths, item="car")
    imgsyn.run(config, paths=paths, item="car")
    return paths


@pytest.fixture(scope="module")
def cars(whole: ProjectPaths) -> list[str]:
    cars = sources_of(whole)["car"]
    assert len(cars) >= 3, "the tests need a class with several sources"
    return cars


def test_panoptic_colour_maps_make_instances(make_project: Project) -> None:
    paths = make_project("panoptic")
    tree: dict[str, Any] = PARAMS["dataset"] | {"color_map": "panoptic"}
    config = write_config(paths, dataset=tree)
    masksyn.run(config, paths=paths, item="car")
    imgsyn.run(config, paths=paths, item="car")
    drawn, redrawn = (
        SampleStore(paths.synthetic(method, "car")) for method in ("masksyn", "imgsyn")
    )
    real = SampleStore(paths.real("train"))
    assert len(drawn) and len(redrawn)
    for sample in redrawn:
        source = real[sample.metadata["source_key"]]
        assert (
            sample.instance_map is not None and (sample.instance_map == source.instance_map).all()
        )
    for sample in drawn:
        assert sample.instance_map is not None
        assert sample.metadata["quality"].keys() == {"void", "ambiguous"}
        things = np.isin(
            sample.segmentation_map, [c.train_id for c in SCENES_TAXONOMY if c.is_thing]
        )
        assert (sample.instance_map[~things] == 0).all() and (sample.instance_map[things] > 0).all()


def test_a_partition_holds_so_many_samples_of_each_source(
    whole: ProjectPaths, cars: list[str]
) -> None:
    captions = pd.read_parquet(whole.captions).set_index("sample_key")["caption"]
    real = SampleStore(whole.real("train"))
    for method, count in (("masksyn", 3), ("imgsyn", 2)):
        store = SampleStore(whole.synthetic(method, "car"))
        assert store.keys() == [f"{method}-{key}-{n:03d}" for key in cars for n in range(count)]
        assert store.manifest["method"] == method and store.manifest["seed"] == 3
        models = (
            {"foundation", "mask2img", "text2mask"}
            if method == "masksyn"
            else {"foundation", "mask2img"}
        )
        assert store.manifest["model_hashes"].keys() == models
        assert store.manifest["models"].keys() == {"foundation"}
        assert store.manifest["license"] == SampleStore(whole.real("train")).manifest["license"]
        assert f"# {method}\n" in whole.synthetic(method).joinpath("README.md").read_text()
        for sample in store:
            assert sample.image.shape == (32, 32, 3) and sample.instance_map is None
            source = sample.metadata["source_key"]
            assert (
                sample.key.startswith(f"{method}-{source}-")
                and sample.metadata["prompt"] == captions[source]
            )
            assert sample.metadata["class_slug"] == "car"
            assert sample.metadata["model_hash"] == store.manifest["model_hashes"]["mask2img"]
            if method == "imgsyn":
                assert (sample.segmentation_map == real.read_mask(source)).all()
        assert store.index["seed"].is_unique
        for name in ("void", "ambiguous"):
            assert (f"quality_{name}" in store.index.columns) == (method == "masksyn")


def test_metrics_and_pictures_come_with_it(whole: ProjectPaths, cars: list[str]) -> None:
    out = whole.synthetic("masksyn", "car")
    store, metrics = SampleStore(out), json.loads((out / "metrics.json").read_text())
    assert metrics["samples"] == 3 * len(cars)
    shares = [metrics[f"share_{slug}"] for slug in SCENES_TAXONOMY.slugs]
    counts = np.sum(store.index["class_pixel_counts"].tolist(), axis=0)
    assert shares == pytest.approx(counts / counts.sum(), abs=1e-5)
    for name in ("void", "ambiguous"):
        assert metrics[name] == pytest.approx(store.index[f"quality_{name}"].mean(), abs=1e-5)
    assert metrics["rejected"] == 0 and store.manifest["rejected"] == []
    with Image.open(out / "previews.png") as picture:
        assert picture.width > 5 * 64
    assert not (whole.scratch / "masksyn" / "car").exists()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_bytes_do_not_depend_on_the_batch_size(
    whole: ProjectPaths, make_project: Project, batch_size: int
) -> None:
    paths = make_project("batch")
    imgsyn.run(write_config(paths, imgsyn={"batch_size": batch_size}), paths=paths, item="car")
    files, wanted = (contents(p.synthetic("imgsyn", "car")) for p in (paths, whole))
    assert files.keys() == wanted.keys()
    # The manifest alone differs: it says which batch size there was.
    assert [name for name in wanted if files[name] != wanted[name]] == ["manifest.json"]


def test_bytes_do_not_depend_on_which_other_sources_there_are(
    whole: ProjectPaths, make_project: Project, cars: list[str]
) -> None:
    paths = make_project("fewer")
    paths.subsets.write_text(json.dumps({"0": cars[1:2], "1": cars[2:3]}))
    config = write_config(paths)
    for method, module in (("masksyn", masksyn), ("imgsyn", imgsyn)):
        module.run(config, paths=paths, item="car")
        few, many = (
            SampleStore(paths.synthetic(method, "car")),
            SampleStore(whole.synthetic(method, "car")),
        )
        assert {s.metadata["source_key"] for s in few} == set(cars[1:3])
        for sample in few:
            other = many[sample.key]
            assert (sample.image == other.image).all() and (
                sample.segmentation_map == other.segmentation_map
            ).all()
            assert sample.metadata == other.metadata


def test_another_seed_makes_other_samples(whole: ProjectPaths, make_project: Project) -> None:
    paths = make_project("seed")
    imgsyn.run(write_config(paths, seed=4), paths=paths, item="car")
    one, two = (
        SampleStore(whole.synthetic("imgsyn", "car")),
        SampleStore(paths.synthetic("imgsyn", "car")),
    )
    assert one.keys() == two.keys() and all(
        (a.image != b.image).any() for a, b in zip(one, two, strict=True)
    )


def test_kill_9_and_again_gives_the_same_bytes(whole: ProjectPaths, make_project: Project) -> None:
    paths = make_project("killed")
    config = write_config(paths)
    command = [
        sys.executable,
        "-m",
        "seggen_core",
        "--params",
        str(paths.root / "params.yaml"),
        "masksyn",
        "--item",
        "car",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cache = paths.record_cache("masksyn", "car")
    deadline = time.monotonic() + 300
    while not count_added(cache):
        assert process.poll() is None and time.monotonic() < deadline, (
            "it ended before it could be killed"
        )
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    committed = count_added(cache)
    assert 1 <= committed < len(SampleStore(whole.synthetic("masksyn", "car")))
    assert not paths.synthetic("masksyn", "car").exists()
    masksyn.run(config, paths=paths, item="car")
    assert contents(paths.synthetic("masksyn", "car")) == contents(
        whole.synthetic("masksyn", "car")
    )
    assert not (paths.scratch / "masksyn" / "car").exists()
    assert count_added(cache) == 0


@pytest.mark.parametrize("committed", [1, 4, 5])
def test_going_on_within_a_source_gives_the_same_bytes(
    whole: ProjectPaths, make_project: Project, monkeypatch: pytest.MonkeyPatch, committed: int
) -> None:
    paths = make_project("within")
    config = write_config(paths)
    add, added = RecordCache.add, []

    def stop(cache: Any, digest: str, record: Any) -> None:
        if len(added) == committed:
            raise KeyboardInterrupt
        added.append(digest)
        add(cache, digest, record)

    with monkeypatch.context() as patch:
        patch.setattr(RecordCache, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            masksyn.run(config, paths=paths, item="car")
    assert count_added(paths.record_cache("masksyn", "car")) == committed
    masksyn.run(config, paths=paths, item="car")
    assert contents(paths.synthetic("masksyn", "car")) == contents(
        whole.synthetic("masksyn", "car")
    )


@pytest.mark.parametrize("damaged", ["record", "whole file"])
def test_damage_to_what_an_interrupted_run_left_is_made_good(
    whole: ProjectPaths, make_project: Project, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    paths = make_project("damaged")
    config = write_config(paths)
    with monkeypatch.context() as patch:
        patch.setattr(seggen_partition, "_write_store", None)  # all is made, nothing is written
        with pytest.raises(TypeError):
            imgsyn.run(config, paths=paths, item="car")
    (records,) = paths.record_cache("imgsyn", "car").glob("records-*")
    data = bytearray(records.read_bytes())
    if damaged == "record":
        data[len(data) // 2] ^= 0xFF
    records.write_bytes(data if damaged == "record" else bytes(len(data)))
    imgsyn.run(config, paths=paths, item="car")
    assert contents(paths.synthetic("imgsyn", "car")) == contents(whole.synthetic("imgsyn", "car"))


def test_a_partition_that_was_finished_but_not_published_is_not_made_again(
    whole: ProjectPaths, make_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_project("unpublished")
    config = write_config(paths)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for owner, step in (
        (stage, "publish"),
        (seggen_partition, "store_grid"),
        (RecordCache, "keep"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                imgsyn.run(config, paths=paths, item="car")
        shutil.rmtree(paths.synthetic("imgsyn", "car"), ignore_errors=True)  # as DVC does
    # Nothing is left to be drawn.
    monkeypatch.setattr(seggen_partition, "load_mask2img", interrupted)
    for _ in range(2):
        imgsyn.run(config, paths=paths, item="car")
        assert contents(paths.synthetic("imgsyn", "car")) == contents(
            whole.synthetic("imgsyn", "car")
        )
        shutil.rmtree(paths.synthetic("imgsyn", "car"))


def test_a_batch_size_costs_nothing_and_a_seed_everything(
    make_project: Project, cars: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_project("changed")
    drawn: list[str] = []
    draw = seggen_partition.draw_images

    def note(tasks: Any, **arguments: Any) -> Any:
        drawn.extend(task.source_key for task in tasks)
        return draw(tasks, **arguments)

    monkeypatch.setattr(seggen_partition, "draw_images", note)
    expected = 2 * len(cars)
    for changes, num_drawn in (
        ({}, expected),
        ({"imgsyn": {"batch_size": 1}}, 0),
        ({"masksyn": {"samples_per_source": 1}}, 0),
        ({"seed": 4}, expected),
        ({"imgsyn": {"samples_per_source": 1}}, len(cars)),
    ):
        drawn.clear()
        imgsyn.run(write_config(paths, **changes), paths=paths, item="car")
        assert len(drawn) == num_drawn, changes


def test_images_may_be_stored_as_jpeg(whole: ProjectPaths, make_project: Project) -> None:
    paths = make_project("jpeg")
    changes = {"image_format": "jpeg", "jpeg_quality": 90}
    imgsyn.run(write_config(paths, imgsyn=changes), paths=paths, item="car")
    stores = [SampleStore(p.synthetic("imgsyn", "car")) for p in (whole, paths)]
    assert stores[1].manifest["store"]["image_format"] == "jpg"
    assert stores[0].manifest["params"] == stores[1].manifest["params"]
    for lossless, sample in zip(*stores, strict=True):
        assert stores[1].read_bytes(sample.key, "image")[:3] == b"\xff\xd8\xff"
        difference = np.abs(sample.image.astype(int) - lossless.image)
        assert 0 < difference.mean() < 8
        np.testing.assert_array_equal(sample.segmentation_map, lossless.segmentation_map)
        assert sample.metadata == lossless.metadata


@pytest.fixture
def ambiguous_thirds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Say that none, half and all pixels of a source's three samples are ambiguous.

    Random weights draw plain grey. Returns the keys of the samples that are drawn.
    """
    open_masks = MaskSyn.open_masks
    drawn: list[str] = []

    def say(method: Any, recipe: Any) -> Any:
        source = open_masks(method, recipe)

        def read(tasks: Any) -> PairMasks:
            drawn.extend(task.key("masksyn") for task in tasks)
            masks = source(tasks)
            quality = [
                q | {"ambiguous": task.index / 2}
                for task, q in zip(tasks, masks.quality, strict=True)
            ]
            return replace(masks, quality=quality)

        return read

    monkeypatch.setattr(MaskSyn, "open_masks", say)
    return drawn


def test_samples_with_too_many_ambiguous_pixels_are_rejected(
    whole: ProjectPaths,
    make_project: Project,
    ambiguous_thirds: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    every = SampleStore(whole.synthetic("masksyn", "car"))
    paths = make_project("rejected")
    masksyn.run(write_config(paths, masksyn={"max_ambiguous": 0.5}), paths=paths, item="car")
    store = SampleStore(paths.synthetic("masksyn", "car"))
    rejected = [key for key in every.keys() if key.endswith("-002")]  # noqa: SIM118
    assert store.keys() == [key for key in every.keys() if key not in rejected]  # noqa: SIM118
    assert all((s.image == every[s.key].image).all() for s in store)
    assert store.manifest["rejected"] == rejected
    metrics = json.loads((store.folder / "metrics.json").read_text())
    assert metrics["rejected"] == len(rejected)
    said = f"masksyn car: {len(rejected)} of {len(every)} samples rejected, more than 50.0% of"
    assert said in caplog.text
    assert len(ambiguous_thirds) == len(every)


def test_another_limit_draws_nothing(make_project: Project, ambiguous_thirds: list[str]) -> None:
    paths = make_project("limit")
    folder = paths.synthetic("masksyn", "car")
    masksyn.run(write_config(paths), paths=paths, item="car")
    before, num_samples = contents(folder), len(SampleStore(folder))
    ambiguous_thirds.clear()
    masksyn.run(write_config(paths, masksyn={"max_ambiguous": 0.5}), paths=paths, item="car")
    assert len(SampleStore(folder)) == num_samples * 2 / 3
    masksyn.run(write_config(paths), paths=paths, item="car")
    assert contents(folder) == before
    assert ambiguous_thirds == []


def test_a_place_that_cant_be_written_is_one_error_and_costs_nothing(
    whole: ProjectPaths, make_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_project("obstacle")
    config = write_config(paths)
    paths.synthetic("imgsyn").parent.mkdir()
    paths.synthetic("imgsyn").write_text("in the way")
    with pytest.raises(StorageError, match=r"can't write .*imgsyn.*All that was made is kept in"):
        imgsyn.run(config, paths=paths, item="car")
    paths.synthetic("imgsyn").unlink()
    monkeypatch.setattr(seggen_partition, "load_mask2img", None)  # nothing is drawn again
    imgsyn.run(config, paths=paths, item="car")
    assert contents(paths.synthetic("imgsyn", "car")) == contents(whole.synthetic("imgsyn", "car"))
