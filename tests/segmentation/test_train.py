import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seggen_core.config import SegmenterConfig, SyntheticAugmentConfig, VariantConfig
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arms import Arm, ArmSamples, open_arm
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.mixing import TrainingSeed
from seggen_core.segmentation.models import build_segmenter
from seggen_core.segmentation.optimizer import freeze_batch_norm, parameter_groups
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.segmentation.train import (
    _StepLoss,
    balanced_weights,
    learning_rate,
    train_segmenter,
)
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter, open_partitions
from seggen_core.training.read_ahead import read_ahead
from tests.segmentation.conftest import TAXONOMY, TRAIN_KEYS
from tests.segmentation.tiny import ID2LABEL, TINY_HRNET, TINY_MASK2FORMER


def settings(model: str = "hrnet", **changes: object) -> SegmenterConfig:
    tree = {
        "model": model,
        "num_steps": 12,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup_steps": 3,
        "checkpoint_every": 5,
        "backbone_kwargs": TINY_HRNET,
        "stem_stride": 2,
        "architecture": TINY_MASK2FORMER,
    }
    return SegmenterConfig.model_validate(tree | changes)


def masksyn_arm(paths: ProjectPaths, config: SegmenterConfig, **changes: object) -> Arm:
    reads = ("data/synthetic/masksyn", "data/real/train/index.parquet")
    real = SampleStore(paths.real("train"))
    partitions = {"masksyn": open_partitions(paths.synthetic("masksyn"))}
    return open_arm(
        VariantConfig.model_validate(
            {"model": "hrnet", "strategy": "replace", "reads": reads} | changes
        ),
        config=config,
        samples=ArmSamples(real, real.keys()[:3], partitions, LabelSpace(TAXONOMY)),
        seed=TrainingSeed(0, 0),
    )


def train(
    paths: ProjectPaths, config: SegmenterConfig, *, state: Path, stop_after: int | None = None
) -> tuple[Segmenter, list[float]]:
    """Train on the project's MaskSyn arm; with `stop_after`, end as a killed process would."""
    arm = masksyn_arm(paths, config)
    torch.manual_seed(0)
    segmenter = build_segmenter(config, id2label=ID2LABEL)
    losses: list[float] = []

    def report(step: int, values: dict[str, float]) -> None:
        assert step == len(losses) + 1
        losses.append(values["loss"])
        if step == stop_after:
            raise KeyboardInterrupt

    train_segmenter(
        segmenter,
        config,
        arm=arm,
        state_folder=state,
        on_step=report,
    )
    return segmenter, losses


def test_it_learns(project: ProjectPaths, tmp_path: Path) -> None:
    segmenter, losses = train(project, settings(num_steps=60), state=tmp_path / "state")
    assert not segmenter.training
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


@pytest.mark.parametrize("model", ["hrnet", "mask2former"])
def test_a_killed_training_goes_on_to_the_same_weights(
    project: ProjectPaths, tmp_path: Path, model: str
) -> None:
    torch.set_num_threads(1)
    whole, losses = train(project, settings(model), state=tmp_path / "whole")
    for stop_after in (7, 11):
        with pytest.raises(KeyboardInterrupt):
            train(project, settings(model), state=tmp_path / "killed", stop_after=stop_after)
    states = sorted((tmp_path / "killed").glob("state-*.safetensors"))
    assert [len(load_file(state)["losses"]) for state in states] == [5, 10]
    torch.manual_seed(123)  # whatever the process drew before
    resumed, same_losses = train(project, settings(model), state=tmp_path / "killed")
    assert same_losses == losses
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_training_leaves_the_global_generator_alone(project: ProjectPaths, tmp_path: Path) -> None:
    train(project, settings(num_steps=1), state=tmp_path / "state")
    after = torch.rand(1)
    torch.manual_seed(0)
    build_segmenter(settings(), id2label=ID2LABEL)
    assert torch.equal(torch.rand(1), after)


