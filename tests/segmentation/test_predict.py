from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from seggen_core.config import MultiScaleConfig
from seggen_core.segmentation.predict import (
    TestProtocol,
    predict_maps,
    predict_store,
    score_store,
)
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter

SIZES = [(30, 40), (30, 40), (40, 20), (16, 48)]
TEST_SIZES = [(15, 20), (15, 20), (30, 15), (10, 30)]
PROTOCOL = TestProtocol(short_side=15, max_side=30)


class Brightness(Segmenter):
    """Scores by brightness and place, so that a mirrored prediction differs."""

    backbone_prefix = ""

    def __init__(self) -> None:
        super().__init__(id2label={0: "dark", 1: "light", 2: "left"})
        self.unused = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, ...]] = []
        self.eval()

    def predict_logits(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(images.shape))
        grey = images.mean(1)
        place = torch.linspace(0.9, 0.1, images.shape[-1]).expand_as(grey)
        return 5 * torch.stack([1 - grey, grey, place], dim=1)

    def loss(self, images: torch.Tensor, *, segmentation_maps: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def image_of(position: int) -> np.ndarray:
    rng = np.random.default_rng(position)
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(SIZES[position][::-1]))


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    with SampleStoreWriter(tmp_path / "store", num_classes=3) as writer:
        for position in range(len(SIZES)):
            image = image_of(position)
            mask = (image.mean(-1) > 128).astype(np.uint8)
            writer.add(Sample(f"s{position}", image, mask, None, {}))
        writer.finish(manifest={})
    return SampleStore(tmp_path / "store")


def literal_scores(
    segmenter: Segmenter, image: np.ndarray, size: tuple[int, int], *, mirrored: bool = False
) -> torch.Tensor:
    """Scores of an image predicted at `size`, at the image's own size."""
    view = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(view.copy()).permute(2, 0, 1)[None].float() / 255
    scores = segmenter.predict_logits(pixels.flip(-1) if mirrored else pixels)
    return scores.flip(-1) if mirrored else scores


def test_samples_of_any_size_are_predicted_at_theirs(store: SampleStore) -> None:
    segmenter = Brightness()
    predictions = list(predict_store(segmenter, store=store, batch_size=3, description="test"))
    assert segmenter.seen == [(2, 3, 30, 40), (1, 3, 40, 20), (1, 3, 16, 48)]
    for position, prediction in enumerate(predictions):
        assert prediction.key == f"s{position}"
        assert prediction.predicted.shape == prediction.truth.shape == SIZES[position]
        alone = predict_maps(segmenter, images=prediction.image[None])[0]
        np.testing.assert_array_equal(prediction.predicted, alone)


def test_scores_of_the_test_size_are_brought_back_to_the_labels(store: SampleStore) -> None:
    segmenter = Brightness()
    predictions = list(
        predict_store(segmenter, store=store, batch_size=2, description="test", protocol=PROTOCOL)
    )
    assert segmenter.seen == [(2, 3, 15, 20), (1, 3, 30, 15), (1, 3, 10, 30)]
    for position, prediction in enumerate(predictions):
        scores = literal_scores(segmenter, image_of(position), TEST_SIZES[position])
        large = F.interpolate(scores, size=SIZES[position], mode="bilinear", align_corners=False)
        np.testing.assert_array_equal(prediction.predicted, large.argmax(1)[0].numpy())
    confusion = score_store(
        segmenter, store=store, batch_size=2, description="test", protocol=PROTOCOL
    )
    assert confusion.sum() == sum(height * width for height, width in SIZES)


def test_several_scales_and_mirrors_are_averaged_at_the_size_of_the_labels() -> None:
    segmenter, image = Brightness(), image_of(0)
    scales = MultiScaleConfig(scales=(0.5, 1.0, 1.75))
    protocol = TestProtocol(15, 30, scales)
    predicted = predict_maps(segmenter, images=image[None], protocol=protocol)[0]
    assert [shape[2:] for shape in segmenter.seen] == [
        size for size in ((7, 9), (15, 20), (26, 35)) for _ in range(2)
    ]
    # As published: the views are made from the image at the test size.
    base = np.asarray(Image.fromarray(image).resize((20, 15), Image.Resampling.BILINEAR))
    total = torch.zeros(1, 3, 30, 40)
    for size in ((7, 9), (15, 20), (26, 35)):
        for mirrored in (False, True):
            scores = literal_scores(segmenter, base, size, mirrored=mirrored).softmax(1)
            total += F.interpolate(scores, size=(30, 40), mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(predicted, total.argmax(1)[0].numpy())
    assert (predicted != predict_maps(segmenter, images=image[None], protocol=PROTOCOL)[0]).any()


def test_the_long_side_of_a_scale_is_limited_in_proportion() -> None:
    protocol = TestProtocol(16, 20, MultiScaleConfig(scales=(1.0, 2.0), flip=False))
    wide = np.zeros((10, 40, 3), np.uint8)
    resized = protocol.resize(wide)
    assert resized.shape == (5, 20, 3)
    assert [view.shape[:2] for view, _ in protocol.views(resized)] == [(10, 40), (10, 40)]
