"""Attention averaged over heads, within a budget of memory.

Shape legend: B images; h heads; N queries; M keys; d channels of a head.
"""

from types import ModuleType

import torch

CPU_BYTE_BUDGET, GPU_BYTE_BUDGET = 8 * 2**20, 256 * 2**20
"""Most bytes of per-head attention held at a time; one query row of one head is the least.

On a CPU it is what a processor's cache holds. On a GPU it is enough for a few kernels to do the
work of thousands, whose launches would take longer than the network.
"""

_FUSED_SIZE = 512 * 512
"""Entries of a map from which on its bytes cost more than the launches of kernels."""


def mean_attention(
    query: torch.Tensor, key: torch.Tensor, *, scale: float, byte_budget: int
) -> torch.Tensor:
    """Return attention averaged over heads: softmax(q k^T * scale), SeeDiff equations 3 and 4.

    Computed in float32 whatever the input's type (half-precision scores of SD 2 overflow), one
    slice of query rows at a time, so that at most `byte_budget` bytes of per-head scores and
    probabilities exist. On a CPU, one head at a time too, which keeps them in cache; on a GPU, as
    many as the budget holds. Large maps in half precision on CUDA take `fused_attention`, which
    holds none of them.

    Args:
        query: [B, h, N, d].
        key: [B, h, M, d].
        scale: factor of the scores, 1 / sqrt(d) in Stable Diffusion.
        byte_budget: see above.

    Returns:
        float32 [B, N, M]; rows sum to 1.
    """
    batch, heads, num_queries, _ = query.shape
    num_keys = key.shape[2]
    if fused := fused_kernels(query, key):
        return fused.fused_mean_attention(query, key, scale=scale)
    row_bytes = 2 * 4 * batch * num_keys
    together = 1 if query.device.type == "cpu" else max(1, min(heads, byte_budget // row_bytes))
    rows = max(1, min(num_queries, byte_budget // (row_bytes * together)))
    mean = torch.zeros(batch, num_queries, num_keys, dtype=torch.float32, device=query.device)
    key = key.float().transpose(-1, -2)
    for start in range(0, num_queries, rows):
        part = slice(start, start + rows)
        for head in range(0, heads, together):
            group = slice(head, head + together)
            probabilities = ((query[:, group, part].float() * scale) @ key[:, group]).softmax(
                dim=-1
            )
            mean[:, part] += probabilities[:, 0] if together == 1 else probabilities.sum(dim=1)
    mean /= heads
    return mean


def fused_kernels(query: torch.Tensor, key: torch.Tensor) -> ModuleType | None:
    """Return the module of fused kernels where it takes such maps and they are large enough.

    Args:
        query: [B, h, N, d].
        key: [B, h, M, d].
    """
    if not query.is_cuda or query.shape[2] * key.shape[2] < _FUSED_SIZE:
        return None
    try:
        from seggen_core.attention import fused_attention
    except ImportError:  # torch came without Triton
        return None
    return fused_attention if fused_attention.fits(query, key) else None
