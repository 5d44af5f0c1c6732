import json
import shutil

import numpy as np
import pytest
from PIL import Image

from seggen_core.errors import AttentionError, ConfigError
from seggen_core.stages import diffumask as stage
from seggen_core.store.cache import RecordCache, count_added
from seggen_core.store.reader import SampleStore
from seggen_core.synthesis import diffumask as candidates_room
from tests.stages import attention_project
from tests.stages.attention_project import contents, make_project

NETWORK = {
    "feature_size": 8,
    "channels": 8,
    "num_steps": 3,
    "batch_size": 2,
    "walk_steps": 2,
    "radius": 2,
}
NOISE = {"num_folds": 2, "drop_share": 0.25, "num_steps": 2, "batch_size": 2, "channels": 8}


def make_config(**diffumask):
    settings = {
        "samples_per_class": 5,
        "sampling": {"num_inference_steps": 2, "micro_batch_size": 4, "precision": "fp32"},
        "thresholds": [0.4, 0.5, 0.6],
        "affinity_net": NETWORK,
        "noise_learning": NOISE,
        "pamr_iterations": 2,
        "pamr_dilations": [1],
    }
    return attention_project.make_config(diffumask=settings | diffumask)


@pytest.fixture
def paths(tiny_foundation_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make_project(tmp_path / "project", foundation=tiny_foundation_folder)


def test_a_partition_is_written_and_the_least_confident_dropped(paths, monkeypatch):
    config = make_config()
    stage.run(config, paths=paths, item="car")
    out = paths.synthetic("diffumask", "car")
    store = SampleStore(out)
    attempts = [json.loads(line) for line in (out / "attempts.jsonl").read_text().splitlines()]
    status = [a["status"] for a in attempts]
    assert len(attempts) == candidates_room.num_candidates(config.diffumask) == 8
    usable = [k for k, s in enumerate(status) if s in ("accepted", "low_confidence", "not_needed")]
    assert (
        status.count("low_confidence") == int(len(usable) * 0.25) >= 1
        and status.count("accepted") == len(store) <= 5
    )
    confidence = {k: attempts[k]["quality"]["confidence"] for k in usable}
    dropped = [k for k, s in enumerate(status) if s == "low_confidence"]
    assert max(confidence[k] for k in dropped) <= min(
        confidence[k] for k in usable if k not in dropped
    )
    for sample in store:
        quality = sample.metadata["quality"]
        assert set(np.unique(sample.segmentation_map)) == {1, 255} and sample.image.shape == (
            32,
            32,
            3,
        )
        assert quality["threshold"] in (0.4, 0.5, 0.6) and 0 < quality["match"] <= 1
        assert quality["mask_area"] == pytest.approx(
            (sample.segmentation_map == 1).mean(), abs=1e-6
        )
        assert (
            sample.metadata["prompt"] == "a photo of a car"
            and sample.key == f"diffumask-car-{sample.metadata['attempt']:06d}"
        )
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["accepted"] == len(store) and metrics["rejected"][
        "low_confidence"
    ] == status.count("low_confidence")
    with Image.open(out / "previews.png") as picture:
        assert picture.height > 5 * 128  # image, cross-attention, affinity map, soft mask, mask
    assert not (paths.scratch / "diffumask" / "car").exists()


def test_an_interrupted_run_goes_on_after_its_last_call(paths, monkeypatch):
    config = make_config()
    stage.run(config, paths=paths, item="car")
    out, cache = paths.synthetic("diffumask", "car"), paths.record_cache("diffumask", "car")
    expected = contents(out)
    assert not list(cache.glob("published-*")) and count_added(cache) == 0
    calls, original = [], candidates_room.run_with_captures

    def interrupt(step):
        def fail(*args, **kwargs):
            calls.append(step)
            if calls.count(step) == 2:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return fail

    shutil.rmtree(out)
    with monkeypatch.context() as patch:
        patch.setattr(candidates_room, "run_with_captures", interrupt("first run"))
        with pytest.raises(KeyboardInterrupt):
            stage.run(config, paths=paths, item="car")
        assert count_added(cache) == 4  # one call of four
        patch.setattr(candidates_room, "run_with_captures", interrupt("second run"))
        stage.run(config, paths=paths, item="car")
    assert calls == ["first run", "first run", "second run"] and contents(out) == expected

    # Killed at the very end: other thresholds find the candidates, too.
    shutil.rmtree(out)
    with monkeypatch.context() as patch:
        patch.setattr(RecordCache, "keep", interrupt("keep"))
        calls.append("keep")
        with pytest.raises(KeyboardInterrupt):
            stage.run(config, paths=paths, item="car")
    monkeypatch.setattr(candidates_room, "run_with_captures", None)
    stage.run(make_config(thresholds=[0.5]), paths=paths, item="car")
    assert contents(out) != expected


def test_without_networks_the_threshold_is_matched_with_pamr(paths):
    stage.run(
        make_config(affinity_net=None, noise_learning=None, samples_per_class=3),
        paths=paths,
        item="grass",
    )
    store = SampleStore(paths.synthetic("diffumask", "grass"))
    assert (
        len(store) == 3
        and store.manifest["attempts"] == 4
        and store.manifest["rejected"] == {"not_needed": 1}
    )
    assert (
        store.index["prompt"].tolist() == ["a photo of grass"] * 3
        and "quality_confidence" not in store.index
    )


def test_listed_prompts_lie_in_the_project(paths):
    (paths.root / "mine.jsonl").write_text(
        '{"class": "car", "prompt": "a photo of a car and a house"}\n'
    )
    listed = {"prompt_file": "mine.jsonl", "reads": "mine.jsonl"}
    stage.run(
        make_config(**listed, affinity_net=None, noise_learning=None, samples_per_class=1),
        paths=paths,
        item="car",
    )
    store = SampleStore(paths.synthetic("diffumask", "car"))
    assert store.index["prompt"].tolist() == ["a photo of a car and a house"]


def test_what_cannot_be_done_is_named(paths):
    with pytest.raises(ConfigError, match="no section 'diffumask'"):
        stage.run(attention_project.make_config(), paths=paths, item="car")
    with pytest.raises(ConfigError, match="there is no class partition 'tram'"):
        stage.run(make_config(), paths=paths, item="tram")
    nothing = {
        "samples_per_class": 2,
        "noise_learning": None,
        "min_mask_area": 0,
        "max_mask_area": 0,
    }
    with pytest.raises(
        AttentionError,
        match=r"none of 4 candidates of class 'car' gave a usable mask \(4 mask_too_large\)",
    ):
        stage.run(make_config(**nothing), paths=paths, item="car")
