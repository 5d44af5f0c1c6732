"""Pretraining of the embedded foundation, on an endless stream of scenes or on training images.

Tokenizer, autoencoder, and then UNet and text encoder jointly (`pretrain_networks`).
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from seggen_core.config import PretrainConfig
from seggen_core.errors import FoundationError
from seggen_core.generators.autoencoder import train_autoencoder
from seggen_core.generators.fine_tuning import add_noise
from seggen_core.generators.foundation import forget_origin, load_pipeline
from seggen_core.generators.pretrain_data import (
    CaptionedImages,
    ImageLatents,
    LatentSource,
    SceneLatentPool,
)
from seggen_core.generators.pretrain_networks import (
    MAX_PROMPT_TOKENS,
    TextConditionedUNet,
    assemble_pipeline,
    build_noise_scheduler,
    build_text_encoder,
    build_unet,
    load_weights,
    loop_settings,
)
from seggen_core.generators.tokenizer import train_clip_tokenizer
from seggen_core.project.rng import derive_seed, numpy_rng, torch_generator
from seggen_core.scenes.stream import stream_scene
from seggen_core.tracking import StageRun
from seggen_core.training.loop import OnStep, Training, adamw, train
from seggen_core.training.schedule import warmup_constant_decay

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

TOKENIZER_CAPTIONS = 3000
_WARMUP_STEPS = 200
_LOG_EVERY = 20


OnPartStep = Callable[[str, int, dict[str, float]], None]
"""Called with (part, steps done, values) after every step; a part is "autoencoder" or "unet"."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pretraining:
    """A foundation to be pretrained.

    Attributes:
        config: shape and optimisation; a relative `init_from` starts from the working directory.
        seed: name of the random streams.
        accelerator: where to train.
        work_folder: holds finished parts and states, from which an interrupted run goes on.
        training_images: what UNet and text encoder are trained on; None: the stream of scenes.
    """

    config: PretrainConfig
    seed: int
    accelerator: "Accelerator"
    work_folder: Path
    training_images: CaptionedImages | None = None


def pretrain_foundation(pretraining: Pretraining, *, folder: Path, on_step: OnPartStep) -> None:
    """Pretrain tokenizer, autoencoder and UNet in turn, and save the pipeline in `folder`.

    With `training_images`, UNet and text encoder are trained on them. Tokenizer and autoencoder are
    then `init_from`'s: the images are far too few for either.

    Raises:
        FoundationError: `init_from` is no pipeline folder, or its autoencoder has another shape
            than `config` says.
    """
    tokenizer = _make_tokenizer(pretraining)
    vae = _make_autoencoder(pretraining, on_step=partial(on_step, "autoencoder"))
    unet, text_encoder = train_unet(
        pretraining, vae=vae, tokenizer=tokenizer, on_step=partial(on_step, "unet")
    )
    if pretraining.accelerator.is_main_process:
        pipeline = assemble_pipeline(
            vae=vae.to("cpu"),
            unet=unet.to("cpu"),
            text_encoder=text_encoder.to("cpu"),
            tokenizer=tokenizer,
        )
        forget_origin(pipeline)
        pipeline.save_pretrained(folder, safe_serialization=True)


def _make_tokenizer(pretraining: Pretraining) -> "CLIPTokenizer":
    """Learn the tokenizer from captions of the stream; with `init_from` take the earlier one."""
    from transformers import CLIPTokenizer

    config, work_folder = pretraining.config, pretraining.work_folder
    folder = work_folder / "tokenizer"
    if config.init_from is not None:
        if not (config.init_from / "model_index.json").is_file():
            raise FoundationError(
                f"foundation.pretrain.init_from is {config.init_from}, which holds no pipeline to "
                "continue from"
            )
        load_pipeline(config.init_from)  # it says what is damaged
        folder = config.init_from / "tokenizer"
    if pretraining.accelerator.is_main_process and not folder.exists():
        captions = [
            stream_scene(
                index,
                seed=pretraining.seed,
                size=8,
                single_object_share=config.single_object_share,
                stuff_only_share=config.stuff_only_share,
            )[1]
            for index in range(TOKENIZER_CAPTIONS)
        ]
        partial = work_folder / "tokenizer.partial"
        train_clip_tokenizer(captions, folder=partial, max_length=MAX_PROMPT_TOKENS)
        partial.replace(folder)
    pretraining.accelerator.wait_for_everyone()
    return CLIPTokenizer.from_pretrained(folder)


