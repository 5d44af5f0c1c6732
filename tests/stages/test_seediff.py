import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from seggen_core.config import SegGenConfig
from seggen_core.errors import AttentionError, ConfigError, FoundationError, StorageError
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages import seediff as stage
from seggen_core.store.reader import SampleStore
from seggen_core.store.writer import SampleStoreWriter
from seggen_core.taxonomy import Taxonomy

TAXONOMY = Taxonomy.from_names(stuff=["grass"], things=["car", "bus"])


def make_config(**seediff):
    sampling = {"num_inference_steps": 2, "micro_batch_size": 2, "precision": "fp32"}
    settings = {
        "samples_per_class": 4,
        "sampling": sampling,
        "cross_attention_resolution": 8,
        "pamr_iterations": 2,
        "batch_size": 2,
    }
    training, synthesis = {"num_steps": 1}, {"samples_per_source": 1}
    return SegGenConfig.model_validate(
        {
            "profile": "test",
            "seed": 7,
            "classes": ["grass", "car", "bus"],
            "runtime": {"device": "cpu", "tracking_uri": "disk"},
            "dataset": {"name": "scenes", "image_size": 32},
            "foundation": {"source": "data/models/foundation"},
            "text2mask": training,
            "mask2img": training,
            "masksyn": synthesis,
            "imgsyn": synthesis,
            "seediff": settings | seediff,
            "variants": {"baseline": {"reads": ["data/real/subsets.json", "data/real/train"]}},
        }
    )


