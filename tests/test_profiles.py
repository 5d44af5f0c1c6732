"""The profiles: each loads, names what exists, and holds its paper's hyperparameters."""

import json
import math
import re
from pathlib import Path
from string import Template

import pytest
import yaml

from seggen_core.commands.pipeline_text import words_pipeline
from seggen_core.config import SegGenConfig, load_config
from seggen_core.config.base import NOTHING_TO_WATCH
from seggen_core.scenes.layout import SCENES_TAXONOMY

ROOT = Path(__file__).parent.parent
PROFILES = sorted(path.parent.name for path in ROOT.glob("profiles/*/params.yaml"))


def profile(name: str) -> SegGenConfig:
    return load_config(ROOT / "profiles" / name / "params.yaml")


def pipeline(name: str) -> str:
    """The text of the dvc.yaml that a project with this profile has."""
    text = (ROOT / "dvc.yaml").read_text()
    return words_pipeline(text) if name == "words" else text


def test_the_papers_profiles_are_all_there() -> None:
    assert {
        "ade20k",
        "coco_panoptic",
        "coco_instance",
        "voc2012",
        "cityscapes",
        "camvid",
        "camvid_256",
        "own",
        "own_cpu",
        "scenes",
        "scenes_n20",
        "words",
    } == set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_names_classes_models_and_files_that_exist(name: str) -> None:
    config = profile(name)
    dataset = (
        "folder" if name in ("own", "own_cpu") else name.removesuffix("_256").removesuffix("_n20")
    )
    assert config.profile == name and config.dataset.name == dataset and config.dataset.root is None
    if dataset == "scenes":
        slugs = SCENES_TAXONOMY.slugs
    elif dataset in ("folder", "words"):  # init writes the classes of the user's list
        slugs = config.classes
    else:
        table = json.loads(
            (ROOT / "seggen_core" / "datasets" / "taxonomies" / f"{dataset}.json").read_text()
        )
        slugs = [re.sub(r"[^a-z0-9]+", "_", c["name"].lower()) for c in table["classes"]]
    assert set(config.classes) <= set(slugs)
    assert set(slugs) - set(config.classes) <= (
        {"background"} if name == "voc2012" else set(slugs) if name == "cityscapes" else set()
    )
    # DVC tracks these: they have to be there, and the matrices may not be empty.
    assert config.diffumask is not None
    assert config.dataset.reads == NOTHING_TO_WATCH, "init sets it, as it sets the root"
    reads = [config.foundation.reads, config.seediff.reads, config.diffumask.reads]
    if dataset != "words":  # its pipeline has neither captions nor a judge
        reads += [config.captions.reads, config.captions.edits]
        assert config.judge.variant in config.variants
    for path in reads:
        assert path is not None, name
        assert Path(path) == NOTHING_TO_WATCH or (ROOT / path).exists(), path
    assert config.methods
    # What comes from the hub is pinned by commit.
    if (
        config.foundation.mode == "pretrained"
        and not (ROOT / str(config.foundation.source)).is_dir()
    ):
        assert re.fullmatch(r"[0-9a-f]{40}", str(config.foundation.revision))
    if config.captions.captioner in ("blip2", "blip", "florence2"):
        assert re.fullmatch(r"[0-9a-f]{40}", str(config.captions.revision))


@pytest.mark.parametrize("name", PROFILES)
def test_dvc_yaml_finds_every_parameter_that_it_names(name: str) -> None:
    tree = yaml.safe_load((ROOT / "profiles" / name / "params.yaml").read_text())
    text = pipeline(name)
    for section in yaml.safe_load(text).get("vars", []):  # what params.yaml need not have
        tree = section | tree
    for reference in re.findall(r"\$\{([a-z_.]+)\}", text):
        if reference.partition(".")[0] in ("item", "key"):  # of a matrix or a foreach
            continue
        value = tree
        for part in reference.split("."):
            assert part in value, f"{name} lacks {reference}, which dvc.yaml names"
            value = value[part]
        assert value is not None, reference


def test_the_projects_parameters_are_the_scenes_profile() -> None:
    assert (ROOT / "params.yaml").read_text() == (
        ROOT / "profiles" / "scenes" / "params.yaml"
    ).read_text()


@pytest.mark.parametrize("name", ["ade20k", "coco_panoptic", "coco_instance"])
def test_seggens_generators(name: str) -> None:
    config = profile(name)
    assert (
        config.dataset.image_size == 768
        and config.dataset.keep_val_in_train
        and config.dataset.subset_size is None
    )
    assert config.foundation.source == "stabilityai/stable-diffusion-xl-base-1.0"
    assert (
        config.captions.captioner == "blip2"
        and config.captions.model == "Salesforce/blip2-flan-t5-xxl"
    )
    for section in (config.text2mask, config.mask2img):
        assert (section.num_steps, section.learning_rate, section.random_flip) == (
            30_000,
            1e-5,
            True,
        )
    assert config.masksyn.samples_per_source == 10
    masks = config.masksyn.text2mask
    assert (masks.num_inference_steps, masks.scheduler) == (200, "EulerDiscreteScheduler")
    assert config.masksyn.mask2img == config.imgsyn.mask2img
    sampling = config.imgsyn.mask2img
    assert (sampling.num_inference_steps, sampling.scheduler) == (40, "EulerDiscreteScheduler")
    assert sampling.scheduler_kwargs == {"use_karras_sigmas": True}
    assert config.imgsyn.samples_per_source == (50 if name == "ade20k" else 10)


