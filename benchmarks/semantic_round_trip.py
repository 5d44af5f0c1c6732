"""Semantic masks as colour maps through an autoencoder and back, decoded in two ways.

The two ways are the nearest colour and the project's decoding.

    SEGGEN_REAL_DATA=/path/to/data python benchmarks/semantic_round_trip.py --vae
    profiles/scenes/foundation/vae

Data are embedded scenes and, where SEGGEN_REAL_DATA has them, camvid (every fourth training mask at
96 pixels, every twelfth at 256, every sixtieth at 768), ade20k_sample and coco_panoptic_sample (at
768 pixels). "CamVid as n classes" are CamVid's masks at 256 pixels in colours of a palette of n
classes: all others are absent from every mask.

mIoU is over the classes that are in any mask or decoded in any; unlabelled pixels don't count.
"void" is the IoU of unlabelled pixels, "ambiguous" the share of pixels that no colour explains.
Changed is the share of pixels that the decoding gives another class than the nearest colour of a
class.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from benchmarks.color_map_round_trip import autoencoder_round_trip, read_coco, read_scenes
from seggen_core.colors.decoding import nearest_ids
from seggen_core.colors.palette import IGNORE_COLOR, class_palette
from seggen_core.colors.semantic import color_to_mask, mask_to_color
from seggen_core.taxonomy import IGNORE_INDEX

Send = Callable[[np.ndarray], np.ndarray]


def resized(mask: np.ndarray, size: int) -> np.ndarray:
    """Squash a mask to a square."""
    return np.asarray(Image.fromarray(mask).resize((size, size), Resampling.NEAREST))


def read_ids(folder: Path, *, step: int, size: int, ignored: int, first: int) -> list[np.ndarray]:
    """Read every `step`-th mask; the id `ignored` becomes IGNORE_INDEX, `first` train id 0."""
    masks = []
    for path in sorted(folder.glob("*.png"))[::step]:
        ids = np.asarray(Image.open(path)).astype(np.int64)
        masks.append(
            resized(np.where(ids == ignored, IGNORE_INDEX, ids - first).astype(np.uint8), size)
        )
    return masks


def datasets(root: Path | None) -> Iterator[tuple[str, int, list[np.ndarray]]]:
    """Yield name, number of classes and masks of what there is."""
    things, scenes = read_scenes(64, 100)
    yield "scenes, 64 px", len(things), [m.segmentation_map for m in scenes]
    if root is not None and (root / "camvid").is_dir():
        for size, step in ((96, 4), (256, 12), (768, 60)):
            masks = read_ids(
                root / "camvid" / "trainannot", step=step, size=size, ignored=11, first=0
            )
            yield f"CamVid, {size} px", 11, masks
            for num_classes in (20, 40, 80, 150) if size == 256 else ():
                table = np.full(256, IGNORE_INDEX, np.uint8)
                table[:11] = np.random.default_rng(num_classes).permutation(num_classes)[:11]
                yield (
                    f"CamVid as {num_classes} classes, {size} px",
                    num_classes,
                    [table[m] for m in masks],
                )
    if root is not None and (root / "ade20k_sample").is_dir():
        yield (
            "ADE20K, 768 px",
            150,
            read_ids(root / "ade20k_sample" / "annotations", step=1, size=768, ignored=0, first=1),
        )
    if root is not None and (root / "coco_panoptic_sample").is_dir():
        things, maps = read_coco(root / "coco_panoptic_sample")
        yield "COCO, 768 px", len(things), [resized(m.segmentation_map, 768) for m in maps]


def scores(decoded: np.ndarray, *, truth: np.ndarray, num_classes: int) -> str:
    """Return cells: mIoU, pixel accuracy, IoU of void, number of absent classes decoded."""
    both = [
        np.where(ids == IGNORE_INDEX, num_classes, ids).astype(np.int64) for ids in (truth, decoded)
    ]
    side = num_classes + 1
    confusion = np.bincount((both[0] * side + both[1]).ravel(), minlength=side**2).reshape(
        side, side
    )
    labelled, right = confusion[:num_classes], np.diag(confusion)
    union = labelled.sum(1) + labelled[:, :num_classes].sum(0) - right[:num_classes]
    miou = 100 * (right[:num_classes] / np.maximum(union, 1))[union > 0].mean()
    void = confusion[:, num_classes].sum() + confusion[num_classes].sum() - right[num_classes]
    absent = (labelled.sum(1) == 0) & (labelled[:, :num_classes].sum(0) > 0)
    accuracy = 100 * right[:num_classes].sum() / labelled.sum()
    void_iou = f"{100 * right[num_classes] / void:.1f}" if void else "-"
    return f"{miou:.1f} | {accuracy:.2f} | {void_iou} | {absent.sum()}"


def table_row(name: str, *, num_classes: int, truth: np.ndarray, sent: list[np.ndarray]) -> str:
    """Return the row of one dataset: masks uint8 [B, H, W], and B maps after the round trip."""
    palette = class_palette(num_classes)
    colors = np.concatenate([palette, np.array([IGNORE_COLOR], np.uint8)])
    nearest_ids(sent[0], palette=colors)  # makes the table
    start = time.process_time()
    nearest = np.stack([nearest_ids(s, palette=colors) for s in sent])
    middle = time.process_time()
    decoded = [color_to_mask(s, palette=palette) for s in sent]
    end = time.process_time()
    decoded_classes = np.stack([d.segmentation_map for d in decoded])
    classes = np.stack([nearest_ids(s, palette=palette) for s in sent])
    first = scores(
        np.where(nearest == num_classes, IGNORE_INDEX, nearest),
        truth=truth,
        num_classes=num_classes,
    )
    second = scores(decoded_classes, truth=truth, num_classes=num_classes)
    ambiguous = 100 * np.mean([d.ambiguous.mean() for d in decoded])
    changed = 100 * ((decoded_classes != classes) & (truth != IGNORE_INDEX)).mean()
    times = [1e3 * seconds / len(sent) for seconds in (middle - start, end - middle)]
    shares = f"{ambiguous:.2f}% | {changed:.2f}%"
    return (
        f"| {name} ({len(sent)}) | {first} | {times[0]:.1f} ms | {second} | {shares} "
        f"| {times[1]:.1f} ms |"
    )


def measure(send: Send, *, root: Path | None, wanted: str) -> None:
    """Print a row of the table for each dataset whose name begins with `wanted`."""
    cells = "mIoU | accuracy | void | absent classes"
    print(
        f"| data | nearest: {cells} | time | decoded: {cells} | ambiguous | changed | time |\n"
        f"|{'---|' * 13}"
    )
    for name, num_classes, masks in datasets(root):
        if name.startswith(wanted):
            sent = [send(mask_to_color(m, palette=class_palette(num_classes))) for m in masks]
            print(
                table_row(name, num_classes=num_classes, truth=np.stack(masks), sent=sent),
                flush=True,
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--vae", type=Path, required=True, help="folder of an AutoencoderKL or AutoencoderTiny"
    )
    parser.add_argument("--data", default="", help="only datasets whose names begin so")
    options = parser.parse_args()
    real = os.environ.get("SEGGEN_REAL_DATA")
    measure(
        autoencoder_round_trip(options.vae), root=Path(real) if real else None, wanted=options.data
    )


if __name__ == "__main__":
    main()