@pytest.fixture(scope="module")
def foundation(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "foundation"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def project(foundation, tmp_path_factory):
    def make(name, taxonomy=TAXONOMY):
        paths = ProjectPaths(tmp_path_factory.mktemp(name))
        paths.taxonomy.parent.mkdir(parents=True)
        paths.taxonomy.write_text(json.dumps(taxonomy.to_json()))
        paths.model("foundation").parent.mkdir(parents=True)
        shutil.copytree(foundation, paths.model("foundation"))
        return paths

    return make


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def picky(project):
    """Settings under which about a third of the attempts are rejected, for large masks."""
    paths = project("survey")
    stage.run(
        make_config(samples_per_class=6, max_mask_area=1.0, min_mask_area=0.0),
        paths=paths,
        item="car",
    )
    areas = SampleStore(paths.synthetic("seediff", "car")).index["quality_mask_area"]
    return {"max_mask_area": float(areas.quantile(0.65)), "min_mask_area": 0.0}


@pytest.fixture(scope="module")
def whole(project, picky):
    """A project in which the stage has run, uninterrupted."""
    paths = project("whole")
    stage.run(make_config(**picky), paths=paths, item="car")
    return paths


def test_a_partition_is_written(whole, picky):
    paths = whole
    out = paths.synthetic("seediff", "car")
    store = SampleStore(out)
    assert len(store) == 4
    numbers = []
    for sample in store:
        assert sample.image.shape == (32, 32, 3) and sample.instance_map is None
        assert set(np.unique(sample.segmentation_map)) == {TAXONOMY.by_slug("car").train_id, 255}
        assert (
            sample.metadata["prompt"] == "a photo of a car"
            and sample.metadata["class_slug"] == "car"
        )
        area = (sample.segmentation_map != 255).mean()
        assert (
            area == pytest.approx(sample.metadata["quality"]["mask_area"], abs=1e-6)
            and area <= picky["max_mask_area"] + 1e-6
        )
        numbers.append(sample.metadata["attempt"])
        assert sample.key == f"seediff-car-{numbers[-1]:06d}"
    assert numbers == sorted(numbers) and store.index["seed"].is_unique
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["accepted"] == 4 and metrics["attempts"] == numbers[-1] + 1
    assert (
        metrics["rejected"] == {"mask_too_large": metrics["attempts"] - 4}
        and metrics["attempts"] > 4
    )
    assert metrics["quality"]["mask_area"] == pytest.approx(
        store.index["quality_mask_area"].mean(), abs=1e-6
    )
    assert (
        store.manifest["rejected"] == metrics["rejected"]
        and store.manifest["params"]["max_mask_area"] == picky["max_mask_area"]
    )
    with Image.open(out / "previews.png") as picture:
        assert (
            picture.width > 4 * 128 and picture.height > 7 * 128
        )  # image, attention, two scales, background, soft mask, mask
    assert not (paths.scratch / "seediff" / "car").exists()


@pytest.mark.parametrize("when", ["between_calls", "before_the_commit", "at_the_end"])
def test_an_interrupted_run_resumes_to_the_same_bytes(project, whole, picky, monkeypatch, when):
    expected = contents(whole.synthetic("seediff", "car"))

    broken = project("broken")
    calls = []

    def fail_on(number, original):
        def wrapped(*args, **kwargs):
            calls.append(number)
            if len(calls) == number:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return wrapped

    if when == "between_calls":
        monkeypatch.setattr(
            stage, "generate_from_attention", fail_on(3, stage.generate_from_attention)
        )
    elif when == "before_the_commit":
        # The log already speaks of the sample; a kill loses everything since the last commit.
        monkeypatch.setattr(SampleStoreWriter, "add", fail_on(3, SampleStoreWriter.add))
        monkeypatch.setattr(SampleStoreWriter, "__exit__", lambda self, *_: self.close())
    else:
        monkeypatch.setattr(stage, "publish", fail_on(1, stage.publish))
    with pytest.raises(KeyboardInterrupt):
        stage.run(make_config(**picky), paths=broken, item="car")
    monkeypatch.undo()
    assert (
        not broken.synthetic("seediff", "car").exists()
        and (broken.scratch / "seediff" / "car").exists()
    )
    stage.run(make_config(**picky), paths=broken, item="car")
    assert contents(broken.synthetic("seediff", "car")) == expected


def test_a_resumed_call_is_the_very_call_that_was_interrupted(project, monkeypatch):
    config = make_config(samples_per_class=4, min_mask_area=0.0, max_mask_area=1.0)
    paths, added, calls = project("within"), [], []
    original_add, original_generate = SampleStoreWriter.add, stage.generate_from_attention

    def add(self, sample):
        if len(added) == 3:
            raise KeyboardInterrupt
        added.append(sample.key)
        original_add(self, sample)

    def generate(*args, **kwargs):
        calls.append(
            [kwargs["generators"](k).initial_seed() for k in range(len(kwargs["prompts"]))]
        )
        return original_generate(*args, **kwargs)

    monkeypatch.setattr(stage, "generate_from_attention", generate)
    monkeypatch.setattr(SampleStoreWriter, "add", add)
    with pytest.raises(KeyboardInterrupt):
        stage.run(config, paths=paths, item="bus")
    added.clear()
    stage.run(config, paths=paths, item="bus")
    # Attempt 2 of the call (2, 3) was committed: the call is made again as it was, and only attempt
    # 3 is kept.
    first, interrupted, resumed = calls
    assert resumed == interrupted != first
    assert (
        added == ["seediff-bus-000003"] and len(SampleStore(paths.synthetic("seediff", "bus"))) == 4
    )


def test_bytes_do_not_depend_on_how_many_are_in_flight(project, whole, picky):
    paths = project("batch")
    stage.run(make_config(batch_size=5, **picky), paths=paths, item="car")
    found, expected = (
        contents(paths.synthetic("seediff", "car")),
        contents(whole.synthetic("seediff", "car")),
    )
    # The manifest says what the batch size was; nothing else shows it.
    assert found.pop("manifest.json") != expected.pop("manifest.json")
    assert found == expected


def test_prompts_cycle_and_stuff_has_no_article(project):
    paths = project("prompts")
    config = make_config(prompts=["a photo of {class}", "{class} and a house"], samples_per_class=2)
    for item, phrase in (("bus", "a bus"), ("grass", "grass")):
        stage.run(config, paths=paths, item=item)
        index = SampleStore(paths.synthetic("seediff", item)).index
        for key, prompt in zip(index["key"], index["prompt"], strict=True):
            assert prompt == (
                f"{phrase} and a house" if int(key[-6:]) % 2 else f"a photo of {phrase}"
            )


def test_too_few_usable_masks_are_said(project, picky, monkeypatch, caplog):
    paths = project("few")
    monkeypatch.setattr(stage, "MAX_ATTEMPTS_PER_SAMPLE", 1)
    with caplog.at_level(logging.WARNING):
        stage.run(make_config(**picky), paths=paths, item="car")
    store = SampleStore(paths.synthetic("seediff", "car"))
    assert (
        0 < len(store) < 4 and store.manifest["samples_wanted"] == store.manifest["attempts"] == 4
    )
    assert (
        f"{len(store)} of 4 samples after 4 attempts ({4 - len(store)} mask_too_large)"
        in caplog.text
    )


def test_no_usable_mask_is_an_error(project):
    paths = project("none")
    with pytest.raises(
        AttentionError,
        match=r"none of 6 attempts at class 'car' gave a usable mask \(6 mask_too_large\)",
    ):
        stage.run(
            make_config(samples_per_class=2, min_mask_area=0, max_mask_area=0),
            paths=paths,
            item="car",
        )
    assert not paths.synthetic("seediff", "car").exists()


def test_background_is_a_class_where_the_taxonomy_has_one(project):
    with pytest.raises(ConfigError, match="there is no class 'background'"):
        stage.run(make_config(ignore_background=False), paths=project("without"), item="car")
    taxonomy = Taxonomy.from_names(stuff=["background"], things=["car"])
    paths = project("with", taxonomy)
    stage.run(make_config(ignore_background=False, samples_per_class=1), paths=paths, item="car")
    assert set(np.unique(SampleStore(paths.synthetic("seediff", "car")).read_mask(0))) == {0, 1}


def test_bad_input_is_named(project):
    paths = project("bad")
    with pytest.raises(ConfigError, match="there is no class 'tram'"):
        stage.run(make_config(), paths=paths, item="tram")
    paths.synthetic("seediff").parent.mkdir()
    paths.synthetic("seediff").write_text("in the way")
    with pytest.raises(StorageError, match="can't write"):
        stage.run(make_config(samples_per_class=1), paths=paths, item="car")
    (paths.model("foundation") / "model_index.json").unlink()
    with pytest.raises(FoundationError, match=r"model_index\.json"):
        stage.run(make_config(), paths=paths, item="car")
    shutil.rmtree(paths.model("foundation"))
    with pytest.raises(FoundationError):
        stage.run(make_config(), paths=paths, item="car")
