"""How well a foundation's attention localises classes, and how good the masks of every option are.

    python benchmarks/attention_quality.py --foundation profiles/scenes/foundation --judge
    data/checkpoints/full_real/seed0

1. Validation scenes (never the test split) are noised to ten timesteps and shown to the UNet under
   'a photo of a <class>' for a class in them: AUC of each layer's class-token map, and of
   self-attention grown from the true mask, against the true mask.
2. Images are generated once per class; from the attention of that one generation every option makes
   its masks, which are scored by IoU with the judge's prediction of the class (pixels summed over a
   class's images, mean over classes), as stage `judge` does.

Prints Markdown, and writes the numbers to --out as JSON. Settings not under test are those of
params.yaml.
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attention_options import options

from seggen_core.attention.affinity_net import train_affinity_net
from seggen_core.attention.capture import capture_attention
from seggen_core.attention.diffumask import diffumask_masks
from seggen_core.attention.layers import list_attention_layers
from seggen_core.attention.masks import rescale, upsample
from seggen_core.attention.pamr import MaskRefiner
from seggen_core.attention.seediff import expand_region
from seggen_core.config import DiffuMaskConfig, SeeDiffConfig, SegGenConfig, load_config
from seggen_core.datasets.scenes import ScenesReader
from seggen_core.generators.foundation import (
    encode_prompts,
    load_pipeline,
    unet_arguments,
    vae_scale_factor,
)
from seggen_core.generators.sampling import make_scheduler
from seggen_core.project.rng import torch_generator
from seggen_core.segmentation.models import load_segmenter
from seggen_core.segmentation.predict import predict_maps
from seggen_core.synthesis.captured_images import CaptureRequest, run_with_capture
from seggen_core.synthesis.from_attention import class_masks
from seggen_core.synthesis.prompts import ClassPrompt, PromptSource
from seggen_core.taxonomy import SegmentationClass, Taxonomy

TIMESTEPS = range(950, 0, -100)
"""Of the noised validation scenes."""
MIN_SHARE = 0.02
"""A scene counts for a class that covers at least this share of it."""


def auc(maps: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the area under the ROC curve of each map, float32 [B].

    Args:
        maps: float32 [B, s, s].
        truth: bool [B, H, W].
    """
    values = F.interpolate(
        maps[:, None], size=tuple(truth.shape[-2:]), mode="bilinear", align_corners=False
    ).flatten(1)
    inside = truth.flatten(1)
    ranks = values.argsort(1).argsort(1).float()
    n1 = inside.sum(1)
    n0 = inside.shape[1] - n1
    return ((ranks * inside).sum(1) - n1 * (n1 - 1) / 2) / (n1 * n0)


def validation_scenes(
    config: SegGenConfig, *, per_class: int
) -> list[tuple[SegmentationClass, np.ndarray, np.ndarray]]:
    """Return (class, image, mask of the class) of validation scenes that show each class.

    The first `per_class` of them are taken.
    """
    reader = ScenesReader(config.dataset, seed=config.seed)
    scenes = [reader.read("val", key) for key in reader.keys("val")]
    chosen = []
    for target in reader.taxonomy:
        shown = [s for s in scenes if (s.segmentation_map == target.train_id).mean() >= MIN_SHARE]
        chosen += [
            (target, s.image, s.segmentation_map == target.train_id) for s in shown[:per_class]
        ]
    return chosen


@torch.no_grad()
def localisation(
    pipeline: Any, *, config: SegGenConfig, per_class: int, batch_size: int
) -> list[dict[str, Any]]:
    """Return one row per map: name, resolution, mean AUC and the AUC of each class in percent."""
    scenes = validation_scenes(config, per_class=per_class)
    size = config.dataset.image_size
    taxonomy = ScenesReader(config.dataset, seed=config.seed).taxonomy
    sources = {
        c: _prompts(config.seediff, c, taxonomy=taxonomy, pipeline=pipeline, seed=config.seed)
        for c in taxonomy
    }
    scores: dict[tuple[str, int], list[torch.Tensor]] = {}
    for start in range(0, len(scenes), batch_size):
        part = scenes[start : start + batch_size]
        prompts = [sources[c][0] for c, _, _ in part]
        images = (
            torch.from_numpy(np.stack([image for _, image, _ in part])).permute(0, 3, 1, 2).float()
            / 127.5
            - 1
        )
        truth = torch.from_numpy(np.stack([mask for _, _, mask in part]))
        latents = pipeline.vae.encode(images).latent_dist.mean * pipeline.vae.config.scaling_factor
        text = unet_arguments(encode_prompts(pipeline, [p.text for p in prompts], image_size=size))
        with capture_attention(
            pipeline.unet, class_tokens=[list(p.tokens) for p in prompts], per_layer=True
        ) as recorder:
            for t in TIMESTEPS:
                noise = torch.randn(
                    latents.shape, generator=torch_generator(config.seed, "benchmark", start, t)
                )
                steps = torch.full((len(part),), t)
                pipeline.unet(pipeline.scheduler.add_noise(latents, noise, steps), steps, **text)
        for name, maps in recorder.layer_maps().items():
            scores.setdefault(
                (name.removesuffix(".transformer_blocks.0.attn2"), maps.shape[-1]), []
            ).append(auc(maps[:, 0], truth))
        for r in recorder.cross_resolutions:
            scores.setdefault(("cross-attention, all layers", r), []).append(
                auc(recorder.cross_map(r)[:, 0], truth)
            )
        for r in recorder.self_resolutions:
            seeds = F.interpolate(truth[:, None].float(), size=(r, r), mode="area")[:, 0] > 0.6
            for affinity in ("rows", "columns", "cosine"):
                grown = expand_region(recorder.self_map(r), seeds, affinity=affinity)
                scores.setdefault((f"self-attention from true seeds, {affinity}", r), []).append(
                    auc(grown, truth)
                )
    classes = [c for c, _, _ in scenes]
    rows = []
    for (name, resolution), parts in scores.items():
        values = torch.cat(parts)
        by_class = {
            c.name: 100 * _mean(v for v, k in zip(values.tolist(), classes, strict=True) if k == c)
            for c in taxonomy
        }
        rows.append(
            {"map": name, "resolution": resolution, "mean": _mean(by_class.values()), **by_class}
        )
    return rows


