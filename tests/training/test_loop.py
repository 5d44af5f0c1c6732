import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from seggen_core.errors import ConfigError
from tests.training.toy import NUM_STEPS, Toy, mean_square, read, run_toy, toy_training


def by_hand(num_steps: int, *, decay: float = 0.9) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Train a toy with plain torch."""
    module, losses = Toy(), []
    training = toy_training(module)
    trained = [p for p in module.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in trained]
    for step in range(num_steps):
        for group in training.optimizer.param_groups:
            group["lr"] = training.learning_rate(step)
        loss = mean_square(module, read(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        training.optimizer.step()
        training.optimizer.zero_grad()
        losses.append(loss.item())
        weight = 1 - min(decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(average, [p.detach() for p in trained], weight)
    with torch.no_grad():
        for parameter, mean in zip(trained, average, strict=True):
            parameter.copy_(mean)
    return module.state_dict(), losses


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_it_computes_what_a_loop_by_hand_computes() -> None:
    weights, reports, first = run_toy(None)
    expected, losses = by_hand(NUM_STEPS)
    assert first == 0 and [step for step, _ in reports] == list(range(1, NUM_STEPS + 1))
    assert [values["loss"] for _, values in reports] == losses
    rate = toy_training(Toy()).learning_rate
    assert [v["learning_rate"] for _, v in reports] == [rate(step) for step in range(NUM_STEPS)]
    assert_same(weights, expected)
    assert not torch.equal(weights["layers.0.weight"], Toy().state_dict()["layers.0.weight"])


def test_attention_is_trained_without_cudnn_and_used_as_before() -> None:
    seen: list[bool] = []

    def loss(module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return mean_square(module, images)

    before = torch.backends.cuda.cudnn_sdp_enabled()
    run_toy(None, loss=loss)
    assert not any(seen) and len(seen) == NUM_STEPS
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ema_decay", [0.9, 0.0])
@pytest.mark.parametrize("kill_after", [1, 5, 6])
def test_a_killed_run_ends_in_the_same_bytes(
    tmp_path: Path, dtype: torch.dtype, ema_decay: float, kill_after: int
) -> None:
    settings = {"dtype": dtype, "ema_decay": ema_decay}
    whole, reports, _ = run_toy(tmp_path / "whole", settings=settings)
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path / "killed", settings=settings, kill_after=kill_after)
    resumed, last, first = run_toy(tmp_path / "killed", settings=settings)
    # A kill in step 6's report comes before its state is saved.
    assert first == {1: 0, 5: 4, 6: 4}[kill_after] and last == reports[first:]
    assert_same(resumed, whole)


def test_losses_before_a_resumption_are_reported_again_where_they_are_wanted(
    tmp_path: Path,
) -> None:
    _, whole, _ = run_toy(None)
    with pytest.raises(KeyboardInterrupt):
        run_toy(tmp_path, kill_after=5)
    _, reports, first = run_toy(tmp_path, settings={"replay_losses": True})
    assert first == 4 and reports == whole


def test_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    whole, _, _ = run_toy(tmp_path)
    again, reports, first = run_toy(tmp_path)
    assert first == NUM_STEPS and reports == []
    assert_same(again, whole)


def test_the_module_is_left_in_evaluation_mode_and_trained_in_training_mode() -> None:
    module, modes = Toy(), []

    def loss(prepared: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        modes.append(prepared.training)
        return mean_square(prepared, images)

    run_toy(None, module=module.eval(), loss=loss, optimizer=toy_training(module).optimizer)
    assert modes == [True] * NUM_STEPS and not module.training


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_step_adds_up_the_gradients_of_its_batches(tmp_path: Path, accumulation: int) -> None:
    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * x

    def trained(accumulation: int, batches: Any, folder: Path) -> tuple[torch.Tensor, list]:
        module = Linear()
        _, reports, _ = run_toy(
            folder,
            module=module,
            optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
            read=batches,
            loss=lambda prepared, x: prepared(x).square().mean(),
            accumulation=accumulation,
            settings={"num_steps": 4, "ema_decay": 0.0, "max_grad_norm": None},
        )
        return module.weight.detach(), reports

    def read_one(item: int) -> torch.Tensor:
        return torch.tensor([[0.1 * (item + 1), 0.2 * item]])

    def read_all(step: int) -> torch.Tensor:
        numbers = range(step * accumulation, (step + 1) * accumulation)
        return torch.cat([read_one(item) for item in numbers])

    added, reports = trained(accumulation, read_one, tmp_path / "added")
    at_once, expected = trained(1, read_all, tmp_path / "at once")
    torch.testing.assert_close(added, at_once)
    assert [s for s, _ in reports] == [1, 2, 3, 4]
    assert [v["loss"] for _, v in reports] == pytest.approx([v["loss"] for _, v in expected])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training_and_its_reader(value: float) -> None:
    threads = threading.active_count()

    def loss(module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        return mean_square(module, images) * value

    with pytest.raises(
        ConfigError, match=rf"toy: the loss is {value} at step 0; lower learning_rate \(.* 0\.005 "
    ):
        run_toy(None, loss=loss, error=ConfigError)
    assert threading.active_count() == threads


def test_an_error_of_the_reader_ends_the_training(tmp_path: Path) -> None:
    def broken(step: int) -> torch.Tensor:
        if step == 3:
            raise OSError("a shard is gone")
        return read(step)

    with pytest.raises(OSError, match="a shard is gone"):
        run_toy(tmp_path, read=broken)
    whole, _, _ = run_toy(None)
    resumed, _, first = run_toy(tmp_path)
    assert first == 2
    assert_same(resumed, whole)


def test_groups_learn_at_their_share_of_the_rate() -> None:
    module = Toy()
    groups = [
        {"params": module.layers[0].parameters(), "lr": 0.0},
        {"params": [*module.layers[1].parameters(), *module.layers[2].parameters()]},
    ]
    run_toy(None, module=module, optimizer=torch.optim.AdamW(groups, lr=1.0))
    start = Toy().state_dict()
    assert torch.equal(module.layers[0].weight, start["layers.0.weight"])
    assert not torch.equal(module.layers[2].weight, start["layers.2.weight"])


def test_importing_the_loop_imports_neither_accelerate_nor_diffusers() -> None:
    code = (
        "import sys, seggen_core.training.loop; "
        "assert not {'accelerate', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
