"""Panoptic quality of masks after colour maps: clean, blurred, noisy, through an autoencoder.

    SEGGEN_REAL_DATA=/path/to/data python benchmarks/color_map_round_trip.py [--vae
    profiles/scenes/foundation/vae]

Data are embedded scenes of 64, 256 and 512 pixels and, where SEGGEN_REAL_DATA has
coco_panoptic_sample, COCO's two panoptic examples. PQ is over things and stuff together; in
brackets PQ of things and of stuff. --pictures writes the maps as PNG files.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seggen_core.colors.panoptic import (
    PanopticMap,
    color_to_panoptic,
    panoptic_palette,
    panoptic_to_color,
)
from seggen_core.config import DatasetConfig
from seggen_core.datasets.scenes import ScenesReader
from seggen_core.metrics.panoptic import count_panoptic, panoptic_quality
from seggen_core.taxonomy import IGNORE_INDEX

NOISE = {
    "clean": None,
    "blur 0.5, noise 8": (0.5, 8),
    "blur 1, noise 16": (1.0, 16),
    "blur 1.5, noise 24": (1.5, 24),
}
"""Standard deviations of a Gaussian blur (pixels) and of independent noise (8-bit steps)."""


def read_scenes(size: int, count: int) -> tuple[np.ndarray, list[PanopticMap]]:
    """Return which classes are things, and some scenes of the test split."""
    reader = ScenesReader(
        DatasetConfig(name="scenes", image_size=size, num_train=1, num_val=1, num_test=count),
        seed=0,
    )
    samples = [reader.read("test", key) for key in reader.keys("test")]
    maps = [
        PanopticMap(s.segmentation_map, s.instance_map)
        for s in samples
        if s.instance_map is not None
    ]
    return np.array([c.is_thing for c in reader.taxonomy]), maps


def read_coco(folder: Path) -> tuple[np.ndarray, list[PanopticMap]]:
    """Return which of the 133 classes are things, and the panoptic maps; a crowd is an instance."""
    categories = sorted(
        json.loads((folder / "panoptic_coco_categories.json").read_text()), key=lambda c: c["id"]
    )
    train_id = {c["id"]: position for position, c in enumerate(categories)}
    things = np.array([bool(c["isthing"]) for c in categories])
    maps = []
    for annotation in json.loads((folder / "panoptic_examples.json").read_text())["annotations"]:
        rgb = np.asarray(
            Image.open(folder / "panoptic_examples" / annotation["file_name"]).convert("RGB")
        ).astype(np.int64)
        ids = rgb @ np.array([1, 256, 65536])
        classes, instances = (
            np.full(ids.shape, IGNORE_INDEX, np.uint8),
            np.zeros(ids.shape, np.uint16),
        )
        for instance_id, segment in enumerate(annotation["segments_info"], start=1):
            here, train = ids == segment["id"], train_id[segment["category_id"]]
            classes[here], instances[here] = train, instance_id if things[train] else 0
        maps.append(PanopticMap(classes, instances))
    return things, maps


def blur_and_noise(color_map: np.ndarray, *, blur: float, noise: float, seed: int) -> np.ndarray:
    """Return the blurred map with independent Gaussian noise in every channel, uint8 [H, W, 3]."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(color_map.astype(np.float64), (blur, blur, 0))
    return np.clip(
        np.round(blurred + np.random.default_rng(seed).normal(0, noise, blurred.shape)), 0, 255
    ).astype(np.uint8)


