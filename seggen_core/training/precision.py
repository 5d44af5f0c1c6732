"""The number format that networks compute in, and the kernels that training does without."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of network calls.

    "auto" is bfloat16 where the device computes it natively; else float16 on a GPU, float32 on a
    CPU.
    """
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if precision == "fp16":
        return torch.float16
    if device.type == "cuda":
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    return (
        torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16", False) else torch.float32
    )


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the autocast context for network calls in `dtype` (disabled for float32)."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@contextmanager
def no_cudnn_attention() -> Iterator[None]:
    """Let attention be computed by torch's other kernels.

    In a backward pass on an H100, cuDNN's kernel makes gradients of attention NaN where a query's
    scores are all far below zero and its keys fill half a tile (PyTorch issue 196678, since 2.11).
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
