"""Pretraining of the embedded foundation: a small latent diffusion model on an endless stream of scenes, or on training images.

The pieces are those of Stable Diffusion 2 at small size: AutoencoderKL, UNet2DConditionModel with
v-prediction, CLIPTokenizer and CLIPTextModel. The text encoder has no transformer layers and no
position embedding: each token is embedded alone. A contextual encoder trained from scratch lets any
token carry any word, and then a class word's attention says nothing about where the class is
(measured: class-token AUC 0.60-0.68 with one layer, 0.87-0.89 with none).
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from seggen_core.config import PretrainConfig
from seggen_core.errors import FoundationError
from seggen_core.generators.autoencoder import train_autoencoder
from seggen_core.generators.foundation import forget_origin
from seggen_core.generators.pretrain_data import CaptionedImages, ImageLatents, SceneLatentPool
from seggen_core.generators.tokenizer import train_clip_tokenizer
from seggen_core.project.rng import derive_seed, numpy_rng
from seggen_core.scenes.stream import stream_scene
from seggen_core.training.read_ahead import read_ahead
from seggen_core.training.state import load_state, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

MAX_PROMPT_TOKENS = 32
TOKENIZER_CAPTIONS = 3000
CHECKPOINT_EVERY = 500
"""UNet steps between the states that an interrupted run goes on from."""


def build_unet(config: PretrainConfig, *, latent_size: int) -> "UNet2DConditionModel":
    """Build the UNet: plain blocks at the latent resolution, cross-attention blocks at the coarser ones."""
    from diffusers import UNet2DConditionModel

    levels = len(config.unet_channels)
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        block_out_channels=config.unet_channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        cross_attention_dim=config.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_text_encoder(config: PretrainConfig, tokenizer: "CLIPTokenizer") -> "CLIPTextModel":
    """Build the context-free text encoder: token embedding and layer norm; position embeddings are zero and stay so."""
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=config.text_width * 4,
            num_hidden_layers=0,
            num_attention_heads=4,
            max_position_embeddings=MAX_PROMPT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    for name, parameter in encoder.named_parameters():
        if "position_embedding" in name:
            torch.nn.init.zeros_(parameter)
            parameter.requires_grad_(False)
    return encoder


def build_noise_scheduler() -> "DDIMScheduler":
    """Build the noise schedule: SD's betas rescaled to zero terminal SNR, v-prediction (Lin et al. 2024)."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # unused by "trailing", but any other value makes diffusers warn
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


class _Denoiser(torch.nn.Module):
    """UNet and text encoder in one forward call, so that data-parallel wrappers see the whole of it."""

    def __init__(self, unet: "UNet2DConditionModel", text_encoder: "CLIPTextModel") -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(
        self, latents: torch.Tensor, timesteps: torch.Tensor, input_ids: torch.Tensor
    ) -> torch.Tensor:
        """Predict v for noisy `latents` [B, C, h, w] at `timesteps` [B] given token ids [B, T]."""
        return self.unet(latents, timesteps, self.text_encoder(input_ids).last_hidden_state).sample


def _load_weights(module: _Denoiser, foundation: Path) -> None:
    """Start from the weights of an earlier foundation of the same shape, so that pretraining can be continued."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    module.unet.load_state_dict(
        UNet2DConditionModel.from_pretrained(foundation / "unet", use_safetensors=True).state_dict()
    )
    encoder = CLIPTextModel.from_pretrained(foundation / "text_encoder", use_safetensors=True)
    module.text_encoder.load_state_dict(encoder.state_dict())


def train_unet(
    config: PretrainConfig,
    *,
    seed: int,
    accelerator: "Accelerator",
    vae: "AutoencoderKL",
    tokenizer: "CLIPTokenizer",
    state_folder: Path,
    on_step: Callable[[int, dict[str, float]], None],
    training_images: CaptionedImages | None = None,
) -> tuple["UNet2DConditionModel", "CLIPTextModel"]:
    """Train UNet and text encoder jointly on v-prediction; return the averaged weights.

    Pictures and captions come from `training_images`, or from the stream of scenes where there are
    none.

    The learning rate is constant after 200 warm-up steps and falls linearly to zero over the last
    `unet_decay_steps`. The state is saved every `CHECKPOINT_EVERY` steps in `state_folder`, from
    which an interrupted run goes on.
    """
    torch.manual_seed(derive_seed(seed, "unet-init"))
    latent_size = config.image_size // 2 ** (len(config.autoencoder_channels) - 1)
    module = _Denoiser(
        build_unet(config, latent_size=latent_size), build_text_encoder(config, tokenizer)
    )
    if config.init_from is not None and not config.new_unet:
        _load_weights(module, config.init_from)
    module.to(accelerator.device)
    trainable = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=config.unet_learning_rate, betas=(0.9, 0.99), weight_decay=1e-3
    )
    average = [p.detach().clone() for p in module.parameters()]
    first = load_state(state_folder, module=module, average=average, optimizer=optimizer)
    prepared = accelerator.prepare_model(module)
    rank, world = accelerator.process_index, accelerator.num_processes
    vae.to(accelerator.device).eval().requires_grad_(False)
    pool: SceneLatentPool | ImageLatents
    if training_images is None:
        pool = SceneLatentPool(
            config, seed=seed, vae=vae, tokenizer=tokenizer, step=first, rank=rank, world=world
        )
    else:
        pool = ImageLatents(
            training_images, vae=vae, tokenizer=tokenizer, file=state_folder / f"latents{rank}.npy"
        )
    schedule = build_noise_scheduler()
    empty = tokenizer(
        "", padding="max_length", max_length=MAX_PROMPT_TOKENS, return_tensors="pt"
    ).input_ids

    def read(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw noisy latents, timesteps, token ids and what is to be predicted, named by the step."""
        rng = numpy_rng(seed, "unet-batch", step, rank)
        generator = torch.Generator().manual_seed(derive_seed(seed, "unet-noise", step, rank))
        latents, input_ids = pool.draw(rng, config.batch_size)
        dropped = torch.from_numpy(rng.random(config.batch_size) < config.caption_dropout)
        input_ids = torch.where(dropped[:, None], empty, input_ids)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(
            0, schedule.config.num_train_timesteps, (config.batch_size,), generator=generator
        )
        noisy, target = (
            schedule.add_noise(latents, noise, timesteps),
            schedule.get_velocity(latents, noise, timesteps),
        )
        return noisy, timesteps, input_ids, target

    steps = range(first, config.unet_steps)
    for step, batch in zip(
        steps, read_ahead(read, steps=steps, device=accelerator.device), strict=True
    ):
        factor = min(1.0, (step + 1) / 200, (config.unet_steps - step) / config.unet_decay_steps)
        for group in optimizer.param_groups:
            group["lr"] = config.unet_learning_rate * factor
        noisy, timesteps, input_ids, target = (t.to(accelerator.device) for t in batch)
        with accelerator.autocast():
            prediction = prepared(noisy, timesteps, input_ids)
        loss = torch.nn.functional.mse_loss(prediction.float(), target)
        accelerator.backward(loss)
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(
                average,
                list(module.parameters()),
                1 - min(config.ema_decay, (step + 1) / (step + 11)),
            )
        on_step(step, {"loss": loss.item(), "learning_rate": config.unet_learning_rate * factor})
        if accelerator.is_main_process and (step + 1) % CHECKPOINT_EVERY == 0:
            save_state(
                state_folder, step=step + 1, module=module, average=average, optimizer=optimizer
            )
    with torch.no_grad():
        for parameter, mean_value in zip(module.parameters(), average, strict=True):
            parameter.copy_(mean_value)
    return module.unet.eval(), module.text_encoder.eval()


