import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from seggen_core import stage as stage_context
from seggen_core.errors import AttentionError, ConfigError, FoundationError, StorageError
from seggen_core.stages import seediff as stage
from seggen_core.store.cache import RecordCache
from seggen_core.store.reader import SampleStore
from seggen_core.synthesis import attention_partition
from seggen_core.synthesis import seediff as attempts_room
from seggen_core.taxonomy import Taxonomy
from tests.stages import attention_project
from tests.stages.attention_project import TAXONOMY, contents, make_project


def make_config(**seediff):
    settings = {
        "samples_per_class": 4,
        "sampling": {"num_inference_steps": 2, "micro_batch_size": 2, "precision": "fp32"},
        "cross_attention_resolution": 8,
        "pamr_iterations": 2,
        "batch_size": 2,
    }
    return attention_project.make_config(seediff=settings | seediff)


@pytest.fixture(autouse=True)
def _no_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def project(tiny_foundation_folder, tmp_path_factory):
    def make(name, taxonomy=TAXONOMY):
        root = tmp_path_factory.mktemp(name)
        return make_project(root, foundation=tiny_foundation_folder, taxonomy=taxonomy)

    return make


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
    assert [row["name"] for row in store.manifest["classes"]] == [c.name for c in TAXONOMY]
    assert store.manifest["license"] is None  # nothing of the real dataset is in it
    for card in (out / "README.md", out.parent / "README.md"):
        assert "| car | thing |" in card.read_text()
    assert not list(out.parent.glob(".README*"))


@pytest.fixture
def calls(monkeypatch):
    """Numbers of the attempts of every network call's batch, by the seeds of their noise."""
    seeds_of_calls = []
    original = attempts_room.generate_with_recipes

    def generate(*args, **kwargs):
        seeds = [kwargs["generators"](k).initial_seed() for k in range(len(kwargs["prompts"]))]
        seeds_of_calls.append(seeds)
        return original(*args, **kwargs)

    monkeypatch.setattr(attempts_room, "generate_with_recipes", generate)
    return seeds_of_calls


@pytest.mark.parametrize("when", ["between_calls", "within_a_call", "at_the_end", "while_kept"])
def test_an_interrupted_run_resumes_to_the_same_bytes(project, whole, picky, monkeypatch, when):
    expected = contents(whole.synthetic("seediff", "car"))
    broken = project("broken")
    owner, name, last_call = {
        "between_calls": (attempts_room, "generate_with_recipes", 3),
        "within_a_call": (RecordCache, "add", 4),
        "at_the_end": (stage_context, "publish", 1),
        "while_kept": (RecordCache, "keep", 1),
    }[when]
    original, num_calls = getattr(owner, name), []

    def fail(*args, **kwargs):
        num_calls.append(1)
        if len(num_calls) == last_call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(KeyboardInterrupt):
            stage.run(make_config(**picky), paths=broken, item="car")
    shutil.rmtree(broken.synthetic("seediff", "car"), ignore_errors=True)  # as DVC does
    if when in ("at_the_end", "while_kept"):
        monkeypatch.setattr(attempts_room, "generate_with_recipes", None)  # all is there
    stage.run(make_config(**picky), paths=broken, item="car")
    assert contents(broken.synthetic("seediff", "car")) == expected


def test_a_resumed_call_is_the_very_call_that_was_interrupted(project, calls, monkeypatch):
    config = make_config(samples_per_class=4, min_mask_area=0.0, max_mask_area=1.0, batch_size=4)
    paths, added = project("within"), []
    original_add = RecordCache.add

    def add(self, digest, record):
        if len(added) == 5:  # attempts 0 to 2 with their pictures, but the last
            raise KeyboardInterrupt
        added.append(digest)
        original_add(self, digest, record)

    with monkeypatch.context() as patch:
        patch.setattr(RecordCache, "add", add)
        with pytest.raises(KeyboardInterrupt):
            stage.run(config, paths=paths, item="bus")
    stage.run(config, paths=paths, item="bus")
    # Attempts 0 and 1 were there: the call of 2 and 3 is made again as it was, and no other.
    first, resumed = calls
    assert len(first) == 4 and resumed == first[2:]
    assert len(SampleStore(paths.synthetic("seediff", "bus"))) == 4