def autoencoder_round_trip(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return what sends a colour map through an autoencoder: encode, take the mean, decode.

    Args:
        folder: an AutoencoderKL or an AutoencoderTiny, as diffusers saves them.
    """
    import diffusers
    import torch

    kind = json.loads((folder / "config.json").read_text())["_class_name"]
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise SystemExit(
            f"{folder} holds a {kind}; expected an AutoencoderKL or an AutoencoderTiny"
        )
    autoencoder: Any = getattr(diffusers, kind).from_pretrained(folder).eval()
    factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)

    @torch.no_grad()
    def send(color_map: np.ndarray) -> np.ndarray:
        height, width = color_map.shape[:2]
        padded = np.pad(
            color_map, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge"
        )
        pixels = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 127.5 - 1
        encoded = autoencoder.encode(pixels)
        latents = encoded.latents if kind == "AutoencoderTiny" else encoded.latent_dist.mean
        decoded = autoencoder.decode(latents).sample[0].permute(1, 2, 0)
        return ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()[:height, :width]

    return send


def send_maps(
    painted: list[np.ndarray], *, autoencoder: Callable[[np.ndarray], np.ndarray] | None
) -> dict[str, list[np.ndarray]]:
    """Return what is left of the maps, uint8 [H, W, 3], after each way to damage them.

    Prints the covariance of the autoencoder's error, if there is one.
    """

    def noised(maps: list[np.ndarray], blur: float, noise: float) -> list[np.ndarray]:
        return [blur_and_noise(m, blur=blur, noise=noise, seed=k) for k, m in enumerate(maps)]

    ways = {
        way: painted if strength is None else noised(painted, *strength)
        for way, strength in NOISE.items()
    }
    if autoencoder is not None:
        sent = ways["autoencoder"] = [autoencoder(m) for m in painted]
        pairs = zip(sent, painted, strict=True)
        error = np.concatenate([(a.astype(float) - b).reshape(-1, 3) for a, b in pairs])
        ways["autoencoder, then noise 8"] = noised(sent, 0, 8)
        covariance = np.cov(error.T).round(1).tolist()
        print(f"<!-- covariance of the autoencoder's error: {covariance} -->")
    return ways


def quality(
    maps: Iterable[PanopticMap],
    *,
    sent: Iterable[np.ndarray],
    things: np.ndarray,
    min_area: int | None,
) -> str:
    """Return PQ (PQ of things / of stuff) of the decoded maps."""
    counts = None
    for truth, color_map in zip(maps, sent, strict=True):
        decoded = color_to_panoptic(
            color_map, palette=panoptic_palette(len(things)), things=things, min_area=min_area
        )
        one = count_panoptic(decoded, truth=truth, num_classes=len(things))
        counts = one if counts is None else counts + one
    assert counts is not None
    pq, pq_things, pq_stuff = (
        panoptic_quality(counts, classes=c).pq for c in (None, things, ~things)
    )
    return f"{pq:5.1f} ({pq_things:.1f} / {pq_stuff:.1f})"


def datasets(wanted: list[str]) -> Iterator[tuple[str, np.ndarray, list[PanopticMap]]]:
    """Yield name, things and maps of what is wanted and there."""
    for size, count in ((64, 40), (256, 8), (512, 3)):
        if "scenes" in wanted:
            yield f"scenes {size} px", *read_scenes(size, count)
    if "coco" in wanted and (root := os.environ.get("SEGGEN_REAL_DATA")):
        yield "COCO panoptic", *read_coco(Path(root) / "coco_panoptic_sample")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vae", type=Path, help="folder of an AutoencoderKL or AutoencoderTiny")
    parser.add_argument("--data", nargs="+", choices=["scenes", "coco"], default=["scenes", "coco"])
    parser.add_argument("--edge-widths", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--min-areas", type=int, nargs="+", default=[None], help="None is the decoder's own choice"
    )
    parser.add_argument(
        "--outlines", nargs="+", choices=["segments", "things"], default=["segments"]
    )
    parser.add_argument(
        "--pictures", type=Path, help="folder for pictures of the first map of each dataset"
    )
    options = parser.parse_args()
    send = autoencoder_round_trip(options.vae) if options.vae else None
    print(
        "| data | outline | edge width | smallest segment | map | PQ (things / stuff) |\n"
        "|---|---|---|---|---|---|"
    )
    for name, things, maps in datasets(options.data):
        palette = panoptic_palette(len(things))
        for outline in options.outlines:
            for width in options.edge_widths:
                painted = [
                    panoptic_to_color(
                        m, palette=palette, things=things, edge_width=width, outline=outline
                    )
                    for m in maps
                ]
                ways = send_maps(painted, autoencoder=send)
                for way, sent in ways.items():
                    for area in options.min_areas:
                        score = quality(maps, sent=sent, things=things, min_area=area)
                        print(
                            f"| {name} | {outline} | {width} | {area or 'default'} | {way} "
                            f"| {score} |",
                            flush=True,
                        )
                    if options.pictures is not None:
                        _write_picture(
                            options.pictures
                            / f"{name}-{outline}-{width}-{way}.png".replace(" ", "_"),
                            sent[0],
                            things,
                        )


def _write_picture(path: Path, color_map: np.ndarray, things: np.ndarray) -> None:
    """Write the colour map beside the classes and instances that it is decoded to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    decoded = color_to_panoptic(color_map, palette=panoptic_palette(len(things)), things=things)
    table = np.concatenate(
        [panoptic_palette(len(things)), np.full((256 - len(things), 3), 128, np.uint8)]
    )
    shades = np.random.default_rng(0).integers(40, 256, (65536, 3)).astype(np.uint8)
    shades[0] = 0
    row = np.concatenate(
        [color_map, table[decoded.segmentation_map], shades[decoded.instance_map]], axis=1
    )
    Image.fromarray(row).save(path)


if __name__ == "__main__":
    main()
