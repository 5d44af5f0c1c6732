"""The stages `train_seg`, `evaluate` and `judge`, run as DVC runs them, on the tiny project."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from seggen_core.config import SegGenConfig, VariantConfig
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.metrics.boundary import boundary_scores, count_boundaries
from seggen_core.metrics.semantic import confusion_matrix, mean_iou
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation import arm_training
from seggen_core.segmentation.arms import Arm, TrainedArm
from seggen_core.segmentation.models import load_segmenter
from seggen_core.segmentation.predict import predict_maps
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.stages import evaluate, judge, train_seg
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from seggen_core.taxonomy import IGNORE_INDEX
from tests.minimal_config import judged_by, minimal_config
from tests.segmentation.conftest import COLOURS, SIZE, TAXONOMY, TRAIN_KEYS, write_store
from tests.segmentation.tiny import TINY_HRNET, TINY_MASK2FORMER

REAL = "data/real/train/index.parquet"
PLAIN = {"model": "hrnet", "strategy": "plain"}
REPLACE = {"model": "hrnet", "strategy": "replace"}


def settings(**sections: Any) -> SegGenConfig:
    tree = {
        "classes": TAXONOMY.slugs,
        "train_seg": {
            "common": {
                "num_steps": 6,
                "batch_size": 4,
                "checkpoint_every": 2,
                "validate_every": 4,
            },
            "hrnet": {"learning_rate": 1e-2, "backbone_kwargs": TINY_HRNET, "stem_stride": 2},
            "mask2former": {
                "learning_rate": 1e-4,
                "architecture": TINY_MASK2FORMER,
                "overrides": {"num_steps": 2},
            },
        },
        "variants": {
            "baseline": PLAIN | {"reads": [REAL, REAL]},
            "shuffled": REPLACE
            | {
                "reads": ["data/synthetic/masksyn", "data/synthetic/imgsyn"],
                "shuffle_masks": True,
            },
            "synthetic_only": PLAIN
            | {
                "reads": ["data/synthetic/masksyn", "data/synthetic/seediff"],
                "real": "none",
            },
            "full_real": PLAIN | {"reads": [REAL, REAL], "real": "all"},
            "mask2former": PLAIN | {"reads": [REAL, REAL], "model": "mask2former"},
        },
        "evaluate": {"num_pictures": 2},
        "checks": {"min_val_miou": 0},
    }
    dataset = {"name": "scenes", "image_size": SIZE, "subset_seeds": [0, 1]}
    return minimal_config(dataset, **(tree | sections))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "variant", ["baseline", "shuffled", "synthetic_only", "full_real", "mask2former"]
)
def test_train_seg_makes_a_segmenter_per_subset_without_the_test_split(
    project: ProjectPaths, variant: str
) -> None:
    shutil.rmtree(project.real("test"))
    train_seg.run(settings(), paths=project, item=variant)
    out = project.checkpoint(variant)
    steps = 2 if variant == "mask2former" else 6
    assert sorted(p.name for p in out.iterdir()) == [
        "history.csv",
        "metrics.json",
        "seed0",
        "seed1",
    ]
    history = pd.read_csv(out / "history.csv")
    assert history[["seed", "step"]].to_numpy().tolist() == [
        [s, step] for s in (0, 1) for step in range(1, steps + 1)
    ]
    assert (history["loss"] > 0).all()
    metrics = read(out / "metrics.json")
    facts = {"baseline": (3, {}), "full_real": (6, {}), "mask2former": (3, {})}
    facts |= {
        "shuffled": (3, {"masksyn": 6, "imgsyn": 6}),
        "synthetic_only": (0, {"masksyn": 6, "seediff": 6}),
    }
    for seed in "01":
        assert (
            metrics["seeds"][seed]["num_real"],
            metrics["seeds"][seed]["num_synthetic"],
        ) == facts[variant]

        # The validation score is that of the model that was saved.
        segmenter, store = load_segmenter(out / f"seed{seed}"), SampleStore(project.real("val"))
        images = np.stack([store.read_image(key) for key in store.keys()])  # noqa: SIM118
        predicted = predict_maps(segmenter, images=images)
        masks = np.stack([store.read_mask(key) for key in store.keys()])  # noqa: SIM118
        miou = mean_iou(confusion_matrix(predicted, truth=masks, num_classes=3))
        assert metrics["seeds"][seed]["val_miou"] == pytest.approx(miou, abs=1e-3)
    assert metrics["val_miou"] == pytest.approx(
        np.mean([metrics["seeds"][s]["val_miou"] for s in "01"]), abs=1e-3
    )
    assert not list((project.scratch / "train_seg").iterdir())


def test_scores_without_a_labelled_pixel_are_null(
    project: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (project.real("val"), project.real("test"), project.synthetic("masksyn", "car")):
        source = "train-00000" if folder.parent.name == "masksyn" else None
        shutil.rmtree(folder)
        write_store(folder, [("key", source)], stream=0, ignore_others_than=9)
    train_seg.run(settings(), paths=project, item="baseline")
    metrics = read(project.checkpoint("baseline") / "metrics.json")
    assert metrics["val_miou"] is None and metrics["seeds"]["0"]["val_miou"] is None
    evaluate.run(settings(), paths=project, item="baseline")
    metrics = read(project.report("evaluate", "baseline") / "metrics.json")
    assert metrics["miou"] is None and metrics["miou_std"] is None
    train_as_judge(monkeypatch, Oracle())
    judge.run(settings(), paths=project, item="masksyn")
    partitions = read(project.report("judge", "masksyn") / "metrics.json")["partitions"]
    assert partitions["car"] == {"samples": 1, "miou": None, "pixel_accuracy": None}
    assert partitions["grass"]["miou"] > 99


def test_a_killed_stage_goes_on_to_the_same_bytes(
    project: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def content(variant: str) -> dict[str, bytes]:
        folder = project.checkpoint(variant)
        return {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }

    train_seg.run(settings(), paths=project, item="baseline")
    whole = content("baseline")
    shutil.rmtree(project.checkpoint("baseline"))

    trained: list[int] = []
    real_training = arm_training.train_segmenter

    def dies_in_the_second(*args: Any, arm: Arm, on_step: Any, **kwargs: Any) -> int:
        trained.append(arm.seed.subset_seed)

        def report(step: int, values: dict[str, float]) -> None:
            on_step(step, values)
            if trained == [0, 1] and step == 3:
                raise KeyboardInterrupt

        return real_training(*args, arm=arm, on_step=report, **kwargs)

    monkeypatch.setattr(arm_training, "train_segmenter", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train_seg.run(settings(), paths=project, item="baseline")
    assert not project.checkpoint("baseline").exists()
    train_seg.run(settings(), paths=project, item="baseline")
    assert trained == [0, 1, 1]  # the first wasn't trained again
    assert content("baseline") == whole


def test_arms_start_from_the_same_weights(
    project: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[torch.Tensor] = []

    def stop(segmenter: Segmenter, *args: Any, **kwargs: Any) -> int:
        started.append(segmenter.state_dict()["backbone.conv1.weight"].clone())
        raise KeyboardInterrupt

    monkeypatch.setattr(arm_training, "train_segmenter", stop)
    for variant in ("baseline", "shuffled"):
        with pytest.raises(KeyboardInterrupt):
            train_seg.run(settings(), paths=project, item=variant)
    assert torch.equal(*started)


def test_an_arm_may_replace_more_or_less_often_than_the_others(project: ProjectPaths) -> None:
    reads = ["data/synthetic/masksyn", "data/synthetic/imgsyn"]
    arms = {
        "baseline": PLAIN | {"reads": [REAL, REAL]},
        "never": REPLACE | {"reads": reads, "p_aug": 0.0},
        "always": REPLACE | {"reads": reads, "p_aug": 1.0},
    }
    losses = {}
    for arm in arms:
        train_seg.run(settings(variants=arms), paths=project, item=arm)
        losses[arm] = pd.read_csv(project.checkpoint(arm) / "history.csv")["loss"].tolist()
    assert losses["never"] == losses["baseline"] != losses["always"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"strategy": "replace", "reads": (REAL, REAL)}, "strategy: plain"),
        (
            {"strategy": "replace", "reads": ("data/synthetic/masksyn", REAL), "real": "none"},
            "strategy: plain",
        ),
        ({"strategy": "plain", "reads": ("data/synthetic/masksyn", REAL)}, "strategy: replace"),
        ({"strategy": "plain", "reads": (REAL, REAL), "p_aug": 0.2}, "p_aug"),
        (
            {"strategy": "pretrain", "reads": ("data/synthetic/masksyn", REAL), "p_aug": 0.2},
            "p_aug",
        ),
    ],
)
def test_a_strategy_that_does_not_fit_the_samples_of_an_arm_is_refused(
    changes: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        VariantConfig.model_validate({"model": "hrnet"} | changes)


def test_evaluate_scores_the_test_split_for_each_seed(project: ProjectPaths) -> None:
    train_seg.run(settings(), paths=project, item="baseline")
    evaluate.run(settings(), paths=project, item="baseline")
    out = project.report("evaluate", "baseline")
    assert sorted(p.name for p in out.iterdir()) == [
        "confusion.csv",
        "confusion.json",
        "metrics.json",
        "predictions.png",
    ]
    metrics, confusion = read(out / "metrics.json"), read(out / "confusion.json")
    store = SampleStore(project.real("test"))
    for seed in "01":
        segmenter = load_segmenter(project.checkpoint("baseline") / f"seed{seed}")
        expected, rims = np.zeros((3, 3), np.int64), np.zeros((2, 3), np.int64)
        for sample in store:
            predicted = predict_maps(segmenter, images=sample.image[None])[0]
            mask = sample.segmentation_map
            expected += confusion_matrix(predicted, truth=mask, num_classes=3)
            rims += count_boundaries(predicted, truth=mask, num_classes=3, width=1)
        np.testing.assert_array_equal(confusion["seeds"][seed], expected)
        scores = boundary_scores(rims, slugs=TAXONOMY.slugs)
        assert rims[0].any() and scores.items() <= metrics["seeds"][seed].items()
        assert metrics["seeds"][seed]["miou"] == pytest.approx(mean_iou(expected), abs=1e-3)
    values = [metrics["seeds"][seed]["miou"] for seed in "01"]
    assert metrics["miou"] == pytest.approx(np.mean(values), abs=1e-3)
    assert metrics["miou_std"] == pytest.approx(abs(values[0] - values[1]) / np.sqrt(2), abs=1e-3)
    assert [*metrics["per_class_iou"], metrics["num_images"]] == [*TAXONOMY.slugs, 2]
    table = pd.read_csv(out / "confusion.csv")
    assert table["pixels"].sum() == 2 * 2 * SIZE * SIZE
    assert table.groupby("truth")["share"].sum().round(1).isin([0, 100]).all()
    assert Image.open(out / "predictions.png").width > 2 * 128


class Oracle(Segmenter):
    """Knows the colours that the tiny project's pictures are painted in."""

    def __init__(self) -> None:
        super().__init__(id2label=TAXONOMY.id2label)
        self.unused = torch.nn.Parameter(torch.zeros(()))
        self.eval()

    def predict_logits(self, images: torch.Tensor) -> torch.Tensor:
        colours = torch.tensor(COLOURS, dtype=torch.float32)[None, :, :, None, None]
        return -(255 * images[:, None] - colours).square().sum(2)

    def loss(self, images: torch.Tensor, *, segmentation_maps: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def train_as_judge(monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter) -> None:
    """Let `segmenter` stand for the checkpoint of every arm."""
    arm = TrainedArm(Path(), "hrnet", ("0",))
    monkeypatch.setattr(TrainedArm, "read", lambda paths, variant: arm)
    monkeypatch.setattr(TrainedArm, "load", lambda self, seed, device: segmenter)


def test_judge_scores_pairs_and_shows_the_extremes(
    project: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_as_judge(monkeypatch, Oracle())
    judge.run(settings(), paths=project, item="masksyn")
    out = project.report("judge", "masksyn")
    assert sorted(p.name for p in out.iterdir()) == ["metrics.json", "pairs.png", "scores.csv"]
    metrics = read(out / "metrics.json")
    assert metrics["judge"] == "full_real/seed0" and metrics["samples"] == 12
    assert metrics["miou"] > 99 and "mask_iou" not in metrics
    assert {slug: part["samples"] for slug, part in metrics["partitions"].items()} == {
        "car": 6,
        "grass": 6,
    }
    scores = pd.read_csv(out / "scores.csv")
    assert len(scores) == 12 and scores["score"].is_monotonic_decreasing


def test_judge_of_a_partition_whose_masks_are_ignored_all_over(
    project: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_as_judge(monkeypatch, Oracle())
    shutil.rmtree(project.synthetic("masksyn", "car"))
    with SampleStoreWriter(project.synthetic("masksyn", "car"), num_classes=3) as writer:
        mask = np.full((SIZE, SIZE), IGNORE_INDEX, np.uint8)
        writer.add(
            Sample(
                "void",
                np.zeros((SIZE, SIZE, 3), np.uint8),
                mask,
                None,
                {"source_key": TRAIN_KEYS[0]},
            )
        )
        writer.finish(manifest={})
    judge.run(settings(), paths=project, item="masksyn")
    text = (project.report("judge", "masksyn") / "metrics.json").read_text()
    assert "NaN" not in text
    metrics = json.loads(text)
    assert (
        metrics["partitions"]["car"] == {"samples": 1, "miou": None, "pixel_accuracy": None}
        and metrics["miou"] > 99
    )
    scores = pd.read_csv(project.report("judge", "masksyn") / "scores.csv")
    assert scores["key"].iloc[-1] == "void" and scores["score"].isna().sum() == 1


def test_judge_compares_the_masks_of_attention_methods_over_full_images(
    project: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeesCarsInTheSky(Oracle):
        def predict_logits(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().predict_logits(images)
            logits[:, 2, :2] = 1
            return logits

    for oracle in (Oracle, SeesCarsInTheSky):
        train_as_judge(monkeypatch, oracle())
        judge.run(settings(), paths=project, item="seediff")
        metrics = read(project.report("judge", "seediff") / "metrics.json")
        pixels = [
            SampleStore(project.synthetic("seediff", "car")).read_mask(k) == 2 for k in (0, 1)
        ]
        area = int(np.sum(pixels))
        car = 100.0 if oracle is Oracle else 100 * area / (area + 2 * 2 * SIZE)
        # The false cars lie where SeeDiff's car masks are ignored: labelled pixels alone would not
        # show them.
        assert metrics["per_class_mask_iou"]["car"] == pytest.approx(car, abs=1)
        assert metrics["mask_iou"] == pytest.approx(
            np.mean(list(metrics["per_class_mask_iou"].values())), abs=1e-3
        )


def test_a_class_that_is_no_longer_listed_is_not_trained_on(project: ProjectPaths) -> None:
    """Its partitions stay on the disk, and whoever clones the project has none."""
    clone = ProjectPaths(project.root.parent / "clone")
    shutil.copytree(project.root, clone.root)
    shutil.rmtree(clone.synthetic("masksyn", "grass"))
    shutil.rmtree(clone.synthetic("seediff", "grass"))
    metrics = []
    for paths in (project, clone):
        config = settings(classes=["sky", "car"])
        train_seg.run(config, paths=paths, item="synthetic_only")
        metrics.append(read(paths.checkpoint("synthetic_only") / "metrics.json"))
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("stage", [train_seg, evaluate])
def test_an_unknown_variant_is_named(project: ProjectPaths, stage: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"there is no variant 'basline'; params\.yaml has: baseline, shuffled"
    ):
        stage.run(settings(), paths=project, item="basline")


def test_judge_says_what_is_missing(project: ProjectPaths) -> None:
    with pytest.raises(ConfigError, match="there is no synthetic method 'syn'; known: masksyn"):
        judge.run(settings(), paths=project, item="syn")
    with pytest.raises(ConfigError, match="there is no variant 'nobody'"):
        judge.run(judged_by(settings(), "nobody"), paths=project, item="masksyn")
    with pytest.raises(
        FoundationError, match="full_real isn't trained; run: dvc repro train_seg@full_real"
    ):
        judge.run(settings(), paths=project, item="masksyn")
    with pytest.raises(FoundationError, match="baseline isn't trained"):
        evaluate.run(settings(), paths=project, item="baseline")