def _make_autoencoder(pretraining: Pretraining, *, on_step: OnStep) -> "AutoencoderKL":
    """Train the autoencoder; with `init_from` take the earlier one."""
    from diffusers import AutoencoderKL

    config, work_folder = pretraining.config, pretraining.work_folder
    folder = config.init_from / "vae" if config.init_from is not None else work_folder / "vae"
    if not folder.exists():
        vae = train_autoencoder(
            config,
            seed=pretraining.seed,
            accelerator=pretraining.accelerator,
            state_folder=work_folder / "autoencoder",
            on_step=on_step,
        )
        if pretraining.accelerator.is_main_process:
            vae.save_pretrained(work_folder / "vae.partial")
            (work_folder / "vae.partial").replace(folder)
            shutil.rmtree(work_folder / "autoencoder", ignore_errors=True)
        pretraining.accelerator.wait_for_everyone()
    vae = AutoencoderKL.from_pretrained(folder, use_safetensors=True)
    shape = (vae.config.latent_channels, len(vae.config.block_out_channels))
    expected = (config.latent_channels, len(config.autoencoder_channels))
    if shape != expected:
        raise FoundationError(
            f"the autoencoder in {folder} has {shape[0]} latent channels and {shape[1]} resolution "
            "levels, but foundation.pretrain's latent_channels and autoencoder_channels say "
            f"{expected[0]} and {expected[1]}"
        )
    return vae.to(pretraining.accelerator.device).eval().requires_grad_(False)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """What the UNet learns: noisy latents and captions named by the step, and the loss on them."""

    pretraining: Pretraining
    source: LatentSource
    no_caption: torch.Tensor
    schedule: "DDIMScheduler"

    def read(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return noisy latents, timesteps, token ids and what is to be predicted."""
        config, seed = self.pretraining.config, self.pretraining.seed
        rank = self.pretraining.accelerator.process_index
        rng = numpy_rng(seed, "unet-batch", step, rank)
        generator = torch_generator(seed, "unet-noise", step, rank)
        latents, input_ids = self.source.draw(step, rng, config.batch_size)
        dropped = torch.from_numpy(rng.random(config.batch_size) < config.caption_dropout)
        input_ids = torch.where(dropped[:, None], self.no_caption, input_ids)
        noisy, timesteps, target = add_noise(self.schedule, latents, generator=generator)
        return noisy, timesteps, input_ids, target

    def loss(self, module: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the mean squared error of the predicted v."""
        device = self.pretraining.accelerator.device
        noisy, timesteps, input_ids, target = (tensor.to(device) for tensor in batch)
        prediction = module(noisy, timesteps, input_ids)
        return torch.nn.functional.mse_loss(prediction.float(), target)


def train_unet(
    pretraining: Pretraining,
    *,
    vae: "AutoencoderKL",
    tokenizer: "CLIPTokenizer",
    on_step: OnStep,
) -> tuple["UNet2DConditionModel", "CLIPTextModel"]:
    """Train UNet and text encoder jointly on v-prediction; return the averaged weights.

    The learning rate is constant after 200 warm-up steps and falls linearly to zero over the last
    `unet_decay_steps`. The state is saved every `CHECKPOINT_EVERY` steps, and an interrupted run
    goes on from it.

    Args:
        pretraining: configuration, and where the states lie.
        vae: the finished autoencoder, on the device to train on.
        tokenizer: of the captions.
        on_step: called after every step.
    """
    config, accelerator = pretraining.config, pretraining.accelerator
    module = _build_module(pretraining, tokenizer=tokenizer)
    task = _Task(
        pretraining=pretraining,
        source=_open_source(pretraining, vae=vae, tokenizer=tokenizer),
        no_caption=tokenizer(
            "", padding="max_length", max_length=MAX_PROMPT_TOKENS, return_tensors="pt"
        ).input_ids,
        schedule=build_noise_scheduler(),
    )
    training = Training(
        name="the foundation's UNet",
        module=module,
        optimizer=adamw(module, weight_decay=1e-3),
        learning_rate=warmup_constant_decay(
            config.unet_learning_rate,
            warmup_steps=_WARMUP_STEPS,
            decay_steps=config.unet_decay_steps,
            num_steps=config.unet_steps,
        ),
        read=task.read,
        loss=task.loss,
        error=FoundationError,
        advice="lower foundation.pretrain.unet_learning_rate or use precision: fp32",
    )
    train(
        training,
        loop_settings(
            config,
            num_steps=config.unet_steps,
            ema_decay=config.ema_decay,
            device=accelerator.device,
        ),
        accelerator=accelerator,
        state_folder=pretraining.work_folder / "unet",
        on_step=on_step,
    )
    return module.unet, module.text_encoder


def _build_module(pretraining: Pretraining, *, tokenizer: "CLIPTokenizer") -> TextConditionedUNet:
    """Build UNet and text encoder, with random weights or those of `init_from`."""
    config = pretraining.config
    torch.manual_seed(derive_seed(pretraining.seed, "unet-init"))
    latent_size = config.image_size // 2 ** (len(config.autoencoder_channels) - 1)
    module = TextConditionedUNet(
        build_unet(config, latent_size=latent_size), build_text_encoder(config, tokenizer)
    )
    if config.init_from is not None and not config.new_unet:
        load_weights(module, config.init_from)
    return module.to(pretraining.accelerator.device)


def _open_source(
    pretraining: Pretraining, *, vae: "AutoencoderKL", tokenizer: "CLIPTokenizer"
) -> LatentSource:
    accelerator = pretraining.accelerator
    if pretraining.training_images is not None:
        file = pretraining.work_folder / f"latents{accelerator.process_index}.npy"
        return ImageLatents(pretraining.training_images, vae=vae, tokenizer=tokenizer, file=file)
    return SceneLatentPool(
        pretraining.config,
        seed=pretraining.seed,
        vae=vae,
        tokenizer=tokenizer,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )


def pretrain_with_progress(
    pretraining: Pretraining, *, folder: Path, run: StageRun | None = None
) -> None:
    """Pretrain a foundation into `folder`, with progress bars and metrics of every 20th step.

    Args:
        pretraining: what is pretrained.
        folder: gets the pipeline.
        run: gets the metrics, as "unet/loss".
    """
    config = pretraining.config
    totals = {"autoencoder": config.autoencoder_steps, "unet": config.unet_steps}
    bars: dict[str, tqdm] = {}
    with ExitStack() as stack:

        def on_step(part: str, step: int, values: dict[str, float]) -> None:
            if part not in bars:
                bars[part] = stack.enter_context(
                    tqdm(total=totals[part], desc=f"pretrain {part}", unit="step", disable=None)
                )
            bars[part].update(step - bars[part].n)
            if run is not None and step % _LOG_EVERY == 0:
                metrics = {f"{part}/{name}": value for name, value in values.items()}
                run.log_metrics(metrics, step=step)

        pretrain_foundation(pretraining, folder=folder, on_step=on_step)
