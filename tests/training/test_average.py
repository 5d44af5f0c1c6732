import pytest
import torch

from seggen_core.training.average import ParameterAverage


def test_the_average_is_the_formula_with_a_growing_decay() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    average = ParameterAverage([parameter], decay=0.5, warmup=4)
    by_hand = parameter.detach().clone()
    for step in range(6):
        with torch.no_grad():
            parameter += 0.3 * (step + 1)
        average.update(step)
        decay = min(0.5, (step + 1) / (step + 4))
        by_hand = decay * by_hand + (1 - decay) * parameter.detach()
    torch.testing.assert_close(average.tensors[0], by_hand)
    assert not torch.equal(parameter, by_hand)
    average.copy_to_parameters()
    assert torch.equal(parameter, average.tensors[0]) and parameter.requires_grad


@pytest.mark.parametrize("decay", [0.0])
def test_no_average_leaves_the_last_weights(decay: float) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    average = ParameterAverage([parameter], decay=decay)
    with torch.no_grad():
        parameter += 1
    average.update(0)
    average.copy_to_parameters()
    assert average.tensors == [] and parameter.tolist() == [2.0, 2.0]
