"""Stage `text2mask`: the foundation's UNet, fine-tuned on (caption, colour map) pairs of the whole training split."""

import shutil

from tqdm import tqdm

from seggen_core.config import SamplingConfig, SegGenConfig
from seggen_core.generators.foundation import load_pipeline
from seggen_core.generators.latent_cache import PromptCache, cache_latents
from seggen_core.generators.mask_decoder import train_mask_decoder
from seggen_core.generators.sampling import sample_images
from seggen_core.generators.text2mask import train_text2mask
from seggen_core.generators.training_data import open_training_data, training_fingerprint
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import publish
from seggen_core.project.rng import torch_generator
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.reports.grids import image_grid
from seggen_core.tracking import track_stage, tracked_steps
from seggen_core.training.precision import resolve_precision

_NUM_PICTURES = 10


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/models/text2mask, a whole diffusers pipeline that draws colour maps, with a picture of some."""
    assert item is None
    settings = config.text2mask
    with track_stage(
        "text2mask",
        item=None,
        params=settings.model_dump(mode="json"),
        runtime=config.runtime,
        paths=paths,
    ) as tracked:
        for name, path in (
            ("foundation", paths.model("foundation")),
            ("real_train", paths.real("train")),
            ("captions", paths.captions),
        ):
            tracked.log_input(name=name, path=path)
        limit_threads(config.runtime)
        device = pick_device(config.runtime)
        scratch = (
            paths.scratch
            / "text2mask"
            / training_fingerprint("text2mask", config=config, section=settings, paths=paths)
        )

        # 1. Latents and embeddings, once.
        data = open_training_data(
            paths, color_map=config.dataset.color_map, crops=settings.random_crops, seed=config.seed
        )
        pipeline = load_pipeline(paths.model("foundation")).to(device)
        with tqdm(
            total=len(data.captions), desc="text2mask: encode colour maps", unit="map", disable=None
        ) as bar:
            color_maps = cache_latents(
                pipeline.vae,
                read_image=data.read_color_map,
                number=len(data.captions),
                file=scratch / "latents.npy",
                batch_size=settings.batch_size,
                progress=bar.update,
            )
        prompts = PromptCache(pipeline, data.captions, image_size=config.dataset.image_size)

        # 2. Fine-tuning.
        with tracked_steps(
            tracked, total=settings.num_steps, description="text2mask: train", prefix="train"
        ) as on_step:
            train_text2mask(
                pipeline,
                settings,
                seed=config.seed,
                color_maps=color_maps,
                prompts=prompts,
                state_folder=scratch / "state",
                on_step=on_step,
            )

        # 3. The decoder, where asked for.
        if settings.decoder_steps:
            with tracked_steps(
                tracked,
                total=settings.decoder_steps,
                description="text2mask: decoder",
                prefix="decoder",
            ) as on_step:
                train_mask_decoder(
                    pipeline.vae,
                    settings,
                    seed=config.seed,
                    color_maps=color_maps,
                    read_color_map=data.read_color_map,
                    state_folder=scratch / "decoder",
                    on_step=on_step,
                )

        # 4. Save, and draw for some captions.
        finished = scratch / "pipeline"
        pipeline.to("cpu").save_pretrained(finished, safe_serialization=True)
        sampler: SamplingConfig = config.masksyn.text2mask
        picked = range(0, len(data.store), max(1, len(data.store) // _NUM_PICTURES))[:_NUM_PICTURES]
        pipeline.to(device)
        drawn = sample_images(
            pipeline,
            prompts=[data.captions[i] for i in picked],
            generators=lambda i: torch_generator(config.seed, "text2mask-preview", i),
            config=sampler,
            image_size=config.dataset.image_size,
            dtype=resolve_precision(sampler.precision, device),
        )
        picture = finished / "previews.png"
        rows = [[data.read_color_map(i) for i in picked], list(drawn)]
        image_grid(
            rows, scale=max(1, 128 // config.dataset.image_size), labels=["real", "drawn"]
        ).save(picture)
        tracked.log_artifact(picture)
        publish(finished, paths.model("text2mask"))
        shutil.rmtree(scratch.parent)
