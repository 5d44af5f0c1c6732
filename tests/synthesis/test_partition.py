import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from seggen_core.datasets.subset import rarest_class_partition
from seggen_core.errors import CaptionError, ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.scenes.layout import SCENES_TAXONOMY
from seggen_core.stages import imgsyn, masksyn
from seggen_core.store.reader import SampleStore
from seggen_core.synthesis import partition
from seggen_core.synthesis.partition import list_tasks
from tests.synthesis.conftest import PARAMS, write_config

Project = Callable[[str], ProjectPaths]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def sources_of(paths: ProjectPaths) -> dict[str, list[str]]:
    """Sources of each class: samples of the subset whose rarest class it is."""
    index = SampleStore(paths.real("train")).index
    counts = dict(zip(index["key"], index["class_pixel_counts"], strict=True))
    wanted = set(json.loads(paths.subsets.read_text())["0"])
    return {
        c: [k for k in keys if k in wanted]
        for c, keys in rarest_class_partition(counts, SCENES_TAXONOMY).items()
    }


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
    made, redrawn = (
        SampleStore(paths.synthetic(method, "car")) for method in ("masksyn", "imgsyn")
    )
    real = SampleStore(paths.real("train"))
    assert len(made) and len(redrawn)
    for sample in redrawn:
        source = real[sample.metadata["source_key"]]
        assert (
            sample.instance_map is not None and (sample.instance_map == source.instance_map).all()
        )
    for sample in made:
        assert sample.instance_map is not None and sample.metadata["quality"].keys() == {
            "off_palette"
        }
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
        assert ("quality_off_palette" in store.index.columns) == (method == "masksyn")


def test_metrics_and_pictures_come_with_it(whole: ProjectPaths, cars: list[str]) -> None:
    out = whole.synthetic("masksyn", "car")
    store, metrics = SampleStore(out), json.loads((out / "metrics.json").read_text())
    assert metrics["samples"] == 3 * len(cars)
    shares = [metrics[f"share_{slug}"] for slug in SCENES_TAXONOMY.slugs]
    counts = np.sum(store.index["class_pixel_counts"].tolist(), axis=0)
    assert shares == pytest.approx(counts / counts.sum(), abs=1e-5)
    assert metrics["off_palette"] == pytest.approx(
        store.index["quality_off_palette"].mean(), abs=1e-5
    )
    with Image.open(out / "previews.png") as picture:
        assert picture.width > 5 * 64
    assert not (whole.scratch / "masksyn" / "car").exists()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_bytes_do_not_depend_on_the_batch_size(
    whole: ProjectPaths, make_project: Project, batch_size: int
) -> None:
    paths = make_project("batch")
    imgsyn.run(write_config(paths, imgsyn={"batch_size": batch_size}), paths=paths, item="car")
    found, wanted = (contents(p.synthetic("imgsyn", "car")) for p in (paths, whole))
    assert found.keys() == wanted.keys()
    # The manifest alone differs: it says which batch size there was.
    assert [name for name in wanted if found[name] != wanted[name]] == ["manifest.json"]


