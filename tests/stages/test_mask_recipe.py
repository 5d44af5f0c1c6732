"""Mask recipes: further stores of SeeDiff and DiffuMask with other masks of the same images."""

import shutil
import subprocess
import sys

import pytest
import torch

from seggen_core.cli import main
from seggen_core.config.mask_recipe import IMAGE_KEYS
from seggen_core.errors import AttentionError, ConfigError
from seggen_core.stages import diffumask as diffumask_stage
from seggen_core.stages import mask_recipe as stage
from seggen_core.stages import seediff as seediff_stage
from seggen_core.store.cache import RecordCache, count_added
from seggen_core.store.reader import SampleStore
from seggen_core.synthesis import captured_images
from tests.stages import attention_project
from tests.stages.attention_project import contents, make_project
from tests.stages.test_diffumask import NETWORK, NOISE

SAMPLING = {"num_inference_steps": 2, "micro_batch_size": 2, "precision": "fp32"}
ANY = {"min_mask_area": 0.0, "max_mask_area": 1.0}
NONE = "data/code/none.json"
RECIPES = {
    "ca": {"method": "seediff", "settings": {"strategy": "ca"}, "reads": NONE},
    "dataset_diffusion": {
        "method": "seediff",
        "settings": {"strategy": "ca_sa", "beta": 0.6, "uncertainty_threshold": 0.5},
        "reads": NONE,
    },
    "fine": {
        "method": "seediff",
        "settings": {"cross_attention_resolution": 16, "pamr": False},
        "reads": NONE,
    },
    "unlearned": {"method": "diffumask", "settings": {"noise_learning": None}, "reads": NONE},
    "cut": {
        "method": "diffumask",
        "settings": {"affinity_net": None, "thresholds": [0.5], "pamr": False},
        "reads": NONE,
    },
}


def make_config(recipes=RECIPES, **seediff):
    settings = {
        "samples_per_class": 4,
        "sampling": SAMPLING,
        "cross_attention_resolution": 8,
        "pamr_iterations": 2,
        "batch_size": 2,
        **ANY,
    }
    diffumask = {
        "samples_per_class": 4,
        "sampling": SAMPLING,
        "thresholds": [0.4, 0.5, 0.6],
        "affinity_net": NETWORK,
        "noise_learning": NOISE | {"num_steps": 1},
        "pamr_iterations": 2,
        "pamr_dilations": [1],
        **ANY,
    }
    return attention_project.make_config(
        classes=["car", "bus"],
        seediff=settings | seediff,
        diffumask=diffumask,
        mask_recipe=recipes,
    )


@pytest.fixture
def calls(monkeypatch):
    """The number of images of each call that samples."""
    batch_sizes, original = [], captured_images.sample_latents

    def sample(pipeline, sampling, **arguments):
        batch_sizes.append(len(arguments["prompts"]))
        return original(pipeline, sampling, **arguments)

    monkeypatch.setattr(captured_images, "sample_latents", sample)
    return batch_sizes


