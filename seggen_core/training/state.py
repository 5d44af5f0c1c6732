"""The state of an unfinished training, as safetensors files from which an interrupted run goes on.

A folder of states holds the two newest, `state-<steps done>-<digest>.safetensors`. A file is
written beside its place, synced to disk and renamed, so a kill at any point leaves the state before
it. The digest is that of the file's bytes: a file that was cut or changed is recognised, put aside
as `*.damaged`, and the state before it is used.

Tensors of a file: "model|<name>" for trained parameters and buffers, "average|<name>" for averaged
parameters, "optimizer|<name>|<key>" for moments, and "losses", float64, of every step so far.
"""

import contextlib
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from seggen_core.errors import StorageError
from seggen_core.project.digests import file_sha256
from seggen_core.store.files import sync_folder
from seggen_core.training.average import ParameterAverage

_FILE = re.compile(r"state-(\d+)-([0-9a-f]{16})\.safetensors")
_NUM_STATES = 2
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainingState:
    """What changes while a training runs, other than the step.

    Attributes:
        module: its trained parameters and its persistent buffers are saved. Frozen parameters are
            not: they come from where the training starts.
        optimizer: of the trained parameters.
        average: of the trained parameters.
        scaler: the gradient scaler; one that is disabled holds nothing.
    """

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: ParameterAverage
    scaler: torch.amp.GradScaler

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors by the names that they have in a file, not copied."""
        trained = self._trained()
        tensors = {f"model|{name}": value.detach() for name, value in self._buffers().items()}
        for position, (name, parameter) in enumerate(trained.items()):
            tensors[f"model|{name}"] = parameter.detach()
            if self.average.tensors:
                tensors[f"average|{name}"] = self.average.tensors[position]
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer|{name}|{key}"] = torch.as_tensor(value)
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], *, scaler: dict[str, float]) -> None:
        """Take over what `tensors` and the scaler's state dict hold.

        Raises:
            ValueError: they are of another training; nothing is changed then.
        """
        if self.scaler.is_enabled() and not scaler:
            raise ValueError("it holds no gradient scaler")
        trained, targets = self._trained(), dict(self._buffers())
        targets |= trained
        expected = {f"model|{name}": value for name, value in targets.items()}
        if self.average.tensors:
            averages = zip(trained, self.average.tensors, strict=True)
            expected |= {f"average|{name}": value for name, value in averages}
        moments: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer|"):
                _, parameter, key = name.split("|")
                moments.setdefault(parameter, {})[key] = value
        _check_names(set(tensors) - {"losses"}, expected=set(expected), moments=moments)
        for name, target in expected.items():
            _check_shape(name, tensors[name], like=target)
        for name, values in moments.items():
            for key, value in values.items():
                if value.ndim:
                    _check_shape(f"optimizer|{name}|{key}", value, like=trained[name])

        for name, target in expected.items():
            target.copy_(tensors[name])
        self._restore_moments({name: moments.get(name, {}) for name in trained})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler)

    def _restore_moments(self, moments: dict[str, dict[str, torch.Tensor]]) -> None:
        names = {id(parameter): name for name, parameter in self._trained().items()}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        # Moments take the memory layout of their parameter (channels last), as in a run that wasn't
        # interrupted. The optimiser itself moves them to the device.
        state = {
            position: {
                key: torch.empty_like(parameter).copy_(value) if value.ndim else value
                for key, value in moments[names[id(parameter)]].items()
            }
            for position, parameter in enumerate(parameters)
            if moments[names[id(parameter)]]
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    def _buffers(self) -> dict[str, torch.Tensor]:
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        return {n: v for n, v in self.module.state_dict().items() if n not in parameters}


def _check_names(
    names: set[str], *, expected: set[str], moments: dict[str, dict[str, torch.Tensor]]
) -> None:
    others = {name for name in names if not name.startswith("optimizer|")}
    known = {name.removeprefix("model|") for name in expected}
    if wrong := sorted((others ^ expected) | (set(moments) - known)):
        raise ValueError(f"it holds other tensors than this training has, e.g. {wrong[0]}")


def _check_shape(name: str, tensor: torch.Tensor, *, like: torch.Tensor) -> None:
    if tensor.shape != like.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {tuple(like.shape)}")


def save_state(folder: Path, state: TrainingState, *, step: int, losses: list[float]) -> None:
    """Write the state after `step` steps to `folder`, whole or not at all, and keep the two newest.

    Raises:
        StorageError: the disk is full or not writable; the states before are intact.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = state.tensors() | {"losses": torch.tensor(losses, dtype=torch.float64)}
    partial = folder / "state.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Only what isn't in one piece on the CPU is copied.
        save_file(
            {name: value.to("cpu").contiguous() for name, value in tensors.items()},
            partial,
            metadata={"step": str(step), "scaler": json.dumps(state.scaler.state_dict())},
        )
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        partial.replace(folder / f"state-{step:08d}-{_digest(partial)}.safetensors")
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StorageError(
            f"can't save the state of the training in {folder}: {error}. Free some space or make "
            "the folder writable, then run the same command again: it goes on from the last state"
        ) from error
    for old in _states(folder)[_NUM_STATES:]:
        old.unlink()


def load_state(folder: Path, state: TrainingState) -> list[float]:
    """Restore the newest sound state of `folder` in place; return the loss of every step so far.

    A damaged file is put aside, with a warning, and the state before it is restored. Where none is
    left, `state` stays as it is and there are no losses.
    """
    from safetensors import SafetensorError, safe_open

    for file in _states(folder):
        try:
            if _digest(file) != file.stem.rpartition("-")[2]:
                raise ValueError("its bytes have changed since it was written")
            with safe_open(file, framework="pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
                scaler = json.loads(stored.metadata()["scaler"])
            state.restore(tensors, scaler=scaler)
            return tensors["losses"].tolist()
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            with contextlib.suppress(OSError):
                file.replace(file.with_name(f"{file.name}.damaged"))
            logger.warning(
                "the training state %s can't be used: %s. It is put aside as %s.damaged; the "
                "training goes on from the state before it, or from the start",
                file,
                error,
                file.name,
            )
    return []


def _digest(file: Path) -> str:
    return file_sha256(file)[:16]


def _states(folder: Path) -> list[Path]:
    """Return the states of `folder`, the newest first."""
    files = [path for path in folder.glob("state-*") if _FILE.fullmatch(path.name)]
    return sorted(files, key=lambda path: int(path.name.split("-")[1]), reverse=True)
