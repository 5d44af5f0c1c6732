"""The papers' profiles, run: each one's own graph, settings and model families at small sizes.

Only sizes are changed: the methods, schedulers, strategies, colour maps, captioners, segmenters and
the kinds of networks are the profile's. Weights are random, so nothing here says how good a result
is; `test_pipeline.py` runs the embedded profile by DVC.
"""

import importlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from seggen_core.cli import main
from seggen_core.config import SegGenConfig, load_config
from seggen_core.datasets.fit import square_map
from seggen_core.metrics.tasks import FIGURES, PER_CLASS, PRIMARY
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore
from seggen_core.synthesis.prompt_templates import class_phrase
from seggen_core.taxonomy import Taxonomy
from tests.captions.tiny_blip2 import save_blip2
from tests.datasets.layouts import STEMS, WRITERS, blocks, save
from tests.segmentation.tiny import TINY_MASK2FORMER

ROOT = Path(__file__).parent.parent
PARTS = {"foundation": "unet", "text2mask": "unet", "mask2img": "."}
ENCODER = "model.pixel_level_module.encoder."
PREVIEW = {"num_inference_steps": 2}
SAMPLER = PREVIEW | {"micro_batch_size": 2}


@dataclass(frozen=True)
class Shape:
    """What a profile's graph has to look like once it has run."""

    foundation: str
    num_classes: int
    arms: tuple[str, ...]
    instances: bool = False


SHAPES = {
    "ade20k": Shape("StableDiffusionXLPipeline", 150, ("baseline", "masksyn_imgsyn")),
    "coco_panoptic": Shape(
        "StableDiffusionXLPipeline", 133, ("baseline", "masksyn_imgsyn"), instances=True
    ),
    "coco_instance": Shape(
        "StableDiffusionXLPipeline", 80, ("baseline", "masksyn", "judge"), instances=True
    ),
    "voc2012": Shape("StableDiffusionPipeline", 21, ("baseline", "synthetic_only")),
    "cityscapes": Shape("StableDiffusionPipeline", 19, ("baseline", "seediff")),
}


REAL_LAYOUTS = {
    "ade20k": {
        "images": ("images/training", "images/validation"),
        "annotations": ("annotations/training", "annotations/validation"),
    },
    "coco_panoptic": {
        "input_images": ("train2017", "val2017"),
        "panoptic_examples": ("annotations/panoptic_train2017", "annotations/panoptic_val2017"),
        "panoptic_examples.json": (
            "annotations/panoptic_train2017.json",
            "annotations/panoptic_val2017.json",
        ),
    },
}
"""What lies where in the folders of real samples, and where it is published, for train and val."""
NUM_REAL = {"ade20k": 3, "coco_panoptic": 2}


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the profiles fetch from the hub, narrow and with random weights: one folder each."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    from tests.tiny_foundations import save_sd2_base, save_sdxl

    folder = tmp_path_factory.mktemp("pretrained")
    save_sdxl(folder / "StableDiffusionXLPipeline")
    save_sd2_base(folder / "StableDiffusionPipeline")
    save_blip2(folder / "blip2")
    torch.manual_seed(0)
    sizes = {k: v for k, v in BACKBONE.items() if k not in ("model_type", "out_features")}
    ResNetForImageClassification(ResNetConfig(**sizes)).save_pretrained(folder / "resnet-50")
    return folder


BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "bottleneck",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
MASK2FORMER = TINY_MASK2FORMER | {"backbone_config": BACKBONE, "decoder_layers": 3}