@pytest.fixture
def project(tiny_foundation_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(name):
        return make_project(tmp_path / name, foundation=tiny_foundation_folder)

    return make


def for_cars(config):
    """The configuration with one class, where a second one would show the same."""
    return config.model_copy(update={"classes": ("car",)})


def stores(paths, name, *, slugs=("car", "bus")):
    return {slug: contents(paths.synthetic(name, slug)) for slug in slugs}


def test_images_are_sampled_once_for_the_method_and_all_its_recipes(project, calls):
    paths, config = project("once"), make_config()
    for slug in config.classes:
        seediff_stage.run(config, paths=paths, item=slug)
    assert calls == [2, 2, 2, 2]
    for name in ("ca", "dataset_diffusion", "fine"):
        stage.run(config, paths=paths, item=name)
    assert len(calls) == 4, "a recipe's masks were there"
    of_method, masks = SampleStore(paths.synthetic("seediff", "car")), []
    for name in ("ca", "dataset_diffusion", "fine"):
        store = SampleStore(paths.synthetic(name, "car"))
        assert store.manifest["method"] == name and store.keys()[0] == f"{name}-car-000000"
        assert (store.read_image(0) == of_method.read_image(0)).all()
        masks.append(store.read_mask(0).tobytes())
    assert len({of_method.read_mask(0).tobytes(), *masks}) == 4
    assert (paths.synthetic("ca") / "README.md").is_file()


def test_a_store_has_the_same_bytes_whoever_samples(project, calls):
    """With recipes beside it or without, from the caches or sampled again."""
    together, alone = project("together"), project("alone")
    both = make_config(recipes={name: RECIPES[name] for name in ("fine", "ca")})
    for slug in ("car", "bus"):
        seediff_stage.run(both, paths=together, item=slug)
        seediff_stage.run(make_config(recipes={}), paths=alone, item=slug)
    assert stores(together, "seediff") == stores(alone, "seediff")
    calls.clear()
    for name in ("fine", "ca"):
        stage.run(both, paths=together, item=name)
    assert not calls
    # The recipes came later: the first one samples for both.
    for name in ("fine", "ca"):
        stage.run(both, paths=alone, item=name)
        assert len(calls) == 4
        assert stores(alone, name) == stores(together, name)
    calls.clear()
    stage.run(both, paths=alone, item="ca")  # again: everything is in its cache
    assert not calls and stores(alone, "ca") == stores(together, "ca")
    shutil.rmtree(alone.root / ".seggen")
    only = {"ca": RECIPES["ca"]}
    stage.run(make_config(recipes=only), paths=alone, item="ca")
    assert len(calls) == 4 and stores(alone, "ca") == stores(together, "ca")


def test_a_killed_pass_leaves_masks_of_every_store_or_makes_them_again(project, calls, monkeypatch):
    whole, broken = project("whole"), project("broken")
    config, commits, commit = for_cars(make_config()), [], RecordCache.commit

    def kill(self):
        commits.append(self.folder)
        if len(commits) == 6:  # two recipes of the second call are committed, and no more
            raise KeyboardInterrupt
        commit(self)

    with monkeypatch.context() as patch:
        patch.setattr(RecordCache, "commit", kill)
        with pytest.raises(KeyboardInterrupt):
            seediff_stage.run(config, paths=broken, item="car")
    for paths in (whole, broken):
        seediff_stage.run(config, paths=paths, item="car")
    calls.clear()
    for name in ("seediff", "ca", "fine"):
        for paths in (whole, broken) if name != "seediff" else ():
            stage.run(config, paths=paths, item=name)
        assert stores(broken, name, slugs=["car"]) == stores(whole, name, slugs=["car"])
    assert not calls


def test_a_recipe_with_other_prompts_has_images_of_its_own(project, calls):
    recipe = {"method": "seediff", "settings": {"prompts": ["here is {class}"]}, "reads": NONE}
    paths, config = project("prompts"), make_config(recipes={"told": recipe})
    for slug in config.classes:
        seediff_stage.run(config, paths=paths, item=slug)
    calls.clear()
    stage.run(config, paths=paths, item="told")
    assert len(calls) == 4
    assert set(SampleStore(paths.synthetic("told", "car")).index["prompt"]) == {"here is a car"}


def test_a_recipe_that_another_process_makes_is_left_to_it(project, calls):
    paths, config = project("busy"), make_config(recipes={"ca": RECIPES["ca"]})
    place = paths.record_cache("ca", "car")
    code = (
        "import sys; from pathlib import Path; from seggen_core.store.cache import RecordCache\n"
        "with RecordCache(Path(sys.argv[1])): print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "open\n"
        seediff_stage.run(config, paths=paths, item="car")
        assert count_added(place) == 0
        other.stdin.close()
    with RecordCache(place, wait=True):
        pass
    assert len(SampleStore(paths.synthetic("seediff", "car"))) == 4


def test_recipes_of_diffumask_share_its_candidates(project, calls):
    paths, config = project("candidates"), for_cars(make_config())
    diffumask_stage.run(config, paths=paths, item="car")
    num_calls = len(calls)
    for name in ("unlearned", "cut"):
        stage.run(config, paths=paths, item=name)
    assert len(calls) == num_calls > 0
    unlearned = SampleStore(paths.synthetic("unlearned", "car"))
    assert len(unlearned) == 4 and "quality_confidence" not in unlearned.index
    cut = SampleStore(paths.synthetic("cut", "car"))
    assert set(cut.index["quality_threshold"]) == {0.5}
    before = stores(paths, "cut", slugs=["car"])
    shutil.rmtree(paths.root / ".seggen")
    stage.run(config, paths=paths, item="cut")
    assert len(calls) > num_calls and stores(paths, "cut", slugs=["car"]) == before


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"seediff": RECIPES["ca"]}, "mask_recipe.seediff has the name of a method"),
        (
            {"x": RECIPES["ca"] | {"settings": {"power": 0}}},
            r"mask_recipe\.x\.settings\.power: Input should be greater than 0",
        ),
        (
            {"x": RECIPES["ca"] | {"settings": {"thresholds": [0.5]}}},
            "mask_recipe.x.settings: 'thresholds' is no key of seediff: ",
        ),
        (
            {"x": RECIPES["ca"] | {"settings": {"reads": "p.jsonl"}}},
            "settings has 'reads', which is a key of the recipe itself",
        ),
        (
            {"x": RECIPES["ca"] | {"settings": {"prompt_file": "p.jsonl"}}},
            "prompt_file is p.jsonl, but reads is data/code/none.json",
        ),
        (
            {"x": RECIPES["ca"] | {"reads": "p.jsonl"}},
            "mask_recipe.x.reads is p.jsonl, but settings has no prompt_file",
        ),
    ],
)
def test_wrong_recipes_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        make_config(recipes=changes)