def test_a_later_run_makes_only_what_has_other_inputs(project, whole, picky, calls):
    """More samples, an edited prompt, a damaged record: the rest is taken over."""
    paths = project("later")
    prompts = paths.root / "mine.jsonl"
    prompts.write_text('{"class": "car", "prompt": "a photo of a car"}\n' * 12)
    listed = {"prompt_file": "mine.jsonl", "reads": "mine.jsonl", **picky}
    stage.run(make_config(**listed), paths=paths, item="car")
    published = contents(paths.synthetic("seediff", "car"))
    index = SampleStore(whole.synthetic("seediff", "car")).index
    assert SampleStore(paths.synthetic("seediff", "car")).keys() == index["key"].tolist()
    calls.clear()
    stage.run(make_config(**listed), paths=paths, item="car")
    assert calls == [] and contents(paths.synthetic("seediff", "car")) == published

    # Five samples instead of four: all attempts so far are found, their pictures too.
    stage.run(make_config(**listed, samples_per_class=5), paths=paths, item="car")
    attempts = (paths.synthetic("seediff", "car") / "attempts.jsonl").read_text().splitlines()
    earlier = (whole.synthetic("seediff", "car") / "attempts.jsonl").read_text().splitlines()
    assert attempts[: len(earlier)] == earlier and len(attempts) > len(earlier)
    new_seeds = {seed for seeds in calls for seed in seeds}
    assert not new_seeds & set(index["seed"])

    # Back to four, with the prompt of attempt 0 edited: its call alone is made.
    calls.clear()
    rows = prompts.read_text().splitlines()
    prompts.write_text("\n".join(['{"class": "car", "prompt": "a car"}', *rows[1:]]))
    stage.run(make_config(**listed), paths=paths, item="car")
    assert len(calls) == 1 and len(calls[0]) == 2
    edited = contents(paths.synthetic("seediff", "car"))
    calls.clear()
    shutil.rmtree(paths.record_cache("seediff", "car"))
    stage.run(make_config(**listed), paths=paths, item="car")
    assert calls and contents(paths.synthetic("seediff", "car")) == edited

    # A damaged sample of the last run is made again.
    calls.clear()
    (shard,) = paths.record_cache("seediff", "car").rglob("*.tar")
    data = bytearray(shard.read_bytes())
    data[600] ^= 0xFF
    shard.unlink()  # a link: the published file stays whole
    shard.write_bytes(data)
    stage.run(make_config(**listed), paths=paths, item="car")
    assert len(calls) == 1 and contents(paths.synthetic("seediff", "car")) == edited


def test_pictures_that_no_earlier_run_kept_are_made_again(project, whole, picky, monkeypatch):
    """Other samples may be the first ones of a later run than of the run that made them."""
    paths = project("pictures")
    with monkeypatch.context() as patch:
        patch.setattr(attempts_room, "NUM_PICTURES", 1)
        patch.setattr(attention_partition, "NUM_PICTURES", 1)
        stage.run(make_config(**picky), paths=paths, item="car")
    stage.run(make_config(**picky), paths=paths, item="car")
    assert contents(paths.synthetic("seediff", "car")) == contents(
        whole.synthetic("seediff", "car")
    )


def test_bytes_do_not_depend_on_how_many_are_in_flight(project, whole, picky):
    paths = project("batch")
    stage.run(make_config(batch_size=5, **picky), paths=paths, item="car")
    files, expected = (
        contents(paths.synthetic("seediff", "car")),
        contents(whole.synthetic("seediff", "car")),
    )
    # The manifest says what the batch size was; nothing else shows it.
    assert files.pop("manifest.json") != expected.pop("manifest.json")
    assert files == expected


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
    monkeypatch.setattr(attempts_room, "MAX_ATTEMPTS_PER_SAMPLE", 1)
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
    with pytest.raises(ConfigError, match="there is no class partition 'tram'"):
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
