"""Stage `mask2img`: a ControlNet on the locked foundation, trained on (caption, colour map, image) triplets."""

import shutil

import numpy as np
from tqdm import tqdm

from seggen_core.config import SegGenConfig
from seggen_core.generators.foundation import load_mask2img, load_pipeline
from seggen_core.generators.latent_cache import PromptCache, cache_latents
from seggen_core.generators.mask2img import build_controlnet, train_mask2img
from seggen_core.generators.sampling import sample_images
from seggen_core.generators.training_data import open_training_data, training_fingerprint
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import publish
from seggen_core.project.rng import derive_seed, torch_generator
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.reports.grids import image_grid
from seggen_core.tracking import track_stage, tracked_steps
from seggen_core.training.precision import resolve_precision

_NUM_PICTURES = 10


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/models/mask2img, a ControlNetModel folder, with a picture of real masks and what it makes of them."""
    assert item is None
    settings = config.mask2img
    with track_stage(
        "mask2img",
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
            / "mask2img"
            / training_fingerprint("mask2img", config=config, section=settings, paths=paths)
        )

        # 1. Latents and embeddings, once.
        data = open_training_data(
            paths, color_map=config.dataset.color_map, crops=settings.random_crops, seed=config.seed
        )
        pipeline = load_pipeline(paths.model("foundation")).to(device)
        with tqdm(
            total=len(data.captions), desc="mask2img: encode images", unit="image", disable=None
        ) as bar:
            images = cache_latents(
                pipeline.vae,
                read_image=data.read_image,
                number=len(data.captions),
                file=scratch / "latents.npy",
                batch_size=settings.batch_size,
                progress=bar.update,
            )
        prompts = PromptCache(pipeline, data.captions, image_size=config.dataset.image_size)

        # 2. Training of the side network; its initial weights come from a named stream.
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(derive_seed(config.seed, "mask2img-init"))
            controlnet = build_controlnet(pipeline).to(device)
        with tracked_steps(
            tracked, total=settings.num_steps, description="mask2img: train", prefix="train"
        ) as on_step:
            train_mask2img(
                pipeline,
                controlnet,
                settings,
                seed=config.seed,
                images=images,
                read_color_map=data.read_color_map,
                prompts=prompts,
                state_folder=scratch / "state",
                on_step=on_step,
            )

        # 3. Save, and draw for some real masks.
        finished = scratch / "controlnet"
        controlnet.to("cpu").save_pretrained(finished, safe_serialization=True)
        sampler = config.imgsyn.mask2img
        picked = range(0, len(data.store), max(1, len(data.store) // _NUM_PICTURES))[:_NUM_PICTURES]
        color_maps = np.stack([data.read_color_map(i) for i in picked])
        drawn = sample_images(
            load_mask2img(paths.model("foundation"), finished).to(device),
            prompts=[data.captions[i] for i in picked],
            generators=lambda i: torch_generator(config.seed, "mask2img-preview", i),
            config=sampler,
            image_size=config.dataset.image_size,
            dtype=resolve_precision(sampler.precision, device),
            control_images=color_maps,
        )
        picture = finished / "previews.png"
        rows = [list(color_maps), list(drawn), [data.store.read_image(i) for i in picked]]
        image_grid(
            rows, scale=max(1, 128 // config.dataset.image_size), labels=["mask", "drawn", "real"]
        ).save(picture)
        tracked.log_artifact(picture)
        publish(finished, paths.model("mask2img"))
        shutil.rmtree(scratch.parent)
