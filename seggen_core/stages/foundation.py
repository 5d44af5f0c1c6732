"""Stage `foundation`: the text-to-image pipeline that everything downstream starts from, as a diffusers folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from seggen_core.config import PretrainConfig, RuntimeConfig, SegGenConfig
from seggen_core.errors import FoundationError
from seggen_core.generators.foundation import load_pipeline, vae_scale_factor
from seggen_core.generators.pretrain_data import CaptionedImages
from seggen_core.generators.training_data import open_training_data
from seggen_core.project.digests import content_digest, json_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import publish
from seggen_core.project.rng import torch_generator
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.reports.grids import image_grid
from seggen_core.scenes.layout import count_phrase
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import StageRun, track_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/models/foundation, copied from `source` or pretrained here, and a picture of what it draws."""
    assert item is None
    if config.dataset.image_size % 8:
        raise FoundationError(
            f"dataset.image_size is {config.dataset.image_size}; diffusion pipelines make multiples of 8 pixels"
        )
    params = config.foundation.model_dump(mode="json")
    with track_stage(
        "foundation", item=None, params=params, runtime=config.runtime, paths=paths
    ) as tracked:
        limit_threads(config.runtime)
        settings = config.foundation.pretrain if config.foundation.mode == "pretrain" else None
        training_images = None
        identity = [params, config.seed]
        if settings is not None and settings.data == "training_images":
            data = open_training_data(
                paths,
                color_map=config.dataset.color_map,
                crops=settings.random_crops,
                seed=config.seed,
            )
            training_images = CaptionedImages(data.read_image, data.captions)
            identity += [content_digest(paths.real("train")), content_digest(paths.captions)]
            if settings.image_size != config.dataset.image_size:
                raise FoundationError(
                    f"foundation.pretrain.image_size is {settings.image_size}, but the training images have "
                    f"dataset.image_size {config.dataset.image_size}; set both to the same"
                )
        if (
            settings is not None
            and settings.init_from is not None
            and (paths.root / settings.init_from).is_dir()
        ):
            identity.append(content_digest(paths.root / settings.init_from))
        scratch = paths.scratch / "foundation" / json_digest(identity)
        finished = scratch / "pipeline"
        if settings is not None:
            pretrain(
                settings,
                seed=config.seed,
                runtime=config.runtime,
                folder=finished,
                work_folder=scratch / "work",
                base=paths.root,
                on_metrics=lambda metrics, step: tracked.log_metrics(metrics, step=step),
                training_images=training_images,
            )
        else:
            assert config.foundation.source is not None
            source = paths.root / config.foundation.source
            found: str | Path = source if source.is_dir() else config.foundation.source
            shutil.rmtree(finished, ignore_errors=True)
            load_pipeline(found, revision=config.foundation.revision).save_pretrained(
                finished, safe_serialization=True
            )
        _preview(config, paths=paths, folder=finished, tracked=tracked)
        publish(finished, paths.model("foundation"))
        shutil.rmtree(scratch.parent)


def _preview(config: SegGenConfig, *, paths: ProjectPaths, folder: Path, tracked: StageRun) -> None:
    from seggen_core.generators.sampling import sample_images
    from seggen_core.training.precision import resolve_precision

    pipeline = load_pipeline(folder).to(pick_device(config.runtime))
    taxonomy = Taxonomy.read(paths.taxonomy)
    prompts = [f"a photo of {count_phrase(c.name, 1) if c.is_thing else c.name}" for c in taxonomy][
        :8
    ]
    sampling = config.seediff.sampling
    images = sample_images(
        pipeline,
        prompts=prompts,
        generators=lambda i: torch_generator(config.seed, "foundation-preview", i),
        config=sampling,
        image_size=config.dataset.image_size,
        dtype=resolve_precision(sampling.precision, pipeline.unet.device),
    )
    picture = folder / "previews.png"
    image_grid([list(images)], scale=max(1, 128 // config.dataset.image_size)).save(picture)
    tracked.log_artifact(picture)
    tracked.log_metrics(
        {
            "unet_parameters": float(sum(p.numel() for p in pipeline.unet.parameters())),
            "vae_parameters": float(sum(p.numel() for p in pipeline.vae.parameters())),
            "vae_scale_factor": float(vae_scale_factor(pipeline)),
        }
    )


def pretrain(
    settings: PretrainConfig,
    *,
    seed: int,
    runtime: RuntimeConfig,
    folder: Path,
    work_folder: Path,
    base: Path,
    on_metrics: Callable[[dict[str, float], int], None] = lambda *_: None,
    training_images: CaptionedImages | None = None,
) -> None:
    """Pretrain the embedded foundation and save it in `folder`; an interrupted run goes on from `work_folder`.

    A relative `settings.init_from` starts from `base`.
    """
    from accelerate import Accelerator

    from seggen_core.generators.pretrain import pretrain_foundation
    from seggen_core.training.precision import resolve_precision

    if settings.init_from is not None:
        settings = settings.model_copy(update={"init_from": base / settings.init_from})
    limit_threads(runtime)
    device = pick_device(runtime)
    half = {"torch.float32": "no", "torch.bfloat16": "bf16", "torch.float16": "fp16"}[
        str(resolve_precision(settings.precision, device))
    ]
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=half)
    bars: dict[str, tqdm] = {}

    def on_step(part: str, step: int, metrics: dict[str, float]) -> None:
        if part not in bars:
            total = settings.unet_steps if part == "unet" else settings.autoencoder_steps
            bars[part] = tqdm(
                total=total, initial=step, desc=f"pretrain {part}", unit="step", disable=None
            )
        bars[part].update(1)
        if step % 20 == 0:
            on_metrics({f"{part}/{k}": v for k, v in metrics.items()}, step)

    pretrain_foundation(
        settings,
        seed=seed,
        folder=folder,
        work_folder=work_folder,
        accelerator=accelerator,
        on_step=on_step,
        training_images=training_images,
    )
    for bar in bars.values():
        bar.close()
