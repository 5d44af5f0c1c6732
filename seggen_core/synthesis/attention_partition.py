"""One class partition of a method that takes masks from attention: SeeDiff or DiffuMask."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seggen_core.errors import AttentionError
from seggen_core.project.publish import write_json
from seggen_core.project.storage import storage_errors
from seggen_core.stage import Stage
from seggen_core.store.reader import SampleStore, SampleStoreWriter
from seggen_core.synthesis.attention_method import AttentionMethod, MaskSink, Settings
from seggen_core.synthesis.attention_previews import NUM_PICTURES, draw_previews
from seggen_core.synthesis.outcomes import summarize, write_attempts
from seggen_core.synthesis.partition import FinishedPartition, describe_origin

logger = logging.getLogger(__name__)


def attention_partition(
    method_class: type[AttentionMethod[Settings]],
    stage: Stage,
    sink: MaskSink[Settings],
    folder: Path,
    *,
    others: Sequence[MaskSink[Settings]] = (),
) -> FinishedPartition:
    """Make one class partition of a method or of a mask recipe.

    Attempts are found in the store's cache or made and added to it, so a run that was killed goes
    on after its last commit. The store is the same bytes either way. attempts.jsonl has every
    attempt with its prompt, its scores and why it was rejected.

    Args:
        method_class: SeeDiff or DiffuMask.
        stage: the method and the class.
        sink: the store to make.
        folder: emptied, and filled with the store.
        others: stores with the same images, whose records are made with it.

    Raises:
        ConfigError: no class has the stage's slug, or `ignore_background` is off and none is
            called background.
        FoundationError: the foundation can't be loaded.
        PromptError: a prompt can't be used, or there is none of the class.
        AttentionError: the foundation's attention can't be captured as configured, or no attempt
            gave a usable mask.
        StorageError: the disk is full or not writable; what was committed is kept.
    """
    method = method_class(stage, sink, others=others)
    with method.keeping():
        return _fill(method, folder)


def _fill(method: AttentionMethod[Any], folder: Path) -> FinishedPartition:
    """Make the attempts, and write the store of those that are accepted."""
    attempts = method.attempts()
    accepted = [a.attempt for a in attempts if a.is_accepted]
    summary = summarize(attempts)
    _report(method, summary)
    with storage_errors(folder, remains=f"What was committed is kept in {method.cache.folder}."):
        keys = _write_store(method, accepted, summary=summary, folder=folder)
        write_attempts(folder / "attempts.jsonl", attempts)
        write_json(folder / "metrics.json", summary)
    metrics = {name: float(summary[name]) for name in ("accepted", "attempts", "acceptance_rate")}
    metrics |= {f"quality/{name}": value for name, value in summary["quality"].items()}
    metrics |= {f"rejected/{name}": float(n) for name, n in summary["rejected"].items()}
    digests = {key: method.digest(attempt) for key, attempt in zip(keys, accepted, strict=True)}
    further = [method.digest(a.attempt) for a in attempts if not a.is_accepted]
    further += [method.story_digest(attempt) for attempt in accepted[:NUM_PICTURES]]
    return FinishedPartition(
        folder,
        metrics,
        {key: digest for key, digest in digests.items() if digest is not None},
        [digest for digest in further if digest is not None],
    )


def _report(method: AttentionMethod[Any], summary: dict[str, Any]) -> None:
    """Log what was rejected; AttentionError where nothing was accepted."""
    name, target, needed = method.store, method.target, method.settings.samples_per_class
    num_attempts, noun = summary["attempts"], method.noun.split()[0]
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary["rejected"].items())
    if not summary["accepted"]:
        raise AttentionError(
            f"none of {num_attempts} {method.noun} class {target.name!r} gave a usable mask "
            f"({reasons}); look at the foundation's attention, or change {method.advice}"
        )
    if reasons:
        logger.info("%s %s: of %d %s %s", name, target.slug, num_attempts, noun, reasons)
    if summary["accepted"] < needed:
        logger.warning(
            "%s %s: %d of %d samples after %d %s (%s)",
            name,
            target.slug,
            summary["accepted"],
            needed,
            num_attempts,
            noun,
            reasons,
        )


def _write_store(
    method: AttentionMethod[Any],
    accepted: Sequence[int],
    *,
    summary: dict[str, Any],
    folder: Path,
) -> list[str]:
    """Write the samples of accepted attempts and their pictures; return the samples' keys."""
    shutil.rmtree(folder, ignore_errors=True)
    settings, num_classes = method.settings, len(method.stage.taxonomy)
    with SampleStoreWriter(folder, num_classes=num_classes, **settings.encoding) as writer:
        for attempt in accepted:
            writer.append(method.sample(attempt))
        about = {
            "method": method.store,
            "class_slug": method.target.slug,
            **describe_origin(method.stage, trained_on_real=False),
            "params": settings.recorded,
            "seed": method.seed,
            "model_hash": method.model_hash,
            "samples_wanted": settings.samples_per_class,
        }
        writer.finish(manifest=about | summary)
    store = SampleStore(folder)
    images = [store.read_image(k) for k in range(len(accepted[:NUM_PICTURES]))]
    stories = [method.story(attempt) for attempt in accepted[:NUM_PICTURES]]
    draw_previews(images, stories).save(folder / "previews.png")
    return store.keys()