def _mean(values: Iterable[float]) -> float:
    known = [v for v in values if not np.isnan(v)]
    return sum(known) / len(known) if known else float("nan")


def _prompts(
    settings: SeeDiffConfig,
    target: SegmentationClass,
    *,
    taxonomy: Taxonomy,
    pipeline: Any,
    seed: int,
) -> PromptSource:
    return PromptSource(
        settings,
        target=target,
        taxonomy=taxonomy,
        tokenizer=pipeline.tokenizer,
        name=(seed, "seediff"),
    )


class Generated:
    """Images of every class, their attention, and what the judge sees in them."""

    @torch.no_grad()
    def __init__(self, pipeline: Any, *, config: SegGenConfig, per_class: int, judge: Path) -> None:
        """Generate `per_class` images of each class, with all the attention that there is."""
        settings, size = config.seediff, config.dataset.image_size
        taxonomy = ScenesReader(config.dataset, seed=config.seed).taxonomy
        self.config, self.classes = config, list(taxonomy)
        segmenter = load_segmenter(judge)
        pipeline.scheduler = make_scheduler(pipeline, settings.sampling)
        micro = settings.sampling.micro_batch_size
        images, truth, layers, selves = [], [], {}, {}
        self.mean_cross: list[torch.Tensor] = []
        self.target: list[int] = []
        for target in taxonomy:
            source = _prompts(
                settings, target, taxonomy=taxonomy, pipeline=pipeline, seed=config.seed
            )
            for start in range(0, per_class, micro):
                numbers = range(start, start + micro)
                asked: list[ClassPrompt] = [source[i] for i in numbers]
                captured = run_with_capture(
                    pipeline,
                    prompts=asked,
                    generators=[
                        torch_generator(config.seed, "seediff", target.slug, i) for i in numbers
                    ],
                    sampling=settings.sampling,
                    image_size=size,
                    request=CaptureRequest(per_layer=True),
                )
                recorder = captured.recorder
                real = min(micro, per_class - start)
                pixels = captured.pixels[:real]
                predicted = predict_maps(segmenter, images=captured.arrays[:real])
                images.append(pixels / 255)
                truth.append(torch.from_numpy(predicted == target.train_id))
                self.mean_cross.append(recorder.mean_cross_map(size)[:real, 0])
                self.target += [target.train_id] * real
                for name, maps in recorder.layer_maps().items():
                    layers.setdefault(name, []).append(maps[:real, 0])
                for r in recorder.self_resolutions:
                    selves.setdefault(r, []).append(recorder.self_map(r)[:real])
        self.images, self.truth = torch.cat(images), torch.cat(truth)
        self.layers = {name: torch.cat(maps) for name, maps in layers.items()}
        self.self_maps = {r: torch.cat(maps) for r, maps in selves.items()}
        self.scores = torch.cat(self.mean_cross)

    def cross_map(self, config: SeeDiffConfig) -> torch.Tensor:
        """Return the mean of each class's chosen layers' maps: float32 [B, s, s].

        They are those of the chosen resolution.
        """
        r, target = config.cross_attention_resolution, torch.tensor(self.target)
        maps = []
        for c in self.classes:
            chosen = config.for_class(c.slug).cross_attention_layers or self.layers
            class_maps = [
                self.layers[name][target == c.train_id]
                for name in chosen
                if self.layers[name].shape[-1] == r
            ]
            maps.append(torch.stack(class_maps).mean(0))
        return torch.cat(maps)

    def score(self, masks: torch.Tensor) -> dict[str, float]:
        """Return "mean" and each class's IoU with the judge, in percent."""
        both, either = (masks & self.truth).sum((1, 2)), (masks | self.truth).sum((1, 2))
        target = torch.tensor(self.target)
        by_class = {}
        for c in self.classes:
            of_class = target == c.train_id
            by_class[c.name] = 100 * float(
                both[of_class].sum() / either[of_class].sum().clamp_min(1)
            )
        return {"mean": _mean(by_class.values()), **by_class}

    def masks(self, changes: dict[str, Any]) -> torch.Tensor:
        """Return the masks of params.yaml's `seediff` with `changes`: bool [B, H, W]."""
        tree = self.config.seediff.model_dump() | changes
        settings = SeeDiffConfig.model_validate(tree)
        selves = {
            r: m
            for r, m in self.self_maps.items()
            if r in (settings.self_attention_resolutions or self.self_maps)
        }
        return class_masks(
            self.cross_map(settings), selves, config=settings, images=self.images
        ).binary

    def diffumask(self, *, affinity_net: bool) -> torch.Tensor:
        """Return DiffuMask's masks, each class with an AffinityNet of its own: bool [B, H, W]."""
        settings = self.config.diffumask or DiffuMaskConfig(samples_per_class=1)
        target = torch.tensor(self.target)
        masks = torch.zeros_like(self.truth)
        for c in self.classes:
            of_class = target == c.train_id
            layers = settings.for_class(c.slug).cross_attention_layers
            images, soft = (
                self.images[of_class],
                rescale((self.scores if layers is None else self._finest(layers))[of_class]),
            )
            network = None
            if affinity_net and settings.affinity_net is not None:
                pixels = images.mul(255).round().to(torch.uint8)
                name = (self.config.seed, "diffumask", c.slug)
                network = train_affinity_net(pixels, soft, config=settings.affinity_net, name=name)
            result = diffumask_masks(
                soft,
                refiner=MaskRefiner(images, settings.pamr_iterations, settings.pamr_dilations),
                thresholds=settings.thresholds,
                background_score=settings.background_score,
                affinity_net=network,
                refine=settings.pamr,
            )
            masks[of_class] = result.binary
        return masks

    def _finest(self, names: Sequence[str]) -> torch.Tensor:
        size = self.images.shape[-1]
        return torch.stack([upsample(self.layers[name], size) for name in names]).mean(0)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as Markdown; numbers with one digit."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    cells = [[f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    lines += [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join(lines)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--foundation", type=Path, default=Path("profiles/scenes/foundation"))
    add("--params", type=Path, default=Path("params.yaml"))
    add("--judge", type=Path, default=Path("data/checkpoints/full_real/seed0"), help="a segmenter")
    add("--scenes", type=int, default=8, help="validation scenes per class; 0 skips the first part")
    add("--images", type=int, default=8, help="images per class; 0 skips the second part")
    add("--seed", type=int, help="instead of that of params.yaml: fresh images, same options")
    add("--no-diffumask", action="store_true", help="it trains one network a class")
    add("--out", type=Path, help="write all numbers to this JSON file")
    return parser.parse_args()


