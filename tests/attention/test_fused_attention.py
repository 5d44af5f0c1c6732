"""The fused kernels under Triton's interpreter, and where there is a GPU, on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seggen_core.attention.mean_attention import mean_attention

pytest.importorskip("triton")

INTERPRETED = """
import torch
from seggen_core.attention.fused_attention import fits, fused_mean_attention
torch.manual_seed(0)
shapes = [(2, 3, 144, 144, 40), (1, 2, 64, 77, 64), (2, 1, 100, 256, 16), (1, 2, 65, 3, 8)]
for batch, heads, queries, keys, channels in shapes:
    # As a processor has them: views of [B, N, h * d].
    query, key = (
        torch.randn(batch, n, heads * channels)
        .half()
        .mul(3)
        .unflatten(-1, (heads, channels))
        .transpose(1, 2)
        for n in (queries, keys)
    )
    scale = channels**-0.5
    plain = (query.float() @ key.float().transpose(-1, -2) * scale).softmax(-1).mean(1)
    fused = fused_mean_attention(query, key, scale=scale)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    assert fused.dtype == torch.float32 and not fits(query, key)  # not on CUDA
"""


def test_the_kernels_compute_the_plain_formula() -> None:
    # The interpreter is chosen when the kernels are defined.
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    subprocess.run([sys.executable, "-c", INTERPRETED], check=True, env=environment)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(2, 5, 1024, 1024, 64), (1, 10, 1024, 1024, 160), (3, 4, 256, 77, 64)]
)
def test_maps_on_a_gpu_are_those_of_a_cpu(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    batch, heads, queries, keys, channels = shape
    query, key = (
        torch.randn(batch, n, heads, channels).to(dtype).transpose(1, 2) for n in (queries, keys)
    )
    arguments = {"scale": channels**-0.5, "byte_budget": 10_000_000}
    expected = mean_attention(query, key, **arguments)
    actual = mean_attention(query.cuda(), key.cuda(), **arguments)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-6)
