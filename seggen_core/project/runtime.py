"""Chooses the device and limits the threads."""

from typing import TYPE_CHECKING

from seggen_core.config import RuntimeConfig
from seggen_core.errors import ConfigError
from seggen_core.project.gpus import use_one_gpu

if TYPE_CHECKING:
    import torch


def pick_device(config: RuntimeConfig) -> "torch.device":
    """Return the device that `config` asks for.

    On a machine with several GPUs the process takes one of them (`gpus.use_one_gpu`), and "cuda" is
    this one.

    Raises:
        ConfigError: it asks for "cuda", but torch sees no CUDA device.
        StorageError: several GPUs, and no lock file can be made.
    """
    import torch

    if config.device != "cpu":
        use_one_gpu()
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.device is cuda, but torch sees no CUDA device; set it to auto or cpu"
        )
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def limit_threads(config: RuntimeConfig) -> None:
    """Give this process `num_threads` CPU threads."""
    import torch

    torch.set_num_threads(config.num_threads)