def assemble_pipeline(
    *,
    vae: "AutoencoderKL",
    unet: "UNet2DConditionModel",
    text_encoder: "CLIPTextModel",
    tokenizer: "CLIPTokenizer",
) -> "StableDiffusionPipeline":
    """Put the parts together as a StableDiffusionPipeline without a safety checker."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def pretrain_foundation(
    config: PretrainConfig,
    *,
    seed: int,
    folder: Path,
    work_folder: Path,
    accelerator: "Accelerator",
    on_step: Callable[[str, int, dict[str, float]], None],
    training_images: CaptionedImages | None = None,
) -> None:
    """Pretrain tokenizer, autoencoder and UNet in turn, and save the pipeline in `folder`.

    Where `training_images` are given, the UNet and the text encoder are trained on them; tokenizer
    and autoencoder are `init_from`'s, since there are far too few of them for either. Finished
    parts are kept in `work_folder`, where an interrupted run finds them again.

    Raises:
        FoundationError: `init_from` is no pipeline folder.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

    # 1. Tokenizer, from captions of the stream; with `init_from` it is the earlier foundation's,
    # and so is the autoencoder.
    tokenizer_folder, vae_folder = work_folder / "tokenizer", work_folder / "vae"
    if config.init_from is not None:
        if not (config.init_from / "model_index.json").is_file():
            raise FoundationError(
                f"foundation.pretrain.init_from is {config.init_from}, which holds no pipeline to continue from"
            )
        tokenizer_folder, vae_folder = config.init_from / "tokenizer", config.init_from / "vae"
    if accelerator.is_main_process and not tokenizer_folder.exists():
        shares = {
            "single_object_share": config.single_object_share,
            "stuff_only_share": config.stuff_only_share,
        }
        captions = [
            stream_scene(i, seed=seed, size=8, **shares)[1] for i in range(TOKENIZER_CAPTIONS)
        ]
        partial = work_folder / "tokenizer.partial"
        train_clip_tokenizer(captions, folder=partial, max_length=MAX_PROMPT_TOKENS)
        partial.replace(tokenizer_folder)
    accelerator.wait_for_everyone()
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)

    # 2. Autoencoder.
    if not vae_folder.exists():
        vae = train_autoencoder(
            config,
            seed=seed,
            accelerator=accelerator,
            on_step=lambda s, m: on_step("autoencoder", s, m),
        )
        if accelerator.is_main_process:
            vae.save_pretrained(work_folder / "vae.partial")
            (work_folder / "vae.partial").replace(vae_folder)
        accelerator.wait_for_everyone()
    vae = AutoencoderKL.from_pretrained(vae_folder, use_safetensors=True)
    found = (vae.config.latent_channels, len(vae.config.block_out_channels))
    if found != (wanted := (config.latent_channels, len(config.autoencoder_channels))):
        raise FoundationError(
            f"the autoencoder in {vae_folder} has {found[0]} latent channels and {found[1]} resolution levels, but "
            f"foundation.pretrain's latent_channels and autoencoder_channels say {wanted[0]} and {wanted[1]}"
        )

    # 3. UNet and text encoder.
    unet, text_encoder = train_unet(
        config,
        seed=seed,
        accelerator=accelerator,
        vae=vae,
        tokenizer=tokenizer,
        state_folder=work_folder / "unet",
        on_step=lambda s, m: on_step("unet", s, m),
        training_images=training_images,
    )
    if accelerator.is_main_process:
        pipeline = assemble_pipeline(
            vae=vae.to("cpu"),
            unet=unet.to("cpu"),
            text_encoder=text_encoder.to("cpu"),
            tokenizer=tokenizer,
        )
        forget_origin(pipeline)
        pipeline.save_pretrained(folder, safe_serialization=True)
