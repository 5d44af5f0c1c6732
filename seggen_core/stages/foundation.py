"""Stage `foundation`: the text-to-image pipeline that everything downstream starts from, as a diffusers folder."""

import json
import shutil
from pathlib import Path

from tqdm import tqdm

from seggen_core.config import SegGenConfig
from seggen_core.generators.foundation import load_pipeline, vae_scale_factor
from seggen_core.paths import ProjectPaths
from seggen_core.reports.grids import image_grid
from seggen_core.rng import torch_generator
from seggen_core.runtime import limit_threads, pick_device
from seggen_core.synthesis.partition import publish
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import StageRun, track_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/models/foundation, copied from `source` or pretrained here, and a picture of what it draws."""
    assert item is None
    params = config.foundation.model_dump(mode="json")
    with track_stage("foundation", item=None, params=params, runtime=config.runtime, paths=paths) as tracked:
        limit_threads(config.runtime)
        scratch = paths.scratch / "foundation"
        finished = scratch / "pipeline"
        if config.foundation.mode == "pretrain":
            _pretrain(config, work_folder=scratch / "work", folder=finished, tracked=tracked)
        else:
            assert config.foundation.source is not None
            source = paths.root / config.foundation.source
            found: str | Path = source if source.is_dir() else config.foundation.source
            shutil.rmtree(finished, ignore_errors=True)
            load_pipeline(found, revision=config.foundation.revision).save_pretrained(finished, safe_serialization=True)
        _preview(config, paths=paths, folder=finished, tracked=tracked)
        publish(finished, paths.model("foundation"))
        shutil.rmtree(scratch)


def _preview(config: SegGenConfig, *, paths: ProjectPaths, folder: Path, tracked: StageRun) -> None:
    from seggen_core.generators.sampling import resolve_precision, sample_images

    pipeline = load_pipeline(folder).to(pick_device(config.runtime))
    taxonomy = Taxonomy.from_json(json.loads(paths.taxonomy.read_text(encoding="utf-8")))
    prompts = [f"a photo of a {c.name}" if c.is_thing else f"a photo of {c.name}" for c in taxonomy][:8]
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


def _pretrain(config: SegGenConfig, *, work_folder: Path, folder: Path, tracked: StageRun) -> None:
    from accelerate import Accelerator

    from seggen_core.generators.pretrain import pretrain_foundation

    settings = config.foundation.pretrain
    assert settings is not None
    accelerator = Accelerator(cpu=pick_device(config.runtime).type == "cpu", mixed_precision=settings.mixed_precision)
    bars: dict[str, tqdm] = {}

    def on_step(part: str, step: int, metrics: dict[str, float]) -> None:
        if part not in bars:
            total = settings.unet_steps if part == "unet" else settings.autoencoder_steps
            bars[part] = tqdm(total=total, initial=step, desc=f"pretrain {part}", unit="step", disable=None)
        bars[part].update(1)
        if step % 20 == 0:
            tracked.log_metrics({f"{part}/{k}": v for k, v in metrics.items()}, step=step)

    pretrain_foundation(
        settings, seed=config.seed, folder=folder, work_folder=work_folder, accelerator=accelerator, on_step=on_step
    )
    for bar in bars.values():
        bar.close()
