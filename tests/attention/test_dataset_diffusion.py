import numpy as np
import pytest
import torch

from seggen_core.attention.dataset_diffusion import dataset_diffusion_masks, propagate
from seggen_core.attention.pamr import MaskRefiner


def random_maps(seed=0, batch=3, side=4, fine=4):
    rng = np.random.default_rng(seed)
    self_map = rng.random((batch, fine**2, fine**2)) ** 3
    return torch.tensor(rng.random((batch, side, side)), dtype=torch.float32), torch.tensor(
        self_map, dtype=torch.float32
    )


def test_a_power_of_self_attention_is_the_literal_matrix_power():
    cross, self_map = random_maps()
    for b in range(3):
        expected = (
            np.linalg.matrix_power(self_map[b].double().numpy(), 4)
            @ cross[b].flatten().double().numpy()
        )
        np.testing.assert_allclose(
            propagate(cross, self_map, power=4)[b].flatten(), expected, rtol=1e-5
        )
    assert torch.equal(propagate(cross, self_map, power=0), cross)


def test_the_scale_of_self_attention_does_not_matter():
    cross, self_map = random_maps(fine=8)
    stochastic = self_map / self_map.sum(2, keepdim=True)
    settings = {"image_size": 16, "power": 4, "threshold": 0.6, "uncertainty_threshold": 0.5}
    once = dataset_diffusion_masks(cross, stochastic, **settings)
    scaled = dataset_diffusion_masks(cross, stochastic * 0.01, **settings)
    torch.testing.assert_close(once.soft, scaled.soft, atol=2e-3, rtol=1e-3)


def test_two_thresholds_leave_an_uncertain_rim():
    cross, self_map = random_maps()
    result = dataset_diffusion_masks(
        cross, self_map, image_size=16, power=1, threshold=0.6, uncertainty_threshold=0.5
    )
    assert torch.equal(result.binary, result.soft >= 0.6)
    assert (
        torch.equal(result.uncertain, (result.soft >= 0.5) & (result.soft < 0.6))
        and result.uncertain.any()
    )
    plain = dataset_diffusion_masks(
        cross, self_map, image_size=16, power=1, threshold=0.6, uncertainty_threshold=None
    )
    assert torch.equal(plain.binary, result.binary) and not plain.uncertain.any()


@pytest.mark.parametrize("what", ["cross", "self"])
def test_attention_that_is_flat_or_not_finite_is_rejected_alone(what):
    cross, self_map = random_maps()
    expected = dataset_diffusion_masks(
        cross, self_map, image_size=8, power=2, threshold=0.6, uncertainty_threshold=None
    )
    (cross if what == "cross" else self_map)[1, 0, 0] = float("nan")
    cross[2] = 0.3
    refiner = MaskRefiner(torch.rand(3, 3, 8, 8), num_iterations=1, dilations=(1,))
    result = dataset_diffusion_masks(
        cross,
        self_map,
        image_size=8,
        power=2,
        threshold=0.6,
        uncertainty_threshold=None,
        refiner=refiner,
    )
    assert (
        result.status == ("accepted", "not_finite_attention", "no_seeds")
        and expected.status == ("accepted",) * 3
    )
    assert not result.binary[1:].any() and result.soft.isfinite().all()