def test_seggen_on_ade20k() -> None:
    config = profile("ade20k")
    train = config.train_seg.for_arm(config.variants["masksyn"])
    assert (train.model, train.strategy, train.p_aug, train.num_steps) == (
        "mask2former",
        "replace",
        0.6,
        160_000,
    )
    assert (train.batch_size, train.learning_rate, train.weight_decay, train.crop_size) == (
        16,
        1e-4,
        0.05,
        512,
    )
    assert (train.backbone_multiplier, train.max_grad_norm, train.lr_scheduler) == (
        0.1,
        0.01,
        "poly",
    )
    assert (
        train.architecture["backbone_config"]["depths"] == [3, 4, 6, 3]
        and train.architecture["num_queries"] == 100
    )
    arms = {"baseline", "masksyn", "imgsyn", "masksyn_imgsyn"}
    hrnet_arms = {"hrnet", "hrnet_masksyn", "hrnet_imgsyn", "hrnet_masksyn_imgsyn"}
    assert set(config.variants) == arms | hrnet_arms and len(config.classes) == 150


def test_hrnet_w48_as_seggen_trains_it() -> None:
    config = profile("ade20k")
    train = config.train_seg.for_arm(config.variants["hrnet"])
    assert (train.backbone, train.head_width, train.num_steps) == ("hrnet_w48", 720, 100_000)
    assert (train.optimizer, train.learning_rate, train.momentum) == ("sgd", 2e-2, 0.9)
    assert (train.weight_decay, train.undecayed, train.lr_scheduler) == (1e-4, "none", "poly")
    assert train.random_flip and train.color_jitter == 0 and train.max_grad_norm is None


@pytest.mark.parametrize("name", ["ade20k", "coco_panoptic", "coco_instance", "cityscapes"])
def test_segmenters_are_trained_and_tested_as_mask2formers_authors_do(name: str) -> None:
    """Values of the Base-*.yaml of their repository; test sizes of COCO are detectron2's."""
    config = profile(name)
    train = config.train_seg.for_arm(config.variants["baseline"])
    assert config.dataset.fit == "native"
    assert (train.undecayed, train.initialization) == ("norms_and_embeddings", "published")
    assert train.freeze_batch_norm == (name != "cityscapes")
    assert train.precision == "auto" and train.validate_every == 5_000
    if name.startswith("coco"):
        assert (train.resize, train.random_scale, train.crop_shape) == (
            "scale_jitter",
            (0.1, 2.0),
            (1024, 1024),
        )
        assert train.color_jitter == 0 and train.color == "jitter"
        assert (train.test_short_side, train.test_max_side) == (800, 1333)
    else:
        base, crop = (512, (512, 512)) if name == "ade20k" else (1024, (512, 1024))
        assert (train.resize, train.random_scale, train.num_scales) == (
            "short_side",
            (0.5, 2.0),
            16,
        )
        assert (train.short_side, train.max_side, train.crop_shape) == (base, 4 * base, crop)
        assert (train.test_short_side, train.test_max_side) == (base, 2048)
        assert (train.color, train.max_category_share) == ("ssd", 1.0)
    if name.startswith("coco"):  # the published configurations test at one scale
        assert config.evaluate.multi_scale is None
        return
    assert config.evaluate.multi_scale is not None
    assert config.evaluate.multi_scale.scales == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert config.evaluate.multi_scale.flip


@pytest.mark.parametrize("name, classes", [("coco_panoptic", 133), ("coco_instance", 80)])
def test_seggen_on_coco(name: str, classes: int) -> None:
    config = profile(name)
    assert len(config.classes) == classes
    assert config.methods == ("masksyn", "imgsyn") and config.dataset.color_map == "panoptic"
    arms = {"baseline": [], "imgsyn": ["imgsyn"], "masksyn": ["masksyn"]}
    arms["masksyn_imgsyn"] = ["masksyn", "imgsyn"]
    for arm, methods in arms.items():
        assert list(config.variants[arm].methods) == methods
        assert config.train_seg.for_arm(config.variants[arm]).task == name.removeprefix("coco_")
    train = config.train_seg.for_arm(config.variants["imgsyn"])
    assert (train.strategy, train.pretrain_share, train.num_steps) == (
        "pretrain",
        0.5,
        2 * 368_750,
    )  # 50 + 50 epochs of 118 k
    assert train.num_steps * train.batch_size / 2 / 118_287 == pytest.approx(50, abs=0.2)
    assert (train.lr_scheduler, train.crop_size) == ("step", 1024)
    assert train.task == name.removeprefix("coco_")
    assert config.train_seg.for_arm(config.variants[config.judge.variant]).task != "instance"


