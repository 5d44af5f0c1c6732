"""Stage `diffumask`: images of one class with masks from cross-attention, thresholds and filter learned from the class itself.

Candidates are generated first, more than are wanted by the share that noise learning drops.
AffinityNet then learns from all of them, each gets its own threshold, and the pairs that the others
don't explain are dropped (DiffuMask, ICCV 2023).
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from seggen_core.attention.affinity_net import train_affinity_net
from seggen_core.attention.diffumask import diffumask_masks
from seggen_core.attention.seediff import ACCEPTED, NO_SEEDS, NOT_FINITE, rescale, upsample
from seggen_core.config import DiffuMaskConfig, SegGenConfig
from seggen_core.errors import AttentionError, ConfigError, StorageError
from seggen_core.generators.foundation import load_pipeline, vae_scale_factor
from seggen_core.generators.sampling import make_scheduler
from seggen_core.project.digests import content_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import publish
from seggen_core.project.rng import derive_seed, torch_generator
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.store.reader import Sample, SampleStoreWriter
from seggen_core.synthesis.attempts import AttemptLog
from seggen_core.synthesis.attention_previews import NUM_PICTURES, draw_previews, save_named_panels
from seggen_core.synthesis.from_attention import run_with_capture, to_segmentation_map
from seggen_core.synthesis.mask_quality import (
    FLAGGED_IMAGE,
    NOT_FINITE_IMAGE,
    mask_status,
    soft_mask_quality,
)
from seggen_core.synthesis.noise_learning import cross_validated_confidence, least_confident
from seggen_core.synthesis.prompts import PromptSource
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass, Taxonomy
from seggen_core.tracking import track_stage
from seggen_core.training.precision import resolve_precision

logger = logging.getLogger(__name__)

NOT_WANTED = "not_needed"
LOW_CONFIDENCE = "low_confidence"


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/synthetic/diffumask/<item>: the sample store, attempts.jsonl, previews.png and metrics.json.

    Raises:
        ConfigError: params.yaml has no section `diffumask`, no class has the slug `item`, or
            `ignore_background` is off and none is called background.
        FoundationError: the foundation can't be loaded.
        PromptError: a prompt doesn't name the class.
        AttentionError: the foundation's attention can't be captured, or no candidate gave a usable
            mask.
    """
    assert item is not None
    settings = config.diffumask
    if settings is None:
        raise ConfigError(
            "params.yaml has no section 'diffumask', which this stage needs; its keys are in seggen_core/config"
        )
    settings = settings.for_class(item)
    taxonomy = Taxonomy.read(paths.taxonomy)
    target = taxonomy.by_slug(item)
    background_id = (
        IGNORE_INDEX if settings.ignore_background else taxonomy.by_slug("background").train_id
    )
    limit_threads(config.runtime)
    pipeline = load_pipeline(paths.model("foundation")).to(pick_device(config.runtime))
    params = settings.model_dump(mode="json")
    with track_stage(
        "diffumask", item=item, params=params, runtime=config.runtime, paths=paths
    ) as tracked:
        # 1. Candidates, as many as weren't there yet.
        tracked.log_input(name="foundation", path=paths.model("foundation"))
        model_hash = content_digest(paths.model("foundation"))
        prompts = PromptSource(
            settings,
            target=target,
            taxonomy=taxonomy,
            tokenizer=pipeline.tokenizer,
            name=(config.seed, "diffumask"),
            base=paths.root,
        )
        number = num_candidates(settings)
        asked = [prompts[i].text for i in range(number)]
        identity = json.dumps(
            [params, config.seed, config.dataset.image_size, taxonomy.to_json(), model_hash, asked]
        )
        scratch = (
            paths.scratch / "diffumask" / item / hashlib.sha256(identity.encode()).hexdigest()[:16]
        )
        try:
            candidates = generate_candidates(
                pipeline,
                settings=settings,
                config=config,
                target=target,
                prompts=prompts,
                folder=scratch / "candidates",
            )

            # 2. Masks, and which of them are kept.
            records, labels, panels = label_candidates(
                candidates,
                settings=settings,
                target=target,
                seed=config.seed,
                device=pick_device(config.runtime),
            )
            for record, prompt in zip(records, asked, strict=True):
                record["prompt"] = prompt
            kept = [k for k, record in enumerate(records) if record["status"] == ACCEPTED]
            shutil.rmtree(scratch / "store", ignore_errors=True)
            (scratch / "attempts.jsonl").unlink(missing_ok=True)
            log = AttemptLog(scratch / "attempts.jsonl", keep=0)
            log.extend(records)
            summary = log.summary()
            reasons = ", ".join(
                f"{count} {reason}" for reason, count in summary["rejected"].items()
            )
            if not kept:
                raise AttentionError(
                    f"none of {number} candidates of class {target.name!r} gave a usable mask ({reasons}); look at the "
                    "foundation's attention, or change diffumask.thresholds, affinity_net or the lowest scores"
                )
            if reasons:
                logger.info("diffumask %s: of %d candidates %s", item, number, reasons)
            if len(kept) < settings.samples_per_class:
                logger.warning(
                    "diffumask %s: %d of %d samples (%s)",
                    item,
                    len(kept),
                    settings.samples_per_class,
                    reasons,
                )

            # 3. The store, and what came of it.
            with SampleStoreWriter(scratch / "store", num_classes=len(taxonomy)) as writer:
                for k in kept:
                    metadata = {
                        "class_slug": target.slug,
                        "seed": derive_seed(config.seed, "diffumask", target.slug, k),
                        "prompt": asked[k],
                        "labelled": [target.slug],
                        "model_hash": model_hash,
                        "attempt": k,
                        "quality": records[k]["quality"],
                    }
                    segmentation_map = to_segmentation_map(
                        labels[k], train_ids=[target.train_id], background_id=background_id
                    )
                    key = f"diffumask-{target.slug}-{k:06d}"
                    writer.add(
                        Sample(key, candidates["images"][k], segmentation_map, None, metadata)
                    )
                writer.commit()
                shutil.rmtree(scratch / "previews", ignore_errors=True)
                (scratch / "previews").mkdir()
                for place, k in enumerate(kept[:NUM_PICTURES]):
                    maps = {name: m[k] for name, m in panels.items()}
                    path = scratch / "previews" / f"{place:03d}.npz"
                    save_named_panels(
                        candidates["images"][k], maps=maps, labels=labels[k], path=path
                    )
                picture = draw_previews(scratch / "previews", size=config.dataset.image_size)
                picture.save(scratch / "store" / "previews.png")
                shutil.copyfile(scratch / "attempts.jsonl", scratch / "store" / "attempts.jsonl")
                text = json.dumps(summary, indent=1, sort_keys=True) + "\n"
                (scratch / "store" / "metrics.json").write_text(text, encoding="utf-8")
                about = {
                    "method": "diffumask",
                    "class_slug": target.slug,
                    "params": params,
                    "seed": config.seed,
                }
                writer.finish(
                    manifest=about
                    | {
                        "model_hash": model_hash,
                        "samples_wanted": settings.samples_per_class,
                        **summary,
                    }
                )
            tracked.log_metrics(
                {k: float(summary[k]) for k in ("accepted", "attempts", "acceptance_rate")}
            )
            tracked.log_metrics({f"quality/{k}": v for k, v in summary["quality"].items()})
            tracked.log_metrics({f"rejected/{k}": float(v) for k, v in summary["rejected"].items()})
            out = publish(scratch / "store", paths.synthetic("diffumask", item))
            shutil.rmtree(scratch.parent)
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(
                f"can't write {error.filename or scratch}: {error.strerror or error}. The candidates in {scratch} are kept; "
                "free some space or make the folder writable, then run the same command again: it goes on from there"
            ) from error
        tracked.log_artifact(out / "previews.png")


