"""Measures the cost of capturing attention, compared to no capture and to storing every map.

    # The size of Stable Diffusion 2-base, random weights, 512x512, two denoising steps.
    python benchmarks/attention_overhead.py
    # A UNet of 1/64 of the parameters, to try the script.
    python benchmarks/attention_overhead.py --small

The UNet is called as a pipeline does under classifier-free guidance (two rows an image), in three
ways, each in a fresh process (memory that one has used and freed must not serve the next), turn by
turn, `--repeats` times; the best of each counts. On a GPU, one step of the same way goes before,
which loads the kernels.
  plain     scaled_dot_product_attention, nothing recorded
  capture   the same, with `capture_attention` beside it
  store     explicit softmax in every layer; the conditional row's maps of all heads, layers and
            steps are kept and averaged at the end, as attention stores do
Goals: capture takes at most 1.3 times plain and 0.6 times store; its extra memory at its peak is at
most a tenth of store's.
"""

import argparse
import gc
import json
import math
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
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
SMALL = SD2_BASE | {
    "block_out_channels": (40, 80, 160, 160),
    "norm_num_groups": 8,
    "attention_head_dim": (1, 2, 4, 4),
}
TEXT_LENGTH = 77
CLASS_TOKENS = [(5,)]
WAYS = ("plain", "capture", "store")


class StoringProcessor:
    """Explicit attention that keeps every map: the implementation to be better than."""

    def __init__(self, stored: list[torch.Tensor]) -> None:
        self.stored = stored

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Return the layer's output [R, N, C]; keep softmax of the conditional rows, [h, N, M]."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(projection(x))
            for projection, x in (
                (attn.to_q, hidden_states),
                (attn.to_k, source),
                (attn.to_v, source),
            )
        )
        probabilities = (torch.bmm(query, key.transpose(1, 2)) * attn.scale).softmax(dim=-1)
        self.stored.append(probabilities.chunk(2)[1].clone())  # [B * h, N, M]
        output = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](output))


def average_by_shape(
    stored: list[torch.Tensor], *, images: int
) -> dict[tuple[int, ...], torch.Tensor]:
    """Return the mean over heads, layers and steps of all maps of one shape (equation 5).

    Each is divided by its maximum first.
    """
    groups: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for maps in stored:
        mean = maps.unflatten(0, (images, -1)).mean(1)
        groups.setdefault(tuple(maps.shape[1:]), []).append(mean / mean.amax((1, 2), keepdim=True))
    return {shape: sum(maps) / len(maps) for shape, maps in groups.items()}


class MemoryPeak:
    """Largest memory within the context, in MiB above that at its beginning.

    Resident memory on a CPU, allocated memory on CUDA.
    """

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


def denoise(unet: Any, *, way: str, steps: int, images: int) -> torch.Tensor:
    """Call the network `steps` times on `images` (two rows each) in one of the three `WAYS`.

    Returns:
        Its last output.
    """
    shapes = ((2 * images, 4, 64, 64), (2 * images, TEXT_LENGTH, 1024))
    latents, text = (torch.randn(shape).to(unet.device, unet.dtype) for shape in shapes)

    def run() -> torch.Tensor:
        for step in range(steps):
            output = unet(latents, 900 - step, text).sample
        return output

    if way == "plain":
        return run()
    if way == "capture":
        with capture_attention(unet, class_tokens=[CLASS_TOKENS] * images) as recorder:
            output = run()
        for resolution in recorder.self_resolutions:
            recorder.cross_map(resolution)
            recorder.self_map(resolution)
        return output
    stored: list[torch.Tensor] = []
    unet.set_attn_processor(StoringProcessor(stored))
    output = run()
    average_by_shape(stored, images=images)
    return output


