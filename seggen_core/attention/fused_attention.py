"""Head-averaged attention maps on a GPU in two Triton kernels, without per-head scores in memory.

The first computes log-sum-exp of every row and head, the second recomputes the scores tile by tile
and adds the probabilities of all heads up in registers, so that only the mean is ever written: what
FlashAttention (Dao et al. 2022) does for the output, done for the map. Scores are products of the
inputs in their own type, added up in float32.

Shape legend: B images, h heads, N queries, M keys, d channels of a head.
"""

import os
import shutil
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

# The kernels have long argument lists: a Triton kernel knows no tensors and no objects, and takes
# pointers, sizes and strides one by one.
_LARGEST_HEAD = 128
_ROWS, _KEYS = 64, 64


@cache
def can_compile(device: torch.device) -> bool:
    """Return whether Triton can make kernels for `device`; called at first use.

    It takes an Ampere GPU or a newer one, and a C compiler.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def fits(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Return whether the kernels take these tensors.

    They take half precision on CUDA, at most 128 channels a head, the channels side by side.
    """
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and key.dtype == query.dtype
        and query.shape[-1] <= _LARGEST_HEAD
        and query.stride(-1) == key.stride(-1) == 1
        and can_compile(query.device)
    )


@triton.jit
def _load(
    pointer,
    image,
    head,
    rows,
    limit,
    channels,
    stride_image,
    stride_head,
    stride_row,
    d: tl.constexpr,
):
    """Load [rows, channels] of one image and head; zero outside."""
    base = pointer + image * stride_image + head * stride_head
    inside = (rows[:, None] < limit) & (channels[None, :] < d)
    return tl.load(base + rows[:, None] * stride_row + channels[None, :], mask=inside, other=0.0)


@triton.jit
def _log_sum_exp(
    query,
    key,
    output,
    scale,
    heads,
    n,
    m,
    q_image,
    q_head,
    q_row,
    k_image,
    k_head,
    k_row,
    d: tl.constexpr,
    width: tl.constexpr,
    num_rows: tl.constexpr,
    num_keys: tl.constexpr,
):
    image, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    rows = tl.program_id(0) * num_rows + tl.arange(0, num_rows)
    channels = tl.arange(0, width)
    q = _load(query, image, head, rows, n, channels, q_image, q_head, q_row, d)
    largest = tl.full([num_rows], float("-inf"), tl.float32)
    total = tl.zeros([num_rows], tl.float32)
    for first in range(0, m, num_keys):
        columns = first + tl.arange(0, num_keys)
        k = _load(key, image, head, columns, m, channels, k_image, k_head, k_row, d)
        scores = tl.dot(q, tl.trans(k)) * scale
        scores = tl.where(columns[None, :] < m, scores, float("-inf"))
        above = tl.maximum(largest, tl.max(scores, 1))
        total = total * tl.exp(largest - above) + tl.sum(tl.exp(scores - above[:, None]), 1)
        largest = above
    tl.store(output + tl.program_id(1) * n + rows, largest + tl.log(total), mask=rows < n)


@triton.jit
def _mean_probabilities(
    query,
    key,
    log_sums,
    output,
    scale,
    heads,
    n,
    m,
    q_image,
    q_head,
    q_row,
    k_image,
    k_head,
    k_row,
    d: tl.constexpr,
    width: tl.constexpr,
    num_rows: tl.constexpr,
    num_keys: tl.constexpr,
):
    image = tl.program_id(2)
    rows = tl.program_id(0) * num_rows + tl.arange(0, num_rows)
    columns = tl.program_id(1) * num_keys + tl.arange(0, num_keys)
    channels = tl.arange(0, width)
    mean = tl.zeros([num_rows, num_keys], tl.float32)
    for head in range(heads):
        q = _load(query, image, head, rows, n, channels, q_image, q_head, q_row, d)
        k = _load(key, image, head, columns, m, channels, k_image, k_head, k_row, d)
        scores = tl.dot(q, tl.trans(k)) * scale
        log_sum = tl.load(log_sums + (image * heads + head) * n + rows, mask=rows < n, other=0.0)
        mean += tl.exp(scores - log_sum[:, None])
    place = image.to(tl.int64) * n * m + rows[:, None].to(tl.int64) * m + columns[None, :]
    tl.store(output + place, mean / heads, mask=(rows[:, None] < n) & (columns[None, :] < m))


def fused_mean_attention(query: torch.Tensor, key: torch.Tensor, *, scale: float) -> torch.Tensor:
    """Return softmax(q k^T * scale) averaged over heads, as `capture.mean_attention` does.

    Args:
        query: [B, h, N, d], which `fits`.
        key: [B, h, M, d].
        scale: factor of the scores.

    Returns:
        float32 [B, N, M]; rows sum to 1.
    """
    batch, heads, n, d = query.shape
    m = key.shape[2]
    log_sums = torch.empty(batch, heads, n, dtype=torch.float32, device=query.device)
    mean = torch.empty(batch, n, m, dtype=torch.float32, device=query.device)
    blocks: dict[str, Any] = {
        "d": d,
        "width": max(16, triton.next_power_of_2(d)),
        "num_rows": _ROWS,
        "num_keys": _KEYS,
    }
    sizes = (scale, heads, n, m, *query.stride()[:3], *key.stride()[:3])
    rows = triton.cdiv(n, _ROWS)
    with torch.cuda.device(query.device) if query.is_cuda else nullcontext():
        _log_sum_exp[(rows, batch * heads)](query, key, log_sums, *sizes, **blocks)
        _mean_probabilities[(rows, triton.cdiv(m, _KEYS), batch)](
            query, key, log_sums, mean, *sizes, **blocks
        )
    return mean
