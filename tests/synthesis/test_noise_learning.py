import torch

from seggen_core.config import NoiseLearningConfig
from seggen_core.synthesis.noise_learning import (
    cross_validated_confidence,
    deal_folds,
    least_confident,
)
from tests.attention.test_diffumask import discs

CONFIG = NoiseLearningConfig(num_folds=3, num_steps=40, batch_size=4, channels=8)


def test_every_pair_is_in_one_fold():
    folds = deal_folds(11, num_folds=3, name=(0, "a"))
    assert sorted(k for fold in folds for k in fold) == list(range(11)) and [
        len(f) for f in folds
    ] == [4, 4, 3]
    assert (
        folds
        == deal_folds(11, num_folds=3, name=(0, "a"))
        != deal_folds(11, num_folds=3, name=(0, "b"))
    )


def test_pairs_with_foreign_masks_are_the_least_confident():
    images, masks = discs(12)
    noisy = masks.clone()
    noisy[[3, 7]] = ~masks[[3, 7]]
    confidence = cross_validated_confidence(images, noisy, config=CONFIG, name=(0, "test"))
    assert confidence.shape == (12,) and ((confidence >= 0) & (confidence <= 1)).all()
    right = [k for k in range(12) if k not in (3, 7)]
    assert confidence[[3, 7]].max() < confidence[right].median()
    again = cross_validated_confidence(images, noisy, config=CONFIG, name=(0, "test"))
    assert torch.equal(confidence, again)


def test_the_share_dropped_is_rounded_down():
    assert least_confident([0.5, 0.1, 0.9], drop_share=0.3) == set()
    assert least_confident([0.5, 0.1, 0.9, 0.2], drop_share=0.5) == {1, 3}
    assert least_confident([0.5] * 4, drop_share=0.5) == {2, 3}