def reduced(name: str) -> dict[str, Any]:
    """The profile's parameters with smaller sizes and with folders instead of the hub."""
    tree = yaml.safe_load((ROOT / "profiles" / name / "params.yaml").read_text(encoding="utf-8"))
    large = tree["dataset"]["image_size"]
    tree["dataset"] |= {"image_size": {768: 64, 512: 128}[large], "num_val": 1}
    small = tree["dataset"]["image_size"]
    if tree["captions"]["captioner"] == "blip2":
        tree["captions"] |= {
            "model": "pretrained/blip2",
            "revision": None,
            "max_new_tokens": 6,
            "batch_size": 2,
        }
    source = f"pretrained/{SHAPES[name].foundation}"
    tree["foundation"] |= {"source": source, "revision": None, "reads": source}
    for generator in ("text2mask", "mask2img"):
        tree[generator] |= {
            "num_steps": 2,
            "batch_size": 2,
            "warmup_steps": 1,
            "checkpoint_every": 1,
        }
    for stage in ("foundation", "text2mask", "mask2img"):
        tree[stage]["preview"] = tree[stage].get("preview", {}) | PREVIEW
    for method in ("masksyn", "imgsyn"):
        tree[method] |= {"samples_per_source": 2, "batch_size": 2}
        for sampler in ("text2mask", "mask2img"):
            tree[method][sampler] = tree[method].get(sampler, {}) | SAMPLER
    tree["seediff"] |= {
        "samples_per_class": 2,
        "batch_size": 2,
        "sampling": tree["seediff"].get("sampling", {}) | SAMPLER,
    }
    tree["seediff"]["cross_attention_resolution"] = (
        tree["seediff"]["cross_attention_resolution"] * small // large
    )
    train, model = tree["train_seg"]["common"], tree["train_seg"]["mask2former"]
    assert set(model["architecture"]) <= set(MASK2FORMER) and set(
        model["architecture"]["backbone_config"]
    ) == set(BACKBONE)
    model["architecture"] = MASK2FORMER
    train |= {"num_steps": 4, "batch_size": 2, "checkpoint_every": 2}
    train |= {"validate_every": 2, "num_readers": 2}
    for key in ("crop_size", "short_side", "max_side", "test_short_side", "test_max_side"):
        train[key] = smaller(train.get(key), by=large // small)
    if "micro_batch_size" in train:
        train["micro_batch_size"] = 1
    train["warmup_steps"] = min(train["warmup_steps"], 1)
    tree["variants"] = {
        arm: {key: value for key, value in tree["variants"][arm].items() if key != "overrides"}
        for arm in SHAPES[name].arms
    }
    tree["evaluate"]["batch_size"] = tree["judge"]["batch_size"] = 2
    if "multi_scale" in tree["evaluate"]:
        tree["evaluate"]["multi_scale"]["scales"] = [1.0, 1.5]
    return tree


def smaller(length: Any, *, by: int) -> Any:
    """Return a length in pixels, or a list of them, divided; None as it is."""
    if isinstance(length, list):
        return [one // by for one in length]
    return None if length is None else length // by


def write_dataset(name: str, root: Path) -> None:
    WRITERS[name](root)
    if name == "voc2012":  # SBD's masks, without instances
        below = root / "VOCdevkit" / "VOC2012"
        for stem in STEMS["train"]:
            save(
                Image.fromarray(blocks([0, 15, 255, 15, 1, 0])),
                below / "SegmentationClassAug" / f"{stem}.png",
            )
        (below / "ImageSets" / "Segmentation" / "trainaug.txt").write_text(
            "\n".join(STEMS["train"]) + "\n"
        )


def begin(
    folder: Path,
    *,
    name: str,
    pretrained: Path,
    dataset: Path,
    tree: dict[str, Any] | None = None,
) -> tuple[ProjectPaths, SegGenConfig]:
    """`seggen init` in a project that has the reduced profile, or `tree` in its place."""
    profile = folder / "profiles" / name
    profile.mkdir(parents=True)
    (profile / "params.yaml").write_text(
        yaml.safe_dump(tree or reduced(name), sort_keys=False), encoding="utf-8"
    )
    shutil.copy(ROOT / "profiles" / name / "caption_edits.csv", profile)
    (folder / "pretrained").symlink_to(pretrained)
    params = folder / "params.yaml"
    assert main(["--params", str(params), "init", "--dataset", name, "--root", str(dataset)]) == 0
    return ProjectPaths(folder), load_config(params)


def run_graph(config: SegGenConfig, *, paths: ProjectPaths) -> str:
    """Run every stage and the first class with real samples; return its slug."""

    def run(stage: str, item: str | None = None) -> None:
        importlib.import_module(f"seggen_core.stages.{stage}").run(config, paths=paths, item=item)

    for stage in ("dataset", "captions", "foundation", "text2mask", "mask2img"):
        run(stage)
    slug = next(
        (s for s in config.classes if len(pd.read_parquet(paths.prompts(s)))), config.classes[0]
    )
    # Only this class is made, and random networks reach no limit.
    floors = ("min_val_miou", "min_val_pq", "min_val_ap", "min_judge_miou")
    limits = config.checks.model_copy(update=dict.fromkeys(floors, 0.0))
    config = config.model_copy(update={"classes": (slug,), "checks": limits})
    graph = [(method, slug) for method in ("masksyn", "imgsyn", "seediff")]
    graph += [(stage, arm) for arm in config.variants for stage in ("train_seg", "evaluate")]
    graph += [("judge", method) for method in config.methods]
    for stage, item in graph:
        run(stage, item)
    run("ablation")
    return slug


def load_folder(folder: Path, part: str) -> dict[str, Any]:
    """Return all weights that a folder holds, as numpy arrays."""
    from safetensors.numpy import load_file

    (file,) = (folder / part).glob("*.safetensors")
    return load_file(file)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def check_generators(config: SegGenConfig, *, paths: ProjectPaths, shape: Shape) -> None:
    """The models are of the foundation's family, and were trained."""
    foundation, drawer, side = (
        load_folder(paths.model(name), part) for name, part in PARTS.items()
    )
    for name in ("foundation", "text2mask"):
        assert read(paths.model(name) / "model_index.json")["_class_name"] == shape.foundation
    assert all(
        np.array_equal(foundation[k], v)
        for k, v in load_folder(paths.root / config.foundation.source, "unet").items()
    )
    assert set(drawer) == set(foundation) and any(
        not np.array_equal(foundation[k], v) for k, v in drawer.items()
    )
    condition = read(paths.model("mask2img") / "config.json")
    assert condition.get("addition_embed_type") == (
        "text_time" if "XL" in shape.foundation else None
    )
    assert (
        len(condition["conditioning_embedding_out_channels"]) == 4
    )  # pixels to latents at an eighth of their size
    assert any(
        v.any() for k, v in side.items() if "controlnet_down_blocks" in k
    )  # no longer zero convolutions


def check_pairs(config: SegGenConfig, *, paths: ProjectPaths, shape: Shape, slug: str) -> None:
    """MaskSyn draws masks of the dataset's classes; ImgSyn shows the real ones."""
    real = SampleStore(paths.real("train"))
    for method in ("masksyn", "imgsyn"):
        store = SampleStore(paths.synthetic(method, slug))
        assert len(store) == 2 * len(pd.read_parquet(paths.prompts(slug)))
        assert len(store) > 0 or method not in config.methods
        for sample in store:
            assert sample.image.shape == (config.dataset.image_size,) * 2 + (3,)
            assert set(np.unique(sample.segmentation_map)) <= {*range(shape.num_classes), 255}
            assert (sample.instance_map is not None) == shape.instances
            if method == "imgsyn":
                source = real[sample.metadata["source_key"]]
                side = config.dataset.image_size
                expected = square_map(source.segmentation_map, side)
                np.testing.assert_array_equal(sample.segmentation_map, expected)
                if shape.instances:
                    assert source.instance_map is not None
                    expected = square_map(source.instance_map, side)
                    np.testing.assert_array_equal(sample.instance_map, expected)


def check_attention_masks(config: SegGenConfig, *, paths: ProjectPaths, slug: str) -> None:
    """SeeDiff labels one class; the rest is VOC's background, and unknown elsewhere."""
    taxonomy = Taxonomy.from_json(read(paths.taxonomy))
    outside = 255 if config.seediff.ignore_background else taxonomy.by_slug("background").train_id
    store = SampleStore(paths.synthetic("seediff", slug))
    assert len(store) > 0
    for sample in store:
        assert set(np.unique(sample.segmentation_map)) == {outside, taxonomy.by_slug(slug).train_id}
        name = config.seediff.prompts[0].replace("{class}", class_phrase(taxonomy.by_slug(slug)))
        assert sample.metadata["prompt"] == name
    assert "seediff" not in config.methods or "mask_iou" in read(
        paths.report("judge", "seediff") / "metrics.json"
    )


def check_segmenters(
    config: SegGenConfig, *, paths: ProjectPaths, shape: Shape, slug: str, num_test: int
) -> None:
    """Every arm is a Mask2Former on the pretrained ResNet, scored over all classes."""
    backbone = load_folder(paths.root / "pretrained" / "resnet-50", ".")
    for arm in config.variants:
        segmenter = load_folder(paths.checkpoint(arm) / "seed0", ".")
        trained = {
            k.removeprefix(ENCODER): v
            for k, v in segmenter.items()
            if k.startswith(ENCODER) and "weight" in k
        }
        for name, value in trained.items():  # four steps at a learning rate of 1e-5
            np.testing.assert_allclose(value, backbone[f"resnet.{name}"], atol=1e-3)
        task = config.train_seg.for_arm(config.variants[arm]).task
        metrics = read(paths.report("evaluate", arm) / "metrics.json")
        assert (
            len(metrics[PER_CLASS[task]]) == shape.num_classes and metrics["num_images"] == num_test
        )
        history = pd.read_csv(paths.checkpoint(arm) / "history.csv")
        validated = history.dropna(subset=f"val_{PRIMARY[task]}")["step"].tolist()
        if task != "semantic":
            assert metrics["task"] == task and set(validated) <= {2, 4}
            assert set(FIGURES[task]) <= set(metrics)
            coco = paths.report("evaluate", arm) / "coco"
            assert len(read(coco / "truth" / "instances.json")["images"]) == num_test
            continue
        assert 0 <= metrics["miou"] <= 100
        assert ("miou_ms" in metrics) == (config.evaluate.multi_scale is not None)
        assert validated == [2, 4]
        # Scores are counted on the labels as published.
        confusion = read(paths.report("evaluate", arm) / "confusion.json")["seeds"]["0"]
        counts = np.stack(SampleStore(paths.real("test")).index["class_pixel_counts"])
        np.testing.assert_array_equal(np.sum(confusion, axis=1), counts.sum(0))
    for method in config.methods:
        judged = read(paths.report("judge", method) / "metrics.json")
        assert judged["judge"] == f"{config.judge.variant}/seed0"
        assert list(judged["partitions"]) == [slug]
    table = pd.read_csv(paths.ablation / "plots.csv")
    assert set(table["variant"]) == set(config.variants)


def check_graph(name: str, *, folder: Path, pretrained: Path, num_test: int) -> None:
    """Run the profile `name` in `folder`, with its dataset in "dataset", and check results."""
    shape = SHAPES[name]
    paths, config = begin(
        folder / "project", name=name, pretrained=pretrained, dataset=folder / "dataset"
    )
    slug = run_graph(config, paths=paths)
    assert len(Taxonomy.from_json(read(paths.taxonomy))) == shape.num_classes
    captions = pd.read_parquet(paths.captions)
    assert (
        set(captions["captioner"]) == {config.captions.captioner}
        and captions["caption"].str.len().min() > 0
    )
    check_generators(config, paths=paths, shape=shape)
    check_pairs(config, paths=paths, shape=shape, slug=slug)
    check_attention_masks(config, paths=paths, slug=slug)
    check_segmenters(config, paths=paths, shape=shape, slug=slug, num_test=num_test)
    assert not list(paths.scratch.glob("*/*"))  # nothing unfinished is left


def lay_out(name: str, root: Path) -> int:
    """Put a dataset into `root`, as it is published; return the number of test samples.

    Real samples are taken where SEGGEN_REAL_DATA has some of the dataset, and made ones elsewhere.
    """
    sample = Path(os.environ.get("SEGGEN_REAL_DATA", "/nowhere")).resolve() / f"{name}_sample"
    if name not in REAL_LAYOUTS or not sample.is_dir():
        write_dataset(name, root)
        return len(STEMS["val"])
    for original, published in REAL_LAYOUTS[name].items():
        for place in published:
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (sample / original).is_dir() else shutil.copy
            copy(sample / original, root / place)
    return NUM_REAL[name]


@pytest.mark.parametrize("name", SHAPES)
def test_a_profiles_own_graph_runs(
    name: str, tmp_path: Path, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On real samples if SEGGEN_REAL_DATA names some, which take the same way as made ones."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "disk")
    num_test = lay_out(name, tmp_path / "dataset")
    check_graph(name, folder=tmp_path, pretrained=pretrained, num_test=num_test)