def test_a_loss_that_is_not_finite_ends_the_training(project: ProjectPaths, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"hrnet: the loss is (nan|inf) at step \d+; lower train_seg\.hrnet\.learning_rate",
    ):
        train(
            project,
            settings(learning_rate=10, weight_decay=10_000, warmup_steps=0),
            state=tmp_path / "state",
        )


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = SegmenterConfig(
        num_steps=100, learning_rate=2.0, warmup_steps=4, lr_scheduler="cosine"
    )
    assert learning_rate(config)(0) == pytest.approx(2.0 / 4)
    assert learning_rate(config)(50) == pytest.approx(1.0)
    assert learning_rate(config)(99) == pytest.approx(0, abs=1e-3)
    poly = config.model_copy(update={"lr_scheduler": "poly"})
    assert learning_rate(poly)(75) == pytest.approx(2.0 * 0.25**0.9)


def test_each_phase_has_its_own_schedule() -> None:
    config = SegmenterConfig(
        num_steps=100, learning_rate=2.0, warmup_steps=0, strategy="pretrain", pretrain_share=0.4
    )
    assert learning_rate(config)(0) == learning_rate(config)(40) == 2.0
    assert learning_rate(config)(39) == pytest.approx(2.0 * (1 / 40) ** 0.9)
    assert learning_rate(config)(70) == pytest.approx(2.0 * 0.5**0.9)


def test_only_kernels_and_matrices_decay() -> None:
    segmenter = build_segmenter(settings(), id2label=ID2LABEL)
    decayed, free = parameter_groups(segmenter, weight_decay=0.1)
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0
    names = {id(p): name for name, p in segmenter.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} | {
        names[id(p)] for p in free["params"]
    } == set(names.values())
    assert {names[id(p)] for p in free["params"]} >= {
        "norm.weight",
        "norm.bias",
        "classifier.bias",
        "backbone.bn1.weight",
    }
    assert "classifier.weight" in {names[id(p)] for p in decayed["params"]}


def test_the_backbone_may_learn_more_slowly() -> None:
    segmenter = build_segmenter(settings(), id2label=ID2LABEL)
    groups = parameter_groups(segmenter, weight_decay=0.1, backbone_multiplier=0.25)
    assert [(g["weight_decay"], g["lr"]) for g in groups] == [
        (0.1, 0.25),
        (0.1, 1.0),
        (0.0, 0.25),
        (0.0, 1.0),
    ]
    names = {id(p): name for name, p in segmenter.named_parameters()}
    for group in groups:
        assert {names[id(p)].startswith("backbone.") for p in group["params"]} == {
            group["lr"] == 0.25
        }


def test_rare_classes_weigh_more() -> None:
    counts = np.array([800, 100, 50, 50, 0])
    # Frequencies 0.8, 0.1, 0.05, 0.05; their median is 0.075.
    torch.testing.assert_close(
        balanced_weights(counts, power=1.0), torch.tensor([0.09375, 0.75, 1.5, 1.5, 1.0])
    )
    torch.testing.assert_close(
        balanced_weights(counts, power=0.5), torch.tensor([0.09375, 0.75, 1.5, 1.5, 1.0]).sqrt()
    )


def test_a_model_without_class_weights_says_so() -> None:
    segmenter = build_segmenter(settings("mask2former"), id2label=ID2LABEL)
    with pytest.raises(ConfigError, match="class_balance"):
        segmenter.weigh_classes(torch.ones(3))