def main() -> None:
    """Run both parts and print them."""
    arguments = read_arguments()
    torch.set_num_threads(1)
    config = load_config(arguments.params)
    if arguments.seed is not None:
        config = config.model_copy(update={"seed": arguments.seed})
    pipeline = load_pipeline(arguments.foundation)
    results: dict[str, list[dict[str, Any]]] = {}
    started = time.process_time()
    if arguments.scenes:
        rows = localisation(pipeline, config=config, per_class=arguments.scenes, batch_size=8)
        results["localisation"] = sorted(rows, key=lambda row: -row["mean"])
        print(f"## AUC in percent, {arguments.scenes} noised validation scenes per class\n")
        print(f"{table(results['localisation'])}\n")
    if arguments.images:
        results |= measure_masks(pipeline, config=config, arguments=arguments)
    print(f"{time.process_time() - started:.0f} s of CPU")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure_masks(
    pipeline: Any, *, config: SegGenConfig, arguments: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Score the masks of every option with the judge, print the tables and return their rows."""
    results: dict[str, list[dict[str, Any]]] = {}
    sides = {a.resolution for a in list_attention_layers(pipeline.unet) if a.is_cross}
    latent = config.dataset.image_size // vae_scale_factor(pipeline)
    print(f"## Mask IoU in percent with the judge, {arguments.images} images per class\n")
    print(f"latents {latent}x{latent}, cross-attention at {sorted(sides)}\n")
    generated = Generated(
        pipeline, config=config, per_class=arguments.images, judge=arguments.judge
    )
    layer_sides = {name: maps.shape[-1] for name, maps in generated.layers.items()}
    tables = options(layer_sides, resolution=config.seediff.cross_attention_resolution)
    for title, choices in tables.items():
        results[title] = [
            {"option": name, **generated.score(generated.masks(changes))}
            for name, changes in choices.items()
        ]
        print(f"### {title}\n\n{table(results[title])}\n", flush=True)
    if not arguments.no_diffumask:
        results["DiffuMask"] = [
            {"option": name, **generated.score(generated.diffumask(affinity_net=flag))}
            for name, flag in (("V by PAMR", False), ("V by AffinityNet", True))
        ]
        print(f"### DiffuMask\n\n{table(results['DiffuMask'])}\n")
    return results


if __name__ == "__main__":
    main()
