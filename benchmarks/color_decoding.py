"""Nearest-colour decoding against a chunked `torch.cdist` argmin, side by side in one run.

    python benchmarks/color_decoding.py [--size 768] [--classes 150] [--repeats 9] [--threads 1]

Both take the same uint8 maps and return uint8 ids. The chunk of cdist is the fastest of several
that this script tries. Times are medians of the process's CPU time over interleaved repeats, so
other work on the machine disturbs both alike. With --threads above 1 they are wall time.
"""

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np
import torch

from seggen_core.colors.decoding import _color_table, color_table, nearest_ids, palette_distances
from seggen_core.colors.palette import class_palette

CHUNKS = [1 << k for k in range(9, 20)]


def decode_with_cdist(color_map: np.ndarray, palette: np.ndarray, *, chunk: int) -> np.ndarray:
    """Return the nearest ids, uint8 [H, W], `chunk` pixels at a time."""
    colors, pixels = torch.from_numpy(palette).float(), torch.from_numpy(color_map.reshape(-1, 3))
    parts = [
        torch.cdist(part.float(), colors).argmin(1).to(torch.uint8) for part in pixels.split(chunk)
    ]
    return torch.cat(parts).numpy().reshape(color_map.shape[:-1])


def example_maps(palette: np.ndarray, *, size: int) -> dict[str, np.ndarray]:
    """Return maps to decode by name, uint8 [size, size, 3]."""
    rng, side = np.random.default_rng(0), -(-size // 48)
    blocks = palette[rng.integers(0, len(palette), (48, 48))]
    blocks = blocks.repeat(side, 0).repeat(side, 1)[:size, :size]
    noisy = np.round(blocks + rng.normal(0, 8, blocks.shape))
    return {
        "palette map + noise 8": np.clip(noisy, 0, 255).astype(np.uint8),
        "random colours": rng.integers(0, 256, blocks.shape, dtype=np.uint8),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("--size", 768), ("--classes", 150), ("--repeats", 9), ("--threads", 1)):
        parser.add_argument(name, type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter

    def seconds(call: Callable[..., object], *args: object, **kwargs: object) -> float:
        start = clock()
        call(*args, **kwargs)
        return clock() - start

    palette = class_palette(options.classes)

    def build() -> None:
        _color_table.cache_clear()
        color_table(palette)

    built = float(np.median([seconds(build) for _ in range(options.repeats)]))
    print(
        f"{options.size}x{options.size} pixels, {options.classes} classes, "
        f"{options.threads} thread(s), {platform.machine()}"
    )
    print(f"table: {1e3 * built:.1f} ms, {color_table(palette).ids.nbytes / 1e6:.1f} MB\n")
    print(
        f"{'map':24}{'cdist (chunk)':>22}{'table':>10}{'ratio':>8}{'+ distance':>12}  "
        "equal to cdist"
    )
    for name, color_map in example_maps(palette, size=options.size).items():
        tried = {
            c: min(seconds(decode_with_cdist, color_map, palette, chunk=c) for _ in range(2))
            for c in CHUNKS
        }
        chunk = min(tried, key=tried.__getitem__)
        times: dict[str, list[float]] = {"cdist": [], "table": [], "distance": []}
        ids = nearest_ids(color_map, palette=palette)
        for _ in range(options.repeats):
            times["cdist"].append(seconds(decode_with_cdist, color_map, palette, chunk=chunk))
            times["table"].append(seconds(nearest_ids, color_map, palette=palette))
            times["distance"].append(
                seconds(palette_distances, color_map, palette=palette, ids=ids)
            )
        slow, fast, distance = (
            1e3 * float(np.median(times[k])) for k in ("cdist", "table", "distance")
        )
        equal = float((decode_with_cdist(color_map, palette, chunk=chunk) == ids).mean())
        print(
            f"{name:24}{slow:>11.1f} ms ({chunk:>5}){fast:>7.2f} ms{slow / fast:>7.1f}x"
            f"{distance:>9.2f} ms  {equal:.6%}"
        )


if __name__ == "__main__":
    main()
