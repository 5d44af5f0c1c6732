import numpy as np
import pytest
import torch

from seggen_core.attention.affinity_net import (
    AffinityNet,
    neighbour_offsets,
    shifted,
    train_affinity_net,
)
from seggen_core.attention.diffumask import diffumask_masks, match_thresholds
from seggen_core.attention.pamr import MaskRefiner
from seggen_core.config import AffinityNetConfig
from seggen_core.errors import AttentionError, ConfigError

SIZE = 16
CONFIG = AffinityNetConfig(
    feature_size=8, channels=8, radius=3, num_steps=30, batch_size=4, walk_steps=8
)


def discs(count=6, seed=0):
    """Bright discs on dark ground: images uint8 [N, 3, H, W] and masks bool [N, H, W]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    centres = rng.uniform(5, 11, (count, 2))
    masks = np.stack([(y - a) ** 2 + (x - b) ** 2 < 16 for a, b in centres])
    images = np.where(masks[:, None], 210, 40) + rng.integers(-15, 16, (count, 3, SIZE, SIZE))
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8)), torch.from_numpy(masks)


def half_scores(masks):
    """Scores that know only the core of each disc, as cross-attention does."""
    blurred = torch.nn.functional.avg_pool2d(masks[:, None].float(), 7, 1, 3)[:, 0]
    return blurred / blurred.amax((1, 2), keepdim=True)


def literal_match(scores, reference, gamma):
    both = sum(s >= gamma and r for s, r in zip(scores.ravel(), reference.ravel(), strict=True))
    either = sum(s >= gamma or r for s, r in zip(scores.ravel(), reference.ravel(), strict=True))
    return both / either if either else 0.0


def test_thresholds_are_matched_as_a_literal_loop_does():
    rng = np.random.default_rng(0)
    scores, reference = rng.random((3, 6, 6)), rng.random((3, 6, 6)) > 0.6
    reference[2] = False
    match = match_thresholds(
        torch.tensor(scores), torch.tensor(reference), thresholds=(0.2, 0.5, 1.1)
    )
    for b in range(3):
        expected = [literal_match(scores[b], reference[b], g) for g in (0.2, 0.5, 1.1)]
        np.testing.assert_allclose(match[b], expected, rtol=1e-6)
    assert not match[:, 2].any()


def test_each_image_gets_the_threshold_that_fits_it():
    images, masks = discs(2)
    scores = torch.where(masks, 0.8, 0.1)
    scores[1] = torch.where(masks[1], 0.42, 0.1)
    scores[:, 0, 0] = 1.0  # both span [0, 1] after rescaling
    scores[:, 0, 1] = 0.0
    result = diffumask_masks(
        scores,
        refiner=MaskRefiner(images.float() / 255, num_iterations=1, dilations=(1,)),
        thresholds=(0.3, 0.6),
        background_score=0.35,
        affinity_net=None,
        refine=False,
    )
    assert result.threshold.tolist() == pytest.approx([0.3, 0.3])
    assert (result.binary[1] == masks[1]).float().mean() > 0.98
    assert torch.equal(
        result.match, match_thresholds(result.soft, result.reference, thresholds=(0.3, 0.6)).amax(1)
    )


def test_neighbours_are_shifted_and_met_once():
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    moved = shifted(maps, (1, -1))
    for y in range(3):
        for x in range(4):
            inside = y + 1 < 3 and x - 1 >= 0
            assert moved[0, 0, y, x] == (maps[0, 0, y + 1, x - 1] if inside else 0)
    half = neighbour_offsets(3)
    assert len(half) == len(set(half)) and not {(-dy, -dx) for dy, dx in half} & set(half)
    assert {
        (dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if 0 < dy * dy + dx * dx < 9
    } == {*half} | {(-dy, -dx) for dy, dx in half}


def test_the_walk_is_the_literal_random_walk():
    network = AffinityNet(CONFIG, image_size=SIZE)
    images, scores = torch.rand(2, 3, SIZE, SIZE), torch.rand(2, SIZE, SIZE)
    with torch.no_grad():
        features = network.head(network.trunk(images)).double().numpy()
    side, walked = CONFIG.feature_size, network.walk(images, scores)
    for b in range(2):
        weights = np.eye(side * side)
        for i in range(side * side):
            for j in range(side * side):
                (ya, xa), (yb, xb) = divmod(i, side), divmod(j, side)
                if i != j and (ya - yb) ** 2 + (xa - xb) ** 2 < CONFIG.radius**2:
                    difference = np.abs(features[b, :, ya, xa] - features[b, :, yb, xb]).mean()
                    weights[i, j] = np.exp(-difference) ** CONFIG.sharpness
        transition = weights / weights.sum(1, keepdims=True)
        start = scores[b].double().numpy().reshape(side, 2, side, 2).mean((1, 3)).ravel()
        expected = np.linalg.matrix_power(transition, CONFIG.walk_steps) @ start
        small = torch.tensor(expected, dtype=torch.float32).view(1, 1, side, side)
        large = torch.nn.functional.interpolate(small, size=(SIZE, SIZE), mode="bilinear")[0, 0]
        torch.testing.assert_close(walked[b], large, atol=1e-4, rtol=1e-3)


def test_affinities_are_learned_from_certain_pixels_alone():
    images, masks = discs()
    network = train_affinity_net(images, half_scores(masks), config=CONFIG, name=(0, "test"))
    again = train_affinity_net(images, half_scores(masks), config=CONFIG, name=(0, "test"))
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    walked = network.walk(images.float() / 255, half_scores(masks))
    inside = torch.stack([w[m].mean() for w, m in zip(walked, masks, strict=True)])
    outside = torch.stack([w[~m].mean() for w, m in zip(walked, masks, strict=True)])
    untrained = AffinityNet(CONFIG, image_size=SIZE).walk(images.float() / 255, half_scores(masks))
    before = torch.stack(
        [w[m].mean() - w[~m].mean() for w, m in zip(untrained, masks, strict=True)]
    )
    assert (inside - outside).mean() > before.mean()
    # What is not certain doesn't count: a loss over images of such pixels alone is zero.
    loss = network(images.float() / 255, torch.full((len(images), 8, 8), -1.0))
    assert loss == 0


def test_settings_that_do_not_fit_are_named():
    images, masks = discs(2)
    with pytest.raises(AttentionError, match="none of 2 images has a certain foreground"):
        train_affinity_net(images, torch.full((2, 8, 8), 0.5), config=CONFIG, name=(0,))
    with pytest.raises(ConfigError, match="feature_size is 6 and the image 16 pixels"):
        train_affinity_net(
            images,
            half_scores(masks),
            config=CONFIG.model_copy(update={"feature_size": 6}),
            name=(0,),
        )
    with pytest.raises(ValueError, match="must be lower than foreground"):
        AffinityNetConfig(foreground=0.3, background=0.3)
