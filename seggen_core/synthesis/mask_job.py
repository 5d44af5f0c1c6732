"""One run of `seggen mask`: from words and prompts to the folder of images and masks."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from seggen_core.attention.masks import ACCEPTED
from seggen_core.config import DiffuMaskConfig, RuntimeConfig
from seggen_core.generators.foundation import load_pipeline
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.store.cache import RecordCache
from seggen_core.synthesis.mask_folder import MaskFolder, sample_row
from seggen_core.synthesis.mask_images import (
    AttentionSource,
    MaskedImage,
    MaskRequest,
    diffumask_images,
    is_usable,
    seediff_image,
)
from seggen_core.synthesis.mask_model import change_sampling, check_image_size, open_model
from seggen_core.synthesis.mask_prompts import Words, make_requests
from seggen_core.synthesis.mask_settings import MaskDefaults, method_settings
from seggen_core.synthesis.prompt_file import ListedPrompt


@dataclass(frozen=True)
class MaskJob:
    """What to make."""

    words: Words
    """What to mask."""
    prompts: Sequence[ListedPrompt]
    """Prompts of the images."""
    model: str | None
    """Folder or repository of a pipeline; None is the shipped foundation."""
    revision: str | None
    """Commit of a repository."""
    method: str
    """One of `mask_settings.METHODS`."""
    changes: Mapping[str, Any]
    """Keys of the method's section that the user sets."""
    sampling: Mapping[str, Any]
    """Keys of `SamplingConfig` that the user sets; None leaves the default."""
    image_size: int | None
    """Side of the images in pixels; None is the model's."""
    seeds: Sequence[int]
    """Seeds of the images of each prompt."""
    out: Path
    """The folder to fill."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """As `runtime.device`."""
    with_maps: bool = False
    """Draw attention maps, too."""
    keep: bool = True
    """Keep attention, for other masks of the same images."""


@dataclass
class MaskResult:
    """What a run made.

    Attributes:
        places: the preview of each image.
        notes: which words have no mask that can be used, and why.
        num_made: images that were drawn; the others were kept.
        num_usable: images with a mask of at least one word.
    """

    places: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_made: int = 0
    num_usable: int = 0


def run_job(job: MaskJob, *, root: Path) -> MaskResult:
    """Make images, cut their masks and write both.

    Prompts are checked before the networks are loaded, and networks are loaded only if an image is
    to be drawn.

    Args:
        job: what to make.
        root: the folder with `profiles`, where the shipped foundation is.

    Raises:
        SegGenError: as `commands.mask.run`.
    """
    model = open_model(job.model, revision=job.revision, root=root)
    sampling = change_sampling(model.defaults.sampling, job.sampling)
    size = check_image_size(job.image_size or model.defaults.image_size, model)
    method_settings(
        job.method, model.defaults, job.changes, attentions=[]
    )  # refuses what can't be used
    requests = make_requests(
        job.prompts, words=job.words, tokenizer=model.read_tokenizer(), seeds=job.seeds
    )
    target = MaskFolder(job.out, job.words.taxonomy)
    runtime = RuntimeConfig(device=job.device, num_threads=len(os.sched_getaffinity(0)))
    limit_threads(runtime)
    device = pick_device(runtime)
    with ExitStack() as stack:
        cache = None
        if job.keep:
            place = ProjectPaths(job.out).record_cache("mask", "attention")
            cache = stack.enter_context(RecordCache(place))
        source = AttentionSource(
            lambda: load_pipeline(model.folder).to(device),
            model=f"{model.identity} on {device.type}",
            sampling=sampling,
            image_size=size,
            cache=cache,
        )
        cut = _masked_images(job, requests, source=source, defaults=model.defaults, device=device)
        result = _write_all(job, cut, target=target)
        result.num_made = source.num_made
        return result


def _write_all(
    job: MaskJob, masked_images: Iterable[tuple[MaskRequest, MaskedImage]], *, target: MaskFolder
) -> MaskResult:
    result, rows = MaskResult(), []
    settings = {
        "method": job.method,
        "model": job.model or "shipped",
        "revision": job.revision,
        "sampling": {key: value for key, value in job.sampling.items() if value is not None},
        "settings": dict(job.changes),
    }
    for request, masked in masked_images:
        result.places.append(target.add(request, masked, with_maps=job.with_maps))
        rows.append(sample_row(request, masked, settings=settings))
        result.num_usable += is_usable(masked)
        result.notes += [
            f"{request.name}: the mask of {slug} can't be used ({status})"
            for slug, status in masked.status.items()
            if status != ACCEPTED
        ]
    target.record(rows)
    return result


def _masked_images(
    job: MaskJob,
    requests: Sequence[MaskRequest],
    *,
    source: AttentionSource,
    defaults: MaskDefaults,
    device: torch.device,
) -> Iterator[tuple[MaskRequest, MaskedImage]]:
    """Yield images with masks, one at a time; those of DiffuMask, once all images are there."""
    attentions = []
    for request in tqdm(requests, desc="mask", unit="image", disable=None):
        attention = source.get(request)
        config = method_settings(job.method, defaults, job.changes, attentions=[attention])
        if isinstance(config, DiffuMaskConfig):
            attentions.append(replace(attention, self_maps={}))  # it needs none of these large maps
        else:
            yield request, seediff_image(attention, request.prompt, config=config, device=device)
    if attentions:
        config = method_settings(job.method, defaults, job.changes, attentions=attentions)
        assert isinstance(config, DiffuMaskConfig)
        prompts = [request.prompt for request in requests]
        masked = diffumask_images(attentions, prompts, config=config, device=device)
        pairs = zip(requests, masked, strict=True)
        yield from tqdm(pairs, desc="write", total=len(masked), unit="image", disable=None)
