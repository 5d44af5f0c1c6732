"""Measures the distances of stage `memorization` for copies of training images.

The copies imitate a generator that has memorised its training images.

    python benchmarks/memorization_control.py --count 100

Every k-th real training image goes through the foundation's autoencoder and is compared with the
training set. Prints each distance, and how many of the copies are nearer than the first percentile
of the validation samples.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from seggen_core.evaluation.memorization import TrainingSet
from seggen_core.evaluation.nearest import nearest_images, reduce_image
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore

BATCH_SIZE = 20
NEIGHBORS = 50


@torch.inference_mode()
def round_trip(images: np.ndarray, *, vae: AutoencoderKL) -> np.ndarray:
    """Return images, uint8 [B, H, W, 3], encoded and decoded."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(),
        help="a project that has run `dataset` and `foundation`",
    )
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    paths, device = ProjectPaths(options.root), torch.device("cpu")
    train, val = SampleStore(paths.real("train")), SampleStore(paths.real("val"))
    training = TrainingSet.read(train, num_classes=1, with_masks=False, num_threads=1)
    vae = AutoencoderKL.from_pretrained(
        paths.model("foundation"), subfolder="vae", torch_dtype=torch.float32
    ).eval()

    positions = np.arange(0, len(train), max(1, len(train) // options.count))[: options.count]
    copies = []
    for start in range(0, len(positions), BATCH_SIZE):
        images = np.stack([train.read_image(int(p)) for p in positions[start : start + BATCH_SIZE]])
        copies += [reduce_image(image) for image in round_trip(images, vae=vae)]
    near = nearest_images(
        np.stack(copies), training=training.images, neighbors=NEIGHBORS, device=device
    )
    unseen = np.stack([reduce_image(val.read_image(key)) for key in val.keys()])  # noqa: SIM118 (a store iterates over samples)
    reference = nearest_images(unseen, training=training.images, neighbors=NEIGHBORS, device=device)

    by_rms, by_structure = (
        f"{(measure.index == positions).mean():.0%}" for measure in (near.rms, near.structure)
    )
    print(
        f"{len(positions)} copies; {by_rms} are nearest to their original by RMS, "
        f"{by_structure} by correlation\n"
    )
    print("| measure | median | largest | nearer than validation samples |\n|---|---:|---:|---:|")
    for name, distances, other in (
        ("RMS", near.rms.distance, reference.rms.distance),
        ("relative", near.relative, reference.relative),
        ("1 - correlation", near.structure.distance, reference.structure.distance),
    ):
        nearer = (distances < np.percentile(other, 1)).mean()
        print(f"| {name} | {np.median(distances):.4f} | {distances.max():.4f} | {nearer:.0%} |")


if __name__ == "__main__":
    main()
