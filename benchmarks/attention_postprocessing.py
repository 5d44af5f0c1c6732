"""Measures the time from attention maps to masks: SeeDiff and PAMR at 512x512.

    python benchmarks/attention_postprocessing.py --batch 1 4 --threads 2

Random maps of the sizes of Stable Diffusion 2-base, with self-attention at 16, 32 and 64. Goals: at
most 60 ms an image on a GPU, 1.5 s on two CPU cores.
"""

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from seggen_core.attention.pamr import MaskRefiner
from seggen_core.attention.seediff import SeeDiffSettings, seediff_masks

IMAGE_SIZE = 512
RESOLUTIONS = (16, 32, 64)


def main() -> None:
    """Time SeeDiff without PAMR, PAMR alone and both, for each affinity and batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    def seconds(run: Callable[[], Any]) -> tuple[float, float]:
        """Return the best time on the wall, and the best on the processor summed over threads."""
        walls, cpus = [], []
        for _ in range(arguments.repeats):
            if device.type == "cuda":
                torch.cuda.synchronize()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        return min(walls), min(cpus)

    print(f"{device}, {arguments.threads} threads, {platform.machine()}")
    print(f"seconds an image on the wall (of CPU), the best of {arguments.repeats}\n")
    print(
        "| batch | PAMR alone | SeeDiff, rows | SeeDiff, columns | SeeDiff, cosine "
        "| SeeDiff columns + PAMR |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    for batch in arguments.batch:
        generator = torch.Generator(device).manual_seed(0)
        images = torch.rand(batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator, device=device)
        soft = torch.rand(batch, IMAGE_SIZE, IMAGE_SIZE, generator=generator, device=device)
        cross = torch.rand(batch, 16, 16, generator=generator, device=device)
        selves = {
            r: torch.rand(batch, r * r, r * r, generator=generator, device=device)
            for r in RESOLUTIONS
        }
        refiner = MaskRefiner(images)
        rows = SeeDiffSettings(alpha=0.5, beta=0.3)
        columns, cosine = (replace(rows, affinity=a) for a in ("columns", "cosine"))
        grow = partial(seediff_masks, cross, selves, image_size=IMAGE_SIZE)
        runs: list[Callable[[], Any]] = [partial(refiner.refine, soft)]
        runs += [partial(grow, settings=s) for s in (rows, columns, cosine)]
        runs.append(partial(grow, settings=columns, refiner=refiner))
        cells = [seconds(run) for run in runs]
        print(
            f"| {batch} | "
            + " | ".join(f"{wall / batch:.3f} ({cpu / batch:.3f})" for wall, cpu in cells)
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
