import copy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from seggen_core.training.state import load_state, save_state


def build(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer, list[torch.Tensor]]:
    """Return a module with a frozen layer, its optimiser and its averaged parameters."""
    torch.manual_seed(seed)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    module[0].requires_grad_(False)
    trainable = [p for p in module.parameters() if p.requires_grad]
    return (
        module,
        torch.optim.AdamW(trainable, lr=0.1),
        [p.detach().clone() for p in module.parameters()],
    )


def step(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    average: list[torch.Tensor],
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    module(torch.randn(5, 3, generator=generator)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        torch._foreach_lerp_(average, list(module.parameters()), 0.1)


def test_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    module, optimizer, average = build(0)
    for i in range(3):
        step(module, optimizer, average, i)
    save_state(tmp_path / "state", step=3, module=module, average=average, optimizer=optimizer)
    # The frozen layer comes from the model that is fine-tuned, not from the state.
    other, other_optimizer, other_average = build(1)
    other[0].load_state_dict(module[0].state_dict())
    other_average[:2] = [v.clone() for v in average[:2]]
    assert (
        load_state(
            tmp_path / "state", module=other, average=other_average, optimizer=other_optimizer
        )
        == 3
    )
    for i in range(3, 6):
        step(module, optimizer, average, i)
        step(other, other_optimizer, other_average, i)
    for one, two in zip(
        [*module.parameters(), *average], [*other.parameters(), *other_average], strict=True
    ):
        assert torch.equal(one, two)


def test_no_state_is_step_zero_and_changes_nothing(tmp_path: Path) -> None:
    module, optimizer, average = build(0)
    before = copy.deepcopy(module.state_dict())
    assert (
        load_state(tmp_path / "nothing", module=module, average=average, optimizer=optimizer) == 0
    )
    assert (
        all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
        and not optimizer.state
    )


def test_the_state_holds_only_what_is_trained_and_no_pickle(tmp_path: Path) -> None:
    module, optimizer, average = build(0)
    step(module, optimizer, average, 0)
    save_state(tmp_path, step=1, module=module, average=average, optimizer=optimizer)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
    with safe_open(tmp_path / "state.safetensors", framework="pt") as stored:
        names = {name.split("|")[1] for name in stored.keys()}  # noqa: SIM118 (not a dict)
        assert names == {"1.weight", "1.bias"} and stored.metadata()["step"] == "1"


def test_without_averages(tmp_path: Path) -> None:
    module, optimizer, _ = build(0)
    step(module, optimizer, [p.detach().clone() for p in module.parameters()], 0)
    save_state(tmp_path, step=1, module=module, average=[], optimizer=optimizer)
    other, other_optimizer, _ = build(1)
    assert load_state(tmp_path, module=other, average=[], optimizer=other_optimizer) == 1
    assert torch.equal(other[1].weight, module[1].weight)


def test_a_torn_write_leaves_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, optimizer, average = build(0)
    save_state(tmp_path, step=1, module=module, average=average, optimizer=optimizer)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    step(module, optimizer, average, 0)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, step=2, module=module, average=average, optimizer=optimizer)
    other, other_optimizer, other_average = build(0)
    assert load_state(tmp_path, module=other, average=other_average, optimizer=other_optimizer) == 1
    assert not torch.equal(other[1].weight, module[1].weight)


def test_the_gradient_scaler_goes_on_too(tmp_path: Path) -> None:
    module, optimizer, average = build(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=3)
    for _ in range(2):
        scaler.scale(module(torch.ones(1, 3)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    save_state(tmp_path, step=2, module=module, average=average, optimizer=optimizer, scaler=scaler)
    again = torch.amp.GradScaler("cpu", growth_interval=3)
    load_state(tmp_path, module=module, average=average, optimizer=optimizer, scaler=again)
    assert again.state_dict() == scaler.state_dict() and again.get_scale() == 512.0
    for one in (scaler, again):
        one.scale(module(torch.ones(1, 3)).sum()).backward()
        one.step(optimizer)
        one.update()
        assert one.get_scale() == 1024.0  # the third step in a row without an overflow
