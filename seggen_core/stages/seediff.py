"""Stage `seediff`: images of one class with masks from the foundation's own attention, in a sample store.

Attempt i of a class is one prompt and one noise. Attempts are made until `samples_per_class` of
them gave a usable mask, at most three times as many; the others are counted by reason in the
manifest, and attempts.jsonl has every attempt with its prompt, its scores and why it was rejected.
"""

import hashlib
import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from seggen_core.attention.seediff import ACCEPTED
from seggen_core.config import SegGenConfig
from seggen_core.errors import AttentionError, StorageError
from seggen_core.generators.foundation import load_pipeline
from seggen_core.project.digests import content_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import publish
from seggen_core.project.rng import derive_seed, torch_generator
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.store.reader import Sample, SampleStoreWriter
from seggen_core.synthesis.attempts import AttemptLog
from seggen_core.synthesis.attention_previews import NUM_PICTURES, draw_previews, save_panels
from seggen_core.synthesis.from_attention import generate_from_attention, to_segmentation_map
from seggen_core.synthesis.prompts import PromptSource
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass, Taxonomy
from seggen_core.tracking import track_stage
from seggen_core.training.precision import resolve_precision

logger = logging.getLogger(__name__)

MAX_ATTEMPTS_PER_SAMPLE = 3


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/synthetic/seediff/<item>: the sample store, attempts.jsonl, previews.png and metrics.json.

    Raises:
        ConfigError: no class has the slug `item`, or `ignore_background` is off and none is called
            background.
        FoundationError: the foundation can't be loaded.
        PromptError: a template doesn't name the class.
        AttentionError: the foundation's attention can't be captured as configured, or no attempt
            gave a usable mask.
    """
    assert item is not None
    taxonomy = Taxonomy.read(paths.taxonomy)
    target = taxonomy.by_slug(item)
    if not config.seediff.ignore_background:
        taxonomy.by_slug("background")
    limit_threads(config.runtime)
    pipeline = load_pipeline(paths.model("foundation")).to(pick_device(config.runtime))
    with track_stage(
        "seediff",
        item=item,
        params=config.seediff.model_dump(mode="json"),
        runtime=config.runtime,
        paths=paths,
    ) as tracked:
        tracked.log_input(name="foundation", path=paths.model("foundation"))
        model_hash = content_digest(paths.model("foundation"))
        listed = (
            None if config.seediff.prompt_file is None else paths.root / config.seediff.prompt_file
        )
        identity = json.dumps(
            [
                config.seediff.model_dump(mode="json"),
                config.seed,
                config.dataset.image_size,
                taxonomy.to_json(),
                model_hash,
                content_digest(listed) if listed is not None and listed.is_file() else None,
            ]
        )
        scratch = (
            paths.scratch / "seediff" / item / hashlib.sha256(identity.encode()).hexdigest()[:16]
        )
        try:
            scratch.mkdir(parents=True, exist_ok=True)
            summary = _generate(
                config,
                pipeline,
                target=target,
                taxonomy=taxonomy,
                model_hash=model_hash,
                scratch=scratch,
                base=paths.root,
            )
            tracked.log_metrics(
                {k: float(summary[k]) for k in ("accepted", "attempts", "acceptance_rate")}
            )
            tracked.log_metrics({f"quality/{k}": v for k, v in summary["quality"].items()})
            tracked.log_metrics({f"rejected/{k}": float(v) for k, v in summary["rejected"].items()})
            out = publish(scratch / "store", paths.synthetic("seediff", item))
            shutil.rmtree(scratch.parent)
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(
                f"can't write {error.filename or scratch}: {error.strerror or error}. What was committed in {scratch} is kept; "
                "free some space or make the folder writable, then run the same command again: it goes on from there"
            ) from error
        tracked.log_artifact(out / "previews.png")


def _generate(
    config: SegGenConfig,
    pipeline: Any,
    *,
    target: SegmentationClass,
    taxonomy: Taxonomy,
    model_hash: str,
    scratch: Path,
    base: Path,
) -> dict:
    """Fill scratch/store, continuing after the last committed sample; return the summary of all attempts."""
    settings = config.seediff.for_class(target.slug)
    background_id = (
        IGNORE_INDEX if settings.ignore_background else taxonomy.by_slug("background").train_id
    )
    micro = settings.sampling.micro_batch_size
    wanted, limit = settings.samples_per_class, MAX_ATTEMPTS_PER_SAMPLE * settings.samples_per_class
    prompts = PromptSource(
        settings,
        target=target,
        taxonomy=taxonomy,
        tokenizer=pipeline.tokenizer,
        name=(config.seed, "seediff"),
        base=base,
    )
    with SampleStoreWriter(scratch / "store", num_classes=len(taxonomy)) as writer:
        # 1. Where an interrupted run stopped. Calls are aligned at multiples of the micro-batch, so
        # that each attempt is always    computed in the same row of the same call: with several
        # threads kernels round differently for different rows.
        done = int(writer.committed[-1].rpartition("-")[2]) + 1 if writer.committed else 0
        log = AttemptLog(scratch / "attempts.jsonl", keep=done)
        start = done - done % micro

        # 2. Attempts, until there are enough samples.
        with tqdm(
            total=wanted,
            initial=len(log.accepted),
            desc=f"seediff {target.slug}",
            unit="image",
            disable=None,
        ) as progress:
            while len(log.accepted) < wanted and start < limit:
                missing = wanted - len(log.accepted) + done - start
                calls = -(-min(settings.batch_size, missing, limit - start) // micro)
                attempts = range(start, start + calls * micro)
                asked = [prompts[i] for i in attempts]
                made = generate_from_attention(
                    pipeline,
                    prompts=asked,
                    generators=partial(_noise, config.seed, target.slug, start),
                    config=settings,
                    image_size=config.dataset.image_size,
                    dtype=resolve_precision(settings.sampling.precision, pipeline.device),
                )

                # 3. The log first, then the samples it speaks of.
                kept: list[int] = []
                records: list[dict] = []
                for k, attempt in enumerate(attempts):
                    if (
                        attempt < done
                        or attempt >= limit
                        or len(log.accepted) + len(kept) == wanted
                    ):
                        continue
                    record = {
                        "attempt": attempt,
                        "prompt": asked[k].text,
                        "status": made.status[k],
                        "quality": made.quality[k],
                    }
                    records.append(record)
                    kept += [k] if made.status[k] == ACCEPTED else []
                first_kept = len(log.accepted)
                log.extend(records)
                for number, k in enumerate(kept, start=first_kept):
                    if number < NUM_PICTURES:
                        save_panels(made, k, path=scratch / "previews" / f"{number:03d}.npz")
                    metadata = {
                        "class_slug": target.slug,
                        "seed": derive_seed(config.seed, "seediff", target.slug, attempts[k]),
                        "prompt": asked[k].text,
                        "labelled": [c.slug for c in asked[k].classes],
                        "model_hash": model_hash,
                        "attempt": attempts[k],
                        "quality": made.quality[k],
                    }
                    train_ids = [c.train_id for c in asked[k].classes]
                    segmentation_map = to_segmentation_map(
                        made.labels[k], train_ids=train_ids, background_id=background_id
                    )
                    key = f"seediff-{target.slug}-{attempts[k]:06d}"
                    writer.add(Sample(key, made.images[k], segmentation_map, None, metadata))
                writer.commit()
                progress.update(len(kept))
                start = done = attempts.stop

        # 4. What came of it.
        summary = log.summary()
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["rejected"].items())
        if not log.accepted:
            raise AttentionError(
                f"none of {summary['attempts']} attempts at class {target.name!r} gave a usable mask ({reasons}); look at the "
                "foundation's attention, or change seediff.alpha, beta, the lowest scores or cross_attention_resolution"
            )
        if reasons:
            logger.info("seediff %s: of %d attempts %s", target.slug, summary["attempts"], reasons)
        if len(log.accepted) < wanted:
            found, tried = len(log.accepted), summary["attempts"]
            logger.warning(
                "seediff %s: %d of %d samples after %d attempts (%s)",
                target.slug,
                found,
                wanted,
                tried,
                reasons,
            )
        draw_previews(scratch / "previews", size=config.dataset.image_size).save(
            scratch / "store" / "previews.png"
        )
        shutil.copyfile(scratch / "attempts.jsonl", scratch / "store" / "attempts.jsonl")
        (scratch / "store" / "metrics.json").write_text(
            json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
        writer.finish(
            manifest={
                "method": "seediff",
                "class_slug": target.slug,
                "params": settings.model_dump(mode="json"),
                "seed": config.seed,
                "model_hash": model_hash,
                "samples_wanted": wanted,
                **summary,
            }
        )
    return summary


def _noise(seed: int, slug: str, first: int, k: int) -> torch.Generator:
    return torch_generator(seed, "seediff", slug, first + k)
