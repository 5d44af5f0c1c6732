"""What capturing attention costs, at the size of Stable Diffusion 2-base, against not capturing and against storing every map.

    python benchmarks/attention_overhead.py                  # random weights, 512x512, two denoising steps
    python benchmarks/attention_overhead.py --small          # a UNet of 1/64 of the parameters, to try the script

The UNet is called as a pipeline does under classifier-free guidance (two rows an image), three times over:
  plain     scaled_dot_product_attention, nothing recorded
  capture   the same, with `capture_attention` beside it
  store     explicit softmax in every layer; the conditional row's maps of all heads, layers and steps are kept and averaged at
            the end, as attention stores do
Goals: capture takes at most 1.3 times plain and 0.6 times store; its extra memory at its peak is at most a tenth of store's.
"""

import argparse
import gc
import math
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seggen_core.attention.capture import capture_attention

SD2_BASE: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
"""stabilityai/stable-diffusion-2-base, unet/config.json."""
SMALL = SD2_BASE | {"block_out_channels": (40, 80, 160, 160), "norm_num_groups": 8, "attention_head_dim": (1, 2, 4, 4)}
TEXT_LENGTH = 77
CLASS_TOKENS = [[(5,)]]


class StoringProcessor:
    """Explicit attention that keeps every map: the implementation to be better than."""

    def __init__(self, kept: list[torch.Tensor]) -> None:
        self.kept = kept

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **_: Any
    ) -> Any:
        """Return the layer's output [R, N, C]; keep softmax of the conditional rows, [h, N, M]."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(projection(x))
            for projection, x in ((attn.to_q, hidden_states), (attn.to_k, source), (attn.to_v, source))
        )
        probabilities = (torch.bmm(query, key.transpose(1, 2)) * attn.scale).softmax(dim=-1)
        self.kept.append(probabilities.chunk(2)[1].clone())
        output = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](output))


def average_by_shape(kept: list[torch.Tensor]) -> dict[tuple[int, ...], torch.Tensor]:
    """Return the mean over heads, layers and steps of all maps of one shape, each divided by its maximum (equation 5)."""
    groups: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for maps in kept:
        groups.setdefault(tuple(maps.shape[1:]), []).append(maps.mean(0) / maps.mean(0).amax())
    return {shape: torch.stack(maps).mean(0) for shape, maps in groups.items()}


class MemoryPeak:
    """Largest resident memory (CPU) or allocated memory (CUDA) within the context, in MiB above that at its beginning."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.peak = device, 0.0

    def __enter__(self) -> "MemoryPeak":
        """Begin to watch."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated() / 2**20
            return self
        self.start = _resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, _resident() - self.start)

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated() / 2**20 - self.start
            return
        self._done.set()
        self._thread.join()


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    """Run the three and print them side by side."""
    from diffusers import UNet2DConditionModel

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SMALL if arguments.small else SD2_BASE)
    unet = unet.to_empty(device=device).eval().requires_grad_(False)
    for parameter in unet.parameters():
        # What matters is that activations stay finite; times don't depend on the values.
        torch.nn.init.normal_(parameter, std=0.5 / math.sqrt(max(parameter[0].numel(), 1)) if parameter.ndim > 1 else 0.02)
    latents = torch.randn(2, 4, 64, 64, device=device)
    text = torch.randn(2, TEXT_LENGTH, unet.config.cross_attention_dim, device=device)

    def denoise() -> torch.Tensor:
        for step in range(arguments.steps):
            output = unet(latents, 900 - step, text).sample
        return output

    def plain() -> torch.Tensor:
        return denoise()

    def capture() -> torch.Tensor:
        with capture_attention(unet, class_tokens=CLASS_TOKENS) as recorder:
            output = denoise()
        for r in recorder.self_resolutions:
            recorder.cross_map(r)
            recorder.self_map(r)
        return output

    def store() -> torch.Tensor:
        kept: list[torch.Tensor] = []
        own = unet.attn_processors
        unet.set_attn_processor(StoringProcessor(kept))
        output = denoise()
        average_by_shape(kept)
        unet.set_attn_processor(own)
        return output

    def measure(run: Callable[[], torch.Tensor]) -> tuple[float, float, float, torch.Tensor]:
        with MemoryPeak(device) as memory, torch.no_grad():
            wall, cpu = time.perf_counter(), time.process_time()
            output = run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return wall, cpu, memory.peak, output

    with torch.no_grad():
        unet(latents[..., :16, :16], 999, text)  # the kernels are warm
    results = {run.__name__: measure(run) for run in (plain, capture, store)}
    base = results["plain"]
    number = sum(p.numel() for p in unet.parameters())
    print(
        f"{number / 1e6:.0f} M parameters, {arguments.steps} steps, {device}, {arguments.threads} threads, {platform.machine()}\n"
    )
    # On a CPU that others use too, time on the processor says more than time on the wall.
    print("| | wall s | CPU s | times plain | peak MiB | extra MiB | largest difference to plain |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    clock = 0 if device.type == "cuda" else 1
    for name, result in results.items():
        wall, cpu, peak, output = result
        difference = (output - base[3]).abs().max().item()
        ratio, extra = result[clock] / base[clock], peak - base[2]
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {ratio:.2f} | {peak:.0f} | {extra:.0f} | {difference:.1e} |")
    captured, stored = results["capture"], results["store"]
    extra = (captured[2] - base[2]) / max(stored[2] - base[2], 1e-9)
    print(f"\ncapture / plain {captured[clock] / base[clock]:.2f} (goal 1.3)")
    print(f"capture / store {captured[clock] / stored[clock]:.2f} (goal 0.6)")
    print(f"extra memory, capture / store {extra:.3f} (goal 0.1)")


if __name__ == "__main__":
    main()
