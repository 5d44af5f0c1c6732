from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import torch

from seggen_core.config import VariantConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation import arm_training
from seggen_core.segmentation.noise_filter import NoiseFilter, mean_class_losses, pixel_losses
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.stages import train_seg
from seggen_core.taxonomy import IGNORE_INDEX
from tests.segmentation.test_stages import PLAIN, REAL, REPLACE, settings


class Channels(Segmenter):
    """Scores of class c: channel c of the image, times ten."""

    backbone_prefix = ""

    def __init__(self, id2label: Mapping[int, str]) -> None:
        super().__init__(id2label=id2label)
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def predict_logits(self, images: torch.Tensor) -> torch.Tensor:
        return 10 * images

    def loss(self, images: torch.Tensor, *, segmentation_maps: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def save(self, folder: object) -> None:
        raise NotImplementedError


class Pool:
    """Pairs by key."""

    def __init__(self, images: dict[str, np.ndarray], masks: dict[str, np.ndarray]) -> None:
        self._images, self._masks = images, masks

    def read_real(self, keys: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(self._images[k], self._masks[k]) for k in keys]


@pytest.fixture
def segmenter() -> Segmenter:
    return Channels({0: "red", 1: "green", 2: "blue"}).eval()


def draw(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 3, (count, 4, 5)).astype(np.uint8)
    masks[rng.random(masks.shape) < 0.2] = IGNORE_INDEX
    return rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8), masks


def cross_entropy(image: np.ndarray, label: int) -> float:
    scores = image.astype(float) / 25.5
    return float(np.log(np.exp(scores).sum()) - scores[label])


def test_mean_losses_are_those_of_a_loop_over_pixels(segmenter: Segmenter) -> None:
    images, masks = draw(0, 5)
    masks[masks == 2] = IGNORE_INDEX  # no real sample shows the third class
    keys = [f"k{i}" for i in range(5)]
    pool = Pool(dict(zip(keys, images, strict=True)), dict(zip(keys, masks, strict=True)))
    mean_losses = mean_class_losses(segmenter, pool=pool, keys=keys, batch_size=2)  # type: ignore[arg-type]
    pixels = [(images[i, y, x], masks[i, y, x]) for i, y, x in np.ndindex(masks.shape)]
    expected = [np.mean([cross_entropy(p, c) for p, label in pixels if label == c]) for c in (0, 1)]
    np.testing.assert_allclose(mean_losses[:2], expected, rtol=1e-5)
    assert mean_losses.dtype == torch.float32 and mean_losses[2] == torch.inf


@pytest.mark.parametrize("tolerance", [0.5, 1.25, 100.0])
def test_what_exceeds_the_tolerance_is_ignored_in_synthetic_pairs_alone(
    segmenter: Segmenter, tolerance: float
) -> None:
    images, masks = draw(1, 4)
    limits = torch.tensor([0.5, 3.0, torch.inf])
    keep = NoiseFilter(segmenter, class_losses=limits, tolerance=tolerance)
    maps = torch.from_numpy(masks).long()
    before = maps.clone()
    synthetic = torch.tensor([True, False, True, False])
    filtered = keep(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, maps, synthetic=synthetic)
    assert torch.equal(maps, before)
    ignored = 0
    for i, y, x in np.ndindex(masks.shape):
        label = int(masks[i, y, x])
        wrong = (
            label < 2
            and bool(synthetic[i])
            and cross_entropy(images[i, y, x], label) > tolerance * float(limits[label])
        )
        assert filtered[i, y, x] == (IGNORE_INDEX if wrong else label)
        ignored += wrong
    assert keep.num_ignored == ignored and keep.num_pixels == (masks[[0, 2]] != IGNORE_INDEX).sum()


def test_a_batch_of_real_samples_stays_as_it_is(segmenter: Segmenter) -> None:
    images, masks = draw(2, 2)
    keep = NoiseFilter(segmenter, class_losses=torch.zeros(3), tolerance=1.0)
    maps = torch.from_numpy(masks).long()
    filtered = keep(
        torch.from_numpy(images).permute(0, 3, 1, 2) / 255,
        maps,
        synthetic=torch.zeros(2, dtype=torch.bool),
    )
    assert torch.equal(filtered, maps) and keep.num_pixels == 0


def test_ignored_pixels_have_no_loss(segmenter: Segmenter) -> None:
    images = torch.rand(1, 3, 2, 2)
    assert not pixel_losses(
        segmenter, images, segmentation_maps=torch.full((1, 2, 2), IGNORE_INDEX)
    ).any()


def test_an_arm_with_a_filter_ignores_nothing_or_everything(project: ProjectPaths) -> None:
    reads = ["data/synthetic/masksyn", "data/synthetic/imgsyn"]
    arms = {
        "plain": REPLACE | {"reads": reads},
        "lenient": REPLACE | {"reads": reads, "noise_filter": {"tolerance": 1e9}},
        "strict": REPLACE | {"reads": reads, "noise_filter": {"tolerance": 1e-9}},
    }
    losses = {}
    for arm in arms:
        train_seg.run(
            settings(variants=arms, ablation={"baseline": "plain"}), paths=project, item=arm
        )
        losses[arm] = pd.read_csv(project.checkpoint(arm) / "history.csv")["loss"].tolist()
    assert losses["lenient"] == losses["plain"] != losses["strict"]
    assert not list((project.scratch / "train_seg").iterdir())


def test_an_arm_with_a_filter_that_was_killed_goes_on_to_the_same_weights(
    project: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = ["data/synthetic/masksyn", "data/synthetic/imgsyn"]
    config = settings(
        variants={"arm": REPLACE | {"reads": reads, "noise_filter": {"tolerance": 1.0}}},
        ablation={"baseline": "arm"},
    )
    train_seg.run(config, paths=project, item="arm")
    whole = {p.name: p.read_bytes() for p in project.checkpoint("arm").rglob("*") if p.is_file()}
    calls: list[bool] = []
    real_training = arm_training.train_segmenter

    def dies_in_the_first_filtered_one(*args: object, on_step: object, **kwargs: object) -> int:
        calls.append(kwargs["noise_filter"] is not None)

        def report(step: int, values: dict[str, float]) -> None:
            on_step(step, values)  # type: ignore[operator]
            if calls == [False, True] and step == 5:
                raise KeyboardInterrupt

        return real_training(*args, on_step=report, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(arm_training, "train_segmenter", dies_in_the_first_filtered_one)
    for _ in range(2):
        if calls:
            train_seg.run(config, paths=project, item="arm")
        else:
            with pytest.raises(KeyboardInterrupt):
                train_seg.run(config, paths=project, item="arm")
    assert {
        p.name: p.read_bytes() for p in project.checkpoint("arm").rglob("*") if p.is_file()
    } == whole


@pytest.mark.parametrize(
    "changes",
    [
        PLAIN | {"real": "none", "reads": ("data/synthetic/masksyn", REAL)},
        PLAIN | {"reads": (REAL, REAL)},
    ],
)
def test_a_filter_needs_real_and_synthetic_samples(changes: dict) -> None:
    with pytest.raises(ValueError, match="noise_filter"):
        VariantConfig.model_validate(changes | {"noise_filter": {}})
