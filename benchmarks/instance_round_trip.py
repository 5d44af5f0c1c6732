"""Counts the instances that MaskSyn draws and those that come back from colour maps.

    python benchmarks/instance_round_trip.py --root .

A colour map shows instances by outlines alone, so reading it can join two or split one. Rows:

- real: the validation scenes as they are.
- real, painted and read: their colour maps, read back.
- real, through the autoencoder: the same, sent through Text2Mask's autoencoder first.
- MaskSyn: what was read from the maps that Text2Mask drew.
- MaskSyn, painted and read: their colour maps, read back. Mask2Img sees these maps.

The rows of MaskSyn need a project that has run `masksyn` with `color_map: panoptic`. An instance
comes back if one of its class overlaps it with an IoU above a half.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from seggen_core.colors.code import ColorCode
from seggen_core.colors.panoptic import PanopticMap
from seggen_core.generators.pixels import to_pixels
from seggen_core.metrics.panoptic import count_panoptic, panoptic_quality
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore, open_partitions
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

MATCH_IOU = 0.5


@dataclass(frozen=True, eq=False)
class Things:
    """The K things of one image."""

    classes: np.ndarray
    """int64 [K]."""
    masks: np.ndarray
    """bool [K, H, W]."""

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each, int64 [K]."""
        return self.masks.sum((1, 2))


def things_of(panoptic: PanopticMap, *, is_thing: np.ndarray) -> Things:
    """Take the things of a map; `is_thing` is bool [C]."""
    ids = panoptic.segment_ids()
    segments = np.unique(ids)
    classes = segments >> 16
    is_shown = (classes != IGNORE_INDEX) & np.append(is_thing, np.zeros(256, bool))[classes]
    return Things(classes[is_shown], ids == segments[is_shown][:, None, None])


def recovered(truth: Things, read: Things) -> np.ndarray:
    """Return which of the true things come back, bool [K]."""
    if not len(truth.classes) or not len(read.classes):
        return np.zeros(len(truth.classes), bool)
    same = truth.classes[:, None] == read.classes
    one, other = (t.masks.reshape(len(t.masks), -1).astype(np.float32) for t in (truth, read))
    shared = one @ other.T
    union = truth.areas[:, None] + read.areas - shared
    return (same & (shared > MATCH_IOU * union)).any(1)


@torch.inference_mode()
def through(vae: AutoencoderKL, color_maps: np.ndarray) -> np.ndarray:
    """Return colour maps, uint8 [B, H, W, 3], encoded and decoded."""
    decoded = vae.decode(vae.encode(to_pixels(color_maps)).latent_dist.mode()).sample
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def read_maps(stores: Iterable[SampleStore]) -> list[PanopticMap]:
    """Return the masks of all samples with their instances."""
    maps = []
    for store in stores:
        for key in store.keys():  # noqa: SIM118 (a store iterates over samples)
            instances = store.read_instances(key)
            if instances is None:
                raise SystemExit(
                    f"{store.folder} has no instances; set dataset.color_map: panoptic"
                )
            maps.append(PanopticMap(store.read_mask(key), instances))
    return maps


def read_back(color_maps: np.ndarray, *, code: ColorCode) -> list[PanopticMap]:
    """Decode colour maps, uint8 [B, H, W, 3]."""
    decoded = code.decode(color_maps)
    assert decoded.instance_maps is not None
    return [
        PanopticMap(mask, instances)
        for mask, instances in zip(decoded.segmentation_maps, decoded.instance_maps, strict=True)
    ]


def row(name: str, things: list[Things], came_back: list[np.ndarray] | None) -> str:
    """Return a row: things per image, quartiles of their areas, the share that comes back."""
    areas = np.concatenate([t.areas for t in things])
    quartiles = " / ".join(f"{q:.0f}" for q in np.percentile(areas, (25, 50, 75)))
    share = "-" if came_back is None else f"{np.concatenate(came_back).mean():.0%}"
    return f"| {name} | {len(things)} | {len(areas) / len(things):.2f} | {quartiles} | {share} |"