def test_bytes_do_not_depend_on_which_other_sources_there_are(
    whole: ProjectPaths, make_project: Project, cars: list[str]
) -> None:
    paths = make_project("fewer")
    paths.subsets.write_text(json.dumps({"0": cars[1:2], "1": cars[2:3]}))
    config = write_config(paths)
    for method, stage in (("masksyn", masksyn), ("imgsyn", imgsyn)):
        stage.run(config, paths=paths, item="car")
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
    journals: list[Path] = []
    deadline = time.monotonic() + 300
    # The journal's first line holds the settings; the second is the first committed sample.
    while not any(j.read_bytes().count(b"\n") > 1 for j in journals):
        assert process.poll() is None and time.monotonic() < deadline, (
            "it ended before it could be killed"
        )
        time.sleep(0.002)
        journals = list((paths.scratch / "masksyn" / "car").glob("*/store/journal*"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    committed = journals[0].read_bytes().count(b"\n") - 1
    assert 1 <= committed < len(SampleStore(whole.synthetic("masksyn", "car")))
    assert not paths.synthetic("masksyn", "car").exists()
    masksyn.run(config, paths=paths, item="car")
    assert contents(paths.synthetic("masksyn", "car")) == contents(
        whole.synthetic("masksyn", "car")
    )
    assert not (paths.scratch / "masksyn" / "car").exists()


@pytest.mark.parametrize("committed", [1, 4, 5])
def test_going_on_within_a_source_gives_the_same_bytes(
    whole: ProjectPaths, make_project: Project, monkeypatch: pytest.MonkeyPatch, committed: int
) -> None:
    paths = make_project("within")
    config = write_config(paths)
    add, added = partition.SampleStoreWriter.add, []

    def stop(writer: Any, sample: Any) -> None:
        if len(added) == committed:
            writer.commit()
            raise KeyboardInterrupt
        added.append(sample.key)
        add(writer, sample)

    with monkeypatch.context() as patch:
        patch.setattr(partition.SampleStoreWriter, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            masksyn.run(config, paths=paths, item="car")
    masksyn.run(config, paths=paths, item="car")
    assert contents(paths.synthetic("masksyn", "car")) == contents(
        whole.synthetic("masksyn", "car")
    )


def test_a_partition_that_was_finished_but_not_published_is_not_made_again(
    whole: ProjectPaths, make_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_project("unpublished")
    config = write_config(paths)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for step in ("publish", "pair_grid"):
        with monkeypatch.context() as patch:
            patch.setattr(partition, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                imgsyn.run(config, paths=paths, item="car")
        assert not paths.synthetic("imgsyn", "car").exists()
    monkeypatch.setattr(partition, "load_mask2img", interrupted)  # nothing is left to be drawn
    imgsyn.run(config, paths=paths, item="car")
    assert contents(paths.synthetic("imgsyn", "car")) == contents(whole.synthetic("imgsyn", "car"))


def test_changed_settings_never_meet_the_old_samples(
    make_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_project("changed")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folders = set()
    for changes in ({}, {"seed": 4}, {"imgsyn": {"samples_per_source": 1}}):
        with monkeypatch.context() as patch:
            patch.setattr(partition, "publish", interrupted)
            with pytest.raises(KeyboardInterrupt):
                imgsyn.run(write_config(paths, **changes), paths=paths, item="car")
        folders |= {p.name for p in (paths.scratch / "imgsyn" / "car").iterdir()}
    assert len(folders) == 3


def test_a_class_without_sources_is_an_empty_partition(
    make_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_project("empty")
    assert sources_of(paths)["sky"] == []  # every scene has sky, so it is the rarest class of none
    monkeypatch.setattr(partition, "load_mask2img", None)  # no model is loaded for nothing
    masksyn.run(write_config(paths), paths=paths, item="sky")
    store = SampleStore(paths.synthetic("masksyn", "sky"))
    assert len(store) == 0 and store.keys() == []
    assert json.loads((store.folder / "metrics.json").read_text()) == {"samples": 0.0}
    assert not (store.folder / "previews.png").exists()


def test_it_computes_with_the_threads_it_was_given(make_project: Project) -> None:
    paths = make_project("threads")
    torch.set_num_threads(2)
    imgsyn.run(write_config(paths), paths=paths, item="sky")
    assert torch.get_num_threads() == 1


def test_a_missing_caption_and_an_unknown_class_are_user_errors(
    make_project: Project, cars: list[str]
) -> None:
    paths = make_project("captions")
    table = pd.read_parquet(paths.prompts("car"))
    table[table["sample_key"] != cars[0]].to_parquet(paths.prompts("car"))
    config = write_config(paths)
    with pytest.raises(
        CaptionError,
        match=rf"1 samples have no caption, e\.g\. {cars[0]} \(run: dvc repro captions\)",
    ):
        imgsyn.run(config, paths=paths, item="car")
    with pytest.raises(ConfigError, match="there is no class 'zebra'; this taxonomy has: sky"):
        imgsyn.run(config, paths=paths, item="zebra")


def test_tasks_are_those_of_the_subsets_union(whole: ProjectPaths, cars: list[str]) -> None:
    captions = pd.DataFrame({"sample_key": cars, "caption": [f"picture {k}" for k in cars]})
    store = SampleStore(whole.real("train"))

    def tasks(subsets: dict[str, list[str]]) -> list[tuple[str, int, str]]:
        listed = list_tasks(
            store=store,
            captions=captions,
            subsets=subsets,
            taxonomy=SCENES_TAXONOMY,
            class_slug="car",
            per_source=2,
        )
        return [(t.source_key, t.number, t.prompt) for t in listed]

    wanted = [(k, n, f"picture {k}") for k in cars[:2] for n in range(2)]
    assert tasks({"0": [cars[1]], "1": [cars[0], cars[1]]}) == wanted
    assert tasks({"0": []}) == []


def test_partitions_are_disjoint_and_together_the_subset(whole: ProjectPaths) -> None:
    sources = sources_of(whole)
    together = [key for keys in sources.values() for key in keys]
    assert (
        sorted(together) == sorted(json.loads(whole.subsets.read_text())["0"])
        and len(set(together)) == 30
    )