def test_a_recipe_that_is_not_there_is_named(project):
    with pytest.raises(ConfigError, match=r"no mask recipe 'other' in params.yaml; it has: ca, d"):
        stage.run(make_config(), paths=project("other"), item="other")


def test_a_recipe_that_the_network_cannot_follow_is_named_before_anything_is_sampled(
    project, calls
):
    recipe = RECIPES["fine"] | {"settings": {"cross_attention_resolution": 4}}
    words = r"mask_recipe\.rough: seediff.cross_attention_resolution is 4, but with 16x16 latents"
    with pytest.raises(AttentionError, match=words):
        seediff_stage.run(
            make_config(recipes={"rough": recipe}), paths=project("rough"), item="car"
        )
    assert not calls


def test_keys_of_images_are_keys_of_both_methods():
    config = make_config()
    for section in (config.seediff, config.diffumask):
        assert set(type(section).model_fields) >= IMAGE_KEYS


def test_two_captures_at_once_have_the_bits_of_each_alone(tiny_foundation_folder):
    """Requests with other layers have recorders of their own; the images stay as they are."""
    from seggen_core.attention.layers import list_attention_layers
    from seggen_core.config import SamplingConfig
    from seggen_core.generators.foundation import load_pipeline
    from seggen_core.generators.sampling import use_scheduler
    from seggen_core.project.rng import torch_generator
    from seggen_core.synthesis.captured_images import CaptureRequest, run_with_captures
    from seggen_core.synthesis.prompts import ClassPrompt

    pipeline = load_pipeline(tiny_foundation_folder)
    sampling = SamplingConfig.model_validate(SAMPLING)
    layers = list_attention_layers(pipeline.unet, latent_size=16)
    cross = [layer.name for layer in layers if layer.is_cross]
    sides = sorted({layer.resolution for layer in layers})
    requests = [
        CaptureRequest(cross_layers=cross[:1], self_resolutions=[]),
        CaptureRequest(self_resolutions=sides[:1]),
        CaptureRequest(cross_resolutions=sides[-1:], self_resolutions=sides[-1:]),
    ]

    def run(wanted):
        with use_scheduler(pipeline, sampling), torch.no_grad():
            return run_with_captures(
                pipeline,
                prompts=[ClassPrompt("a photo of a car", (), ((5,),))] * 2,
                generators=[torch_generator(0, k) for k in range(2)],
                sampling=sampling,
                image_size=32,
                requests=wanted,
            )

    together = run(requests)
    for request, captured in zip(requests, together, strict=True):
        (alone,) = run([request])
        assert torch.equal(alone.pixels, captured.pixels)
        for side in alone.recorder.cross_resolutions:
            assert torch.equal(alone.recorder.cross_map(side), captured.recorder.cross_map(side))
        for side in alone.recorder.self_resolutions:
            assert torch.equal(alone.recorder.self_map(side), captured.recorder.self_map(side))
    names = {type(m).__name__ for m in pipeline.unet.attn_processors.values()}
    assert "_RecordingProcessor" not in names


def test_the_command_line_knows_the_stage(capsys):
    with pytest.raises(SystemExit):
        main(["mask_recipe", "--help"])
    assert "mask_recipe@<mask recipe>" in capsys.readouterr().out