def num_candidates(settings: DiffuMaskConfig) -> int:
    """Return how many images are made: full network calls, enough that `samples_per_class` are left after noise learning."""
    dropped = (
        0.0 if settings.noise_learning is None else min(settings.noise_learning.drop_share, 0.9)
    )
    micro = settings.sampling.micro_batch_size
    return math.ceil(settings.samples_per_class / (1 - dropped) / micro) * micro


@torch.no_grad()
def generate_candidates(
    pipeline: Any,
    *,
    settings: DiffuMaskConfig,
    config: SegGenConfig,
    target: SegmentationClass,
    prompts: PromptSource,
    folder: Path,
) -> dict[str, np.ndarray]:
    """Make all candidates of a class, one file a network call; calls whose file is there aren't made again.

    Returns:
        images uint8 [N, H, W, 3]; scores float32 [N, s, s], aggregated cross-attention at latent
        size; finite and flagged, bool [N]: whether the image is, and what a safety checker said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size, micro = config.dataset.image_size, settings.sampling.micro_batch_size
    starts = range(0, num_candidates(settings), micro)
    pipeline.scheduler = make_scheduler(pipeline, settings.sampling)
    for start in tqdm(starts, desc=f"diffumask {target.slug}", unit="call", disable=None):
        path = folder / f"{start:06d}.npz"
        if path.exists():
            continue
        numbers = range(start, start + micro)
        decoded, flagged, recorder = run_with_capture(
            pipeline,
            prompts=[prompts[i] for i in numbers],
            generators=[torch_generator(config.seed, "diffumask", target.slug, i) for i in numbers],
            sampling=settings.sampling,
            image_size=size,
            dtype=resolve_precision(settings.sampling.precision, pipeline.unet.device),
            cross_layers=settings.cross_attention_layers,
            self_resolutions=[],
        )
        pixels = (
            decoded.nan_to_num().mul(255).round().permute(0, 2, 3, 1).to("cpu", torch.uint8).numpy()
        )
        scores = recorder.mean_cross_map(size // vae_scale_factor(pipeline))[:, 0].cpu().numpy()
        finite = decoded.isfinite().flatten(1).all(1).cpu().numpy()
        with path.with_suffix(".partial").open("wb") as file:
            np.savez(file, images=pixels, scores=scores, finite=finite, flagged=np.array(flagged))
        path.with_suffix(".partial").replace(path)
    parts = []
    for start in starts:
        with np.load(folder / f"{start:06d}.npz", allow_pickle=False) as stored:
            parts.append(dict(stored))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def label_candidates(
    candidates: dict[str, np.ndarray],
    *,
    settings: DiffuMaskConfig,
    target: SegmentationClass,
    seed: int,
    device: torch.device,
) -> tuple[list[dict[str, Any]], np.ndarray, dict[str, np.ndarray]]:
    """Make a mask of every candidate and say which are kept.

    Args:
        candidates: of `generate_candidates`.
        settings: the method.
        target: the class; names the random streams.
        seed: likewise.
        device: where to compute.

    Returns:
        One record a candidate, {"attempt", "status", "quality"}; labels uint8 [N, H, W], 1 where
        the class is; maps for the previews, float32 [N, s, s] by name. Quality adds to
        `mask_quality` the threshold chosen, its match with V, and the confidence of noise learning.
    """
    name: tuple[str | int, ...] = (seed, "diffumask", target.slug)
    scores = torch.from_numpy(candidates["scores"]).to(device)
    usable = scores.sum((1, 2)).isfinite()
    scores = rescale(torch.where(usable[:, None, None], scores, 0.0))
    images = torch.from_numpy(candidates["images"]).to(device).permute(0, 3, 1, 2)
    size, number = images.shape[-1], len(images)

    # 1. What AffinityNet learns, and each image's best threshold.
    good = usable & torch.from_numpy(candidates["finite"] & ~candidates["flagged"]).to(device)
    network = None
    if settings.affinity_net is not None and good.any():
        network = train_affinity_net(
            images[good], scores[good], config=settings.affinity_net, name=name
        )
    parts = [
        diffumask_masks(
            upsample(scores[batch], size),
            images[batch].float() / 255,
            thresholds=settings.thresholds,
            background_score=settings.background_score,
            affinity_net=network,
            refine=settings.pamr,
            pamr_iterations=settings.pamr_iterations,
            pamr_dilations=settings.pamr_dilations,
        )
        for batch in torch.arange(number).split(settings.batch_size)
    ]
    masks, soft, reference, threshold, match = (
        torch.cat([getattr(part, field) for part in parts])
        for field in ("binary", "soft", "reference", "threshold", "match")
    )
    quality = soft_mask_quality(
        soft, mask=masks, threshold=threshold, seed_counts=(masks & reference).sum((1, 2))
    )

    # 2. Why a candidate can't be used.
    status = []
    for k in range(number):
        quality[k] |= {
            "threshold": round(float(threshold[k]), 6),
            "match": round(float(match[k]), 6),
        }
        found = ACCEPTED if scores[k].any() else NO_SEEDS
        found = found if usable[k] else NOT_FINITE
        found = found if candidates["finite"][k] else NOT_FINITE_IMAGE
        status.append(
            FLAGGED_IMAGE
            if candidates["flagged"][k]
            else mask_status(found, quality[k], config=settings)
        )
    accepted = [k for k in range(number) if status[k] == ACCEPTED]

    # 3. Noise learning, then no more than were asked for.
    if settings.noise_learning is not None and len(accepted) >= settings.noise_learning.num_folds:
        confidence = cross_validated_confidence(
            images[accepted],
            masks[accepted],
            config=settings.noise_learning,
            name=(*name, "noise learning"),
        ).tolist()
        for k, value in zip(accepted, confidence, strict=True):
            quality[k]["confidence"] = round(value, 6)
        for place in least_confident(confidence, drop_share=settings.noise_learning.drop_share):
            status[accepted[place]] = LOW_CONFIDENCE
    for k in _beyond(status, wanted=settings.samples_per_class):
        status[k] = NOT_WANTED
    records = [{"attempt": k, "status": status[k], "quality": quality[k]} for k in range(number)]
    maps = {"cross_attention": scores, "affinity_map": reference.float(), "soft_mask": soft}
    return (
        records,
        masks.to("cpu", torch.uint8).numpy(),
        {title: m.cpu().numpy() for title, m in maps.items()},
    )


def _beyond(status: Sequence[str], *, wanted: int) -> list[int]:
    return [k for k, found in enumerate(status) if found == ACCEPTED][wanted:]