def class_rows(
    taxonomy: Taxonomy, *, real: list[Things], drawn: list[Things], came_back: list[np.ndarray]
) -> Iterable[str]:
    """Yield a row for each class of things: number per image and median area, real and drawn."""
    back = np.concatenate(came_back)
    owners = np.concatenate([t.classes for t in real])
    for train_id, one in enumerate(taxonomy):
        if one.is_thing:
            cells = []
            for things in (real, drawn):
                mine = [t.areas[t.classes == train_id] for t in things]
                areas = np.concatenate(mine or [np.zeros(0, int)])
                median = f"{np.median(areas):.0f}" if len(areas) else "-"
                cells += [f"{len(areas) / max(1, len(things)):.2f}", median]
            these = back[owners == train_id]
            cells.append(f"{these.mean():.0%}" if len(these) else "-")
            yield f"| {one.name} | {' | '.join(cells)} |"


def quality(truth: list[PanopticMap], read: list[PanopticMap], *, is_thing: np.ndarray) -> str:
    """Return PQ (things / stuff) and mIoU of maps that were read back; `is_thing` is bool [C]."""
    pairs = list(zip(read, truth, strict=True))
    counts = reduce(add, (count_panoptic(r, truth=t, num_classes=len(is_thing)) for r, t in pairs))
    pq, things, stuff = (
        panoptic_quality(counts, classes=c).pq for c in (None, is_thing, ~is_thing)
    )
    ours, theirs = (np.stack([m.segmentation_map for m in maps]) for maps in (read, truth))
    ious = [
        ((ours == c) & (theirs == c)).sum() / ((ours == c) | (theirs == c)).sum()
        for c in range(len(is_thing))
    ]
    return f"PQ {pq:.1f} ({things:.1f} / {stuff:.1f}), mIoU {100 * np.mean(ious):.1f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--root", type=Path, default=Path(), help="a project that has run `dataset`"
    )
    parser.add_argument(
        "--vae", type=Path, help="an AutoencoderKL; without it, Text2Mask's, whose decoder is tuned"
    )
    options = parser.parse_args()
    paths = ProjectPaths(options.root)
    taxonomy = Taxonomy.read(paths.taxonomy)
    code = ColorCode(taxonomy, kind="panoptic")
    vae = AutoencoderKL.from_pretrained(
        options.vae or paths.model("text2mask") / "vae", torch_dtype=torch.float32
    ).eval()

    def painted(maps: list[PanopticMap]) -> np.ndarray:
        return np.stack(
            [code.encode(m.segmentation_map, instance_map=m.instance_map) for m in maps]
        )

    def things(maps: list[PanopticMap]) -> list[Things]:
        return [things_of(m, is_thing=code.things) for m in maps]

    maps = read_maps([SampleStore(paths.real("val"))])
    color_maps, real = painted(maps), things(maps)
    sent = np.concatenate([through(vae, batch) for batch in np.array_split(color_maps, 8)])
    sent_maps = read_back(sent, code=code)
    through_vae = quality(maps, sent_maps, is_thing=code.things)
    ways = {
        "real": (real, None),
        "real, painted and read": (things(read_back(color_maps, code=code)), real),
        "real, through the autoencoder": (things(sent_maps), real),
    }
    drawn = None
    if paths.synthetic("masksyn").is_dir():
        maps = read_maps(open_partitions(paths.synthetic("masksyn")))
        drawn, again = things(maps), things(read_back(painted(maps), code=code))
        ways |= {"MaskSyn": (drawn, None), "MaskSyn, painted and read": (again, drawn)}
    print("| masks | images | instances an image | area: quartiles (pixels) | come back |")
    print("|---|---:|---:|---:|---:|")
    for name, (read, truth) in ways.items():
        back = None if truth is None else [recovered(*p) for p in zip(truth, read, strict=True)]
        print(row(name, read, back))
    read = ways["real, through the autoencoder"][0]
    back = [recovered(*pair) for pair in zip(real, read, strict=True)]
    print(f"\nreal, through the autoencoder: {through_vae}")
    print("\n| class | real: an image | median area | drawn: an image | median area | come back |")
    print("|---|---:|---:|---:|---:|---:|")
    print("\n".join(class_rows(taxonomy, real=real, drawn=drawn or [], came_back=back)))


if __name__ == "__main__":
    main()