def measure(
    *,
    way: str,
    steps: int,
    images: int,
    small: bool,
    device: torch.device,
    dtype: torch.dtype,
    output_file: Path,
) -> dict[str, float]:
    """Build the network, run it in one way and write its output; return seconds and MiB."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SMALL if small else SD2_BASE)
    unet = unet.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    for parameter in unet.parameters():
        # What matters is that activations stay finite; times don't depend on the values.
        torch.nn.init.normal_(
            parameter,
            std=0.5 / math.sqrt(max(parameter[0].numel(), 1)) if parameter.ndim > 1 else 0.02,
        )
    with torch.no_grad():
        if device.type == "cuda":
            processors = unet.attn_processors
            denoise(unet, way=way, steps=1, images=images)
            unet.set_attn_processor(processors)
            torch.cuda.synchronize()
        else:
            warm = [
                torch.randn(2, *shape).to(device, dtype)
                for shape in ((4, 16, 16), (TEXT_LENGTH, 1024))
            ]
            unet(warm[0], 999, warm[1])
        torch.manual_seed(1)
        with MemoryPeak(device) as memory:
            wall, cpu = time.perf_counter(), time.process_time()
            output = denoise(unet, way=way, steps=steps, images=images)
            if device.type == "cuda":
                torch.cuda.synchronize()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    np.save(output_file, output.float().cpu().numpy())
    return {
        "wall": wall,
        "cpu": cpu,
        "peak": memory.peak,
        "parameters": sum(p.numel() for p in unet.parameters()),
    }


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=int, default=2)
    add("--images", type=int, default=1, help="images a call, two rows each")
    add("--repeats", type=int, default=2)
    add("--small", action="store_true")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--precision", choices=["float32", "bfloat16", "float16"], default="float32")
    add("--threads", type=int, default=1)
    add("--way", choices=WAYS, help="run this one only, in this process, and print JSON")
    add("--output", type=Path, help="with --way: the .npy that gets the network's output")
    return parser.parse_args()


def main() -> None:
    """Run the three and print them side by side, or run one of them."""
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.way:
        taken = measure(
            way=arguments.way,
            steps=arguments.steps,
            images=arguments.images,
            small=arguments.small,
            device=torch.device(arguments.device),
            dtype=getattr(torch, arguments.precision),
            output_file=arguments.output,
        )
        print(json.dumps(taken))
        return
    # On a CPU that others use too, time on the processor says more than time on the wall.
    clock = "wall" if torch.device(arguments.device).type == "cuda" else "cpu"
    best, outputs = compare(repeats=arguments.repeats, clock=clock)
    print(
        f"{best['plain']['parameters'] / 1e6:.0f} M parameters, {arguments.images} images, "
        f"{arguments.steps} steps, {arguments.device}, {arguments.precision}, "
        f"{arguments.threads} threads, {platform.machine()}, the best of {arguments.repeats}\n"
    )
    report(best, outputs=outputs, clock=clock)


def compare(
    *, repeats: int, clock: str
) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """Run each way in processes of its own; return its best measurement and its output."""
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            for way in WAYS:
                command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
                command += ["--output", f"{folder}/{way}.npy"]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
                taken = json.loads(done.stdout)
                best[way] = min(best.get(way, taken), taken, key=lambda one: one[clock])
        return best, {way: np.load(f"{folder}/{way}.npy") for way in WAYS}


def report(
    best: dict[str, dict[str, float]], *, outputs: dict[str, np.ndarray], clock: str
) -> None:
    """Print a table of the three, and how they compare with the goals."""
    plain, capture, store = (best[way] for way in WAYS)
    print("| | wall s | CPU s | times plain | peak MiB | extra MiB | largest difference to plain |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for way, taken in best.items():
        difference = np.abs(outputs[way] - outputs["plain"]).max()
        print(
            f"| {way} | {taken['wall']:.2f} | {taken['cpu']:.2f} "
            f"| {taken[clock] / plain[clock]:.2f} | {taken['peak']:.0f} "
            f"| {taken['peak'] - plain['peak']:.0f} | {difference:.1e} |"
        )
    print(f"\ncapture / plain {capture[clock] / plain[clock]:.2f} (goal 1.3)")
    print(f"capture / store {capture[clock] / store[clock]:.2f} (goal 0.6)")
    extra = (capture["peak"] - plain["peak"]) / max(store["peak"] - plain["peak"], 1e-9)
    print(f"extra memory, capture / store {extra:.3f} (goal 0.1)")


if __name__ == "__main__":
    main()