@pytest.mark.parametrize(
    "name, prompt, classes",
    [("voc2012", "a photo of {class}", 20), ("cityscapes", "a photo of {class} in the city", 6)],
)
def test_seediff(name: str, prompt: str, classes: int) -> None:
    config = profile(name)
    assert (
        str(config.foundation.source).endswith("stable-diffusion-2-base")
        and config.dataset.image_size == 512
    )
    section = config.seediff
    assert (section.alpha, section.beta, section.sampling.num_inference_steps) == (0.5, 0.3, 50)
    assert section.prompts == (prompt,) and 2_000 <= section.samples_per_class <= 3_000
    assert (section.cross_attention_resolution, section.seed_threshold, section.pamr) == (
        16,
        "fixed",
        True,
    )
    assert len(config.classes) == classes and config.methods == ("seediff",)


def test_camvid_is_real_and_small() -> None:
    config = profile("camvid")
    assert (
        config.dataset.subset_size == 37
        and config.dataset.subset_seeds == (0, 1, 2)
        and config.dataset.keep_val_in_train
    )
    assert (
        config.foundation.pretrain is not None
        and config.foundation.pretrain.data == "training_images"
    )
    assert config.foundation.pretrain.image_size == config.dataset.image_size <= 128
    both = {f"masksyn_imgsyn{how}" for how in ("", "_then_real", "_p20", "_filtered")}
    assert set(config.variants) == {"baseline", "masksyn", "imgsyn", "shuffled", "full_real"} | both


def test_camvid_at_256_px_differs_in_size_alone() -> None:
    small, large = profile("camvid"), profile("camvid_256")
    assert large.dataset.image_size == 256 and large.dataset == small.dataset.model_copy(
        update={"image_size": 256}
    )
    assert large.foundation.pretrain is not None and large.foundation.pretrain.new_unet
    assert large.variants == small.variants


def test_prompts_reach_the_samplers_and_captions_the_trainings() -> None:
    """An edited prompt leaves the generators and the partitions of other classes up to date."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert set(stages["captions"]["outs"]) == {"data/captions", "data/prompts"}
    for name in ("text2mask", "mask2img"):
        assert "data/captions" in stages[name]["deps"] and not any(
            "prompts" in d for d in stages[name]["deps"]
        )
    for name in ("masksyn", "imgsyn"):
        assert (
            "data/prompts/${item.class}.parquet" in stages[name]["deps"]
            and "data/captions" not in stages[name]["deps"]
        )


@pytest.mark.parametrize("name", PROFILES)
def test_attention_methods_fit_the_image_size_even_where_no_arm_reads_them(name: str) -> None:
    """A bare `dvc repro` runs them."""
    config = profile(name)
    size = config.dataset.image_size
    latents = size // (
        8
        if "stabilityai" in str(config.foundation.source) or "sd2" in str(config.foundation.source)
        else 2
    )
    assert latents / config.seediff.cross_attention_resolution in (
        2,
        4,
    )  # all families attend to text at both
    assert config.diffumask is not None and config.diffumask.affinity_net is not None
    assert math.log2(size / config.diffumask.affinity_net.feature_size).is_integer()


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_holds_every_section_that_a_stage_depends_on(name: str) -> None:
    tree = yaml.safe_load((ROOT / "profiles" / name / "params.yaml").read_text())
    for stage in yaml.safe_load(pipeline(name))["stages"].values():
        if stage.get("foreach") in ("${suite}", "${transfer}", "${mask_recipe}"):
            continue  # none is a part of a profile
        for parameter in stage.get("do", stage).get("params", ()):
            for arm, body in tree["variants"].items():
                value = tree
                key = Template(parameter.replace("item.", "")).substitute(body, key=arm)
                for part in key.split("."):
                    assert part in value, (
                        f"{name} lacks {parameter}: DVC can't run the stage without it"
                    )
                    value = value[part]


def test_in_scenes_n20_everything_sees_the_same_20_scenes() -> None:
    small, demo = profile("scenes_n20"), profile("scenes")
    assert (small.dataset.num_train, small.dataset.subset_size) == (20, None)
    assert demo.dataset.subset_size == 20 < (demo.dataset.num_train or 0)
    for section in (small.text2mask, small.mask2img):
        assert section.random_crops is not None and section.random_crops.per_sample == 7
    assert "shuffled" in small.variants and "full_real" not in small.variants
    num_sources = 20 * len(demo.dataset.subset_seeds)
    for method, share in (("masksyn", 2), ("imgsyn", 3)):
        in_demo = getattr(demo, method).samples_per_source * num_sources
        assert getattr(small, method).samples_per_source * 20 * share == in_demo
    assert small.variants["masksyn_imgsyn_then_real"].strategy == "pretrain"
    for sampler in (small.masksyn.text2mask, small.masksyn.mask2img, small.imgsyn.mask2img):
        assert sampler.guidance_scale == 1
    assert small.train_seg == demo.train_seg and small.foundation == demo.foundation
