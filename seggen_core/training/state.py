"""State of an interrupted training, as safetensors: parameters, averaged parameters, optimiser moments and the step."""

import json
from pathlib import Path

import torch


def save_state(
    folder: Path,
    *,
    step: int,
    module: torch.nn.Module,
    average: list[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write the state after `step` steps to `folder`/state.safetensors, whole or not at all.

    `average` holds one tensor per entry of ``module.parameters()``, in that order; it may be empty.
    `scaler` is the gradient scaler of a float16 training.
    """
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for position, (name, parameter) in enumerate(module.named_parameters()):
        if parameter.requires_grad:
            tensors[f"model|{name}"] = parameter.detach()
            if average:
                tensors[f"average|{name}"] = average[position]
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer|{name}|{key}"] = torch.as_tensor(value)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "state.partial"
    metadata = {"step": str(step), "scaler": json.dumps(scaler.state_dict() if scaler else {})}
    save_file(
        {k: v.to("cpu").contiguous().clone() for k, v in tensors.items()},
        partial,
        metadata=metadata,
    )
    partial.replace(folder / "state.safetensors")


def load_state(
    folder: Path,
    *,
    module: torch.nn.Module,
    average: list[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
) -> int:
    """Restore what `save_state` wrote, in place, and return its step; 0 where there is none."""
    from safetensors import safe_open

    file = folder / "state.safetensors"
    if not file.exists():
        return 0
    with safe_open(file, framework="pt") as stored, torch.no_grad():
        names = set(stored.keys())
        for position, (name, parameter) in enumerate(module.named_parameters()):
            if not parameter.requires_grad:
                continue
            parameter.copy_(stored.get_tensor(f"model|{name}"))
            if average:
                average[position].copy_(stored.get_tensor(f"average|{name}"))
            prefix = f"optimizer|{name}|"
            moments = {
                key.removeprefix(prefix): stored.get_tensor(key)
                for key in names
                if key.startswith(prefix)
            }
            if moments:
                optimizer.state[parameter] = {
                    k: v if k == "step" else v.to(parameter.device)
                    for k, v in sorted(moments.items())
                }
        if scaler and scaler.is_enabled():
            scaler.load_state_dict(json.loads(stored.metadata()["scaler"]))
        return int(stored.metadata()["step"])