def test_steps_fall_to_a_tenth_twice() -> None:
    config = SegmenterConfig(num_steps=270, learning_rate=1.0, warmup_steps=0, lr_scheduler="step")
    rates = [learning_rate(config)(s) for s in (0, 239, 240, 259, 260, 269)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_only_synthetic_pairs_are_augmented_as_synthetic(project: ProjectPaths) -> None:
    config = settings(p_aug=0.5)
    always = SyntheticAugmentConfig(splice=1, perspective=0, occlusion=0, noise=0)
    plain, augmenting = (
        masksyn_arm(project, config, synthetic_augment=augment) for augment in (None, always)
    )
    step = next(
        t for t in range(20) if len({slot.synthetic is None for slot in plain.plan.slots(t)}) == 2
    )
    batch, augmented, again = plain.read(step), augmenting.read(step), augmenting.read(step)
    assert torch.equal(augmented.images, again.images)
    assert torch.equal(augmented.segmentation_maps, again.segmentation_maps)
    for k, slot in enumerate(plain.plan.slots(step)):
        assert batch.is_synthetic[k] == (slot.synthetic is not None)
        assert torch.equal(batch.images[k], augmented.images[k]) == (slot.synthetic is None)


def test_parts_of_a_step_add_up_to_the_step(project: ProjectPaths, tmp_path: Path) -> None:
    """The gradient is the mean over network calls, with the same samples and draws.

    Each call's loss is a mean over its own labelled pixels, all of them here, so that the weights
    are those of whole steps. Batch normalisation is frozen, since it sees one call at a time.
    """
    config = settings(num_steps=3, random_scale=(1, 1.2), color="ssd", warmup_steps=0)
    arms = (
        masksyn_arm(project, config),
        masksyn_arm(project, config.model_copy(update={"micro_batch_size": 2})),
    )
    assert [a.num_parts for a in arms] == [1, 2]
    whole, parts = arms[0].read(1), [arms[1].read(2), arms[1].read(3)]
    assert [(b.step, b.part, b.rows) for b in parts] == [(1, 0, slice(0, 2)), (1, 1, slice(2, 4))]
    assert torch.equal(whole.images, torch.cat([b.images for b in parts]))
    trained = []
    for arm in arms:
        torch.manual_seed(0)
        segmenter = build_segmenter(config, id2label=ID2LABEL)
        freeze_batch_norm(segmenter)
        segmenter.frozen_norms.append(segmenter.norm)  # type: ignore[arg-type]
        train_segmenter(
            segmenter,
            config.model_copy(update={"optimizer": "sgd", "max_grad_norm": None}),
            arm=arm,
            state_folder=tmp_path / f"{arm.num_parts}",
            on_step=lambda *_: None,
        )
        trained.append(segmenter.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(value, trained[1][name], rtol=1e-3, atol=1e-5)


def test_published_crops_are_the_same_whoever_reads_them(project: ProjectPaths) -> None:
    """Real samples at their own aspect beside square synthetic ones, by several readers."""
    shutil.rmtree(project.real("train"))
    with SampleStoreWriter(project.real("train"), num_classes=3) as writer:
        for position, key in enumerate(TRAIN_KEYS):
            rng = np.random.default_rng(position)
            size = (20 + 3 * position, 41 - 2 * position)
            image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            mask = rng.integers(0, 3, size, dtype=np.uint8)
            writer.add(Sample(key, image, mask, None, {}))
        writer.finish(manifest={})
    published = settings(
        resize="short_side", short_side=16, crop_size=(12, 20), color="ssd", p_aug=0.5
    )
    arm = masksyn_arm(project, published)
    with read_ahead(arm.read, steps=range(6), num_readers=1) as batches:
        alone = list(batches)
    with read_ahead(masksyn_arm(project, published).read, steps=range(6), num_readers=3) as batches:
        together = list(batches)
    assert len({flag for b in alone for flag in b.is_synthetic.tolist()}) == 2
    for one, other in zip(alone, together, strict=True):
        assert one.step == other.step and one.images.shape == (4, 3, 12, 20)
        assert one.filled is not None and other.filled is not None
        for name in ("images", "segmentation_maps", "is_synthetic", "filled"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    with pytest.raises(ConfigError, match=r"differ in size, e\.g\. .* set it to short_side"):
        masksyn_arm(project, settings(p_aug=0.0)).read(0)


def test_padding_keeps_its_grey_whatever_happens_to_the_colours(project: ProjectPaths) -> None:
    config = settings(
        resize="scale_jitter", random_scale=(0.5, 0.5), crop_size=16, color_jitter=0.9
    )
    arm = masksyn_arm(project, config)
    for color in ("ssd", "jitter"):
        step = _StepLoss(
            config.model_copy(update={"color": color}), seed=arm.seed, noise_filter=None
        )
        images, maps = step._augment(arm.read(0), torch.device("cpu"))
        assert images.shape == (4, 3, 16, 16) and maps.dtype == torch.int64
        outside = torch.ones(16, 16, dtype=torch.bool)
        outside[:8, :8] = False
        assert (images[:, :, outside] == 128 / 255).all() and (maps[:, outside] == 255).all()
        assert (maps[:, :8, :8] != 255).all()
        plain = arm.read(0).images[:, :, :8, :8] / 255
        assert ((images[:, :, :8, :8] - plain).abs().amax((1, 2, 3)) > 0.01).sum() >= 2
