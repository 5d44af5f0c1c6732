"""One class partition of a method that takes masks from attention: SeeDiff or DiffuMask."""

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from seggen_core.config.attention import AttentionMethodConfig
from seggen_core.errors import AttentionError
from seggen_core.generators.foundation import load_pipeline
from seggen_core.project.publish import write_json
from seggen_core.store.cache import RecordCache
from seggen_core.store.files import storage_errors
from seggen_core.store.format import EncodedSample
from seggen_core.store.reader import SampleStore, SampleStoreWriter
from seggen_core.synthesis.attention_job import AttentionJob, background_id
from seggen_core.synthesis.attention_previews import NUM_PICTURES, MaskStory, draw_previews
from seggen_core.synthesis.outcomes import Attempt, summarize, write_attempts
from seggen_core.synthesis.partition import FinishedPartition, PartitionContext

logger = logging.getLogger(__name__)


Settings = TypeVar("Settings", bound=AttentionMethodConfig)


class AttentionMethod(Protocol):
    """One class of one of the methods.

    Attributes:
        noun: what it calls its attempts in messages.
        advice: what to change where no attempt is accepted.
    """

    noun: str
    advice: str

    def attempts(self) -> list[Attempt]:
        """Make the attempts that there are to be, or find them in the job's cache."""

    def sample(self, index: int) -> EncodedSample:
        """Return the sample of an accepted attempt."""

    def story(self, index: int) -> MaskStory:
        """Return what the mask of an accepted attempt came from."""

    def digest(self, index: int) -> str | None:
        """Return the digest of the attempt's record; None where a later run can't use it."""

    def story_digest(self, index: int) -> str | None:
        """Return the digest of the story's record; None where a later run can't use it."""


def attention_partition(
    make_method: Callable[[AttentionJob, Settings], AttentionMethod],
    context: PartitionContext,
    *,
    settings: Settings,
    cache: RecordCache,
    folder: Path,
) -> FinishedPartition:
    """Make one class partition of a method.

    Attempts are found in `cache` or made and added to it, so a run that was killed goes on after
    its last commit. The store is the same bytes either way. attempts.jsonl has every attempt with
    its prompt, its scores and why it was rejected.

    Args:
        make_method: SeeDiff or DiffuMask.
        context: the stage.
        settings: the method's section.
        cache: what earlier runs have made.
        folder: emptied, and filled with the store.

    Raises:
        ConfigError: no class has the context's slug, or `ignore_background` is off and none is
            called background.
        FoundationError: the foundation can't be loaded.
        PromptError: a prompt doesn't name the class.
        AttentionError: the foundation's attention can't be captured as configured, or no attempt
            gave a usable mask.
        StorageError: the disk is full or not writable; what was committed is kept.
    """
    settings = settings.for_class(context.taxonomy.by_slug(context.class_slug).slug)
    background_id(settings, context)  # before anything is loaded
    foundation = context.paths.model("foundation")
    pipeline = load_pipeline(foundation).to(context.device)
    context.run.log_input(name="foundation", path=foundation)
    job = AttentionJob(settings, pipeline=pipeline, context=context, cache=cache)
    method = make_method(job, settings)
    attempts = method.attempts()
    summary = summarize(attempts)
    _report(method, job, summary)
    with storage_errors(folder, kept=f"What was committed is kept in {cache.folder}."):
        _write_store(method, job, attempts, summary=summary, folder=folder)
    return _finish(method, attempts, summary=summary, folder=folder)


def _report(method: AttentionMethod, job: AttentionJob, summary: dict[str, Any]) -> None:
    """Log what was rejected; AttentionError where nothing was accepted."""
    name, target, needed = job.name, job.target, job.settings.samples_per_class
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
    method: AttentionMethod,
    job: AttentionJob,
    attempts: Sequence[Attempt],
    *,
    summary: dict[str, Any],
    folder: Path,
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    accepted = [a.attempt for a in attempts if a.is_accepted]
    with SampleStoreWriter(folder, num_classes=len(job.context.taxonomy)) as writer:
        for index in accepted:
            writer.append(method.sample(index))
        about = {
            "method": job.name,
            "class_slug": job.target.slug,
            "params": job.settings.model_dump(mode="json"),
            "seed": job.seed,
            "model_hash": job.model_hash,
            "samples_wanted": job.settings.samples_per_class,
        }
        writer.finish(manifest=about | summary)
    store = SampleStore(folder)
    images = [store.read_image(k) for k in range(len(accepted[:NUM_PICTURES]))]
    stories = [method.story(index) for index in accepted[:NUM_PICTURES]]
    draw_previews(images, stories).save(folder / "previews.png")
    write_attempts(folder / "attempts.jsonl", attempts)
    write_json(folder / "metrics.json", summary)


def _finish(
    method: AttentionMethod,
    attempts: Sequence[Attempt],
    *,
    summary: dict[str, Any],
    folder: Path,
) -> FinishedPartition:
    metrics = {name: float(summary[name]) for name in ("accepted", "attempts", "acceptance_rate")}
    metrics |= {f"quality/{name}": value for name, value in summary["quality"].items()}
    metrics |= {f"rejected/{name}": float(n) for name, n in summary["rejected"].items()}
    accepted = [a.attempt for a in attempts if a.is_accepted]
    digests = (method.digest(index) for index in accepted)
    keys = SampleStore(folder).keys()
    others = [method.digest(a.attempt) for a in attempts if not a.is_accepted]
    others += [method.story_digest(index) for index in accepted[:NUM_PICTURES]]
    return FinishedPartition(
        folder,
        metrics,
        {key: digest for key, digest in zip(keys, digests, strict=True) if digest is not None},
        [digest for digest in others if digest is not None],
    )
