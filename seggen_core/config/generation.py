"""Sections on the foundation, its fine-tuning and the samples made with it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from seggen_core.config.base import Positive, Precision, Probability, Section


class RandomCrops(Section):
    """Random square crops of the training samples, of image and mask together, enlarged to the image size.

    They make a small dataset last longer before a generator knows it by heart. A crop keeps the
    caption of its sample.

    Attributes:
        per_sample: crops of each sample, beside the whole one; drawn once.
        min_side: smallest side of a crop, as a share of the sample's.
    """

    per_sample: Positive
    min_side: float = Field(0.5, gt=0, lt=1)


class PretrainConfig(Section):
    """Pretraining of a small latent diffusion model, on the endless stream of scenes or on the training images.

    Attributes:
        data: "scene_stream", or "training_images": the real training split and its captions (never
            its masks), on which the UNet and text encoder of `init_from` are trained further, or
            new ones. Such a foundation has seen nothing of the world but these images and what
            `init_from` has.
        image_size: side of the pictures in pixels; for "training_images" that of the dataset.
        autoencoder_channels: channels per resolution level; two levels give latents at half the
            image size.
        kl_weight: weight of the mean KL per latent value.
        unet_steps, unet_decay_steps: optimisation steps, and how many of the last ones the learning
            rate falls over.
        unet_channels: channels per resolution level; cross-attention in all but the first.
        single_object_share: share of scenes with one large object, as 'a photo of a car' asks for.
        stuff_only_share: share of scenes without any object.
        ema_decay: decay of the averaged weights that are saved; a short training wants a smaller
            one.
        caption_dropout: share of empty captions, for classifier-free guidance.
        pool_size, refresh: scenes held as latents per process, and how many of them are new at
            every step; a scene is seen batch_size / refresh times on average.
        precision: of network calls; weights and optimiser stay float32.
        init_from: folder of an earlier foundation, to continue its pretraining; None starts from
            scratch.
        new_unet: take tokenizer and autoencoder of `init_from` only, and start UNet and text
            encoder, which may be of another shape then, from scratch.
        random_crops: of "training_images", beside the whole ones.
    """

    data: Literal["scene_stream", "training_images"] = "scene_stream"
    image_size: Positive = 64
    autoencoder_steps: Positive = 2900
    autoencoder_channels: tuple[Positive, ...] = (32, 64)
    autoencoder_learning_rate: float = Field(2e-3, gt=0)
    kl_weight: float = Field(1e-4, ge=0)
    latent_channels: Positive = 4
    unet_steps: Positive = 18_500
    unet_decay_steps: Positive = 3000
    unet_channels: tuple[Positive, ...] = (32, 96, 128)
    unet_learning_rate: float = Field(5e-4, gt=0)
    ema_decay: Probability = 0.9995
    text_width: Positive = 128
    batch_size: Positive = 16
    single_object_share: Probability = 0.5
    stuff_only_share: Probability = 0.06
    caption_dropout: Probability = 0.1
    pool_size: Positive = 10_000
    refresh: Positive = 5
    precision: Precision = "auto"
    init_from: Path | None = None
    new_unet: bool = False
    random_crops: RandomCrops | None = None

    @model_validator(mode="after")
    def _check(self) -> "PretrainConfig":
        if self.random_crops is not None and self.data != "training_images":
            raise ValueError("'random_crops' are of data 'training_images'")
        if self.new_unet and self.init_from is None:
            raise ValueError(
                "'new_unet' takes tokenizer and autoencoder of 'init_from', which isn't given; without it, all is new"
            )
        if self.data == "training_images" and self.init_from is None:
            raise ValueError(
                "data 'training_images' needs 'init_from': they are too few for a tokenizer and an autoencoder"
            )
        return self


class FoundationConfig(Section):
    """The text-to-image pipeline that everything downstream starts from.

    Attributes:
        mode: "pretrained" loads `source`; "pretrain" trains a small one here.
        source: a diffusers folder, or a hub repository together with `revision`.
        revision: commit of a hub repository; required for one.
        reads: the folder or file of the project that the foundation comes from; DVC tracks it. For
            a local `source`, the same path; for a hub repository, which a commit pins, the module
            that loads it.
    """

    mode: Literal["pretrained", "pretrain"] = "pretrained"
    source: str | None = None
    revision: str | None = None
    reads: str | None = None
    pretrain: PretrainConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> "FoundationConfig":
        if self.mode == "pretrained" and self.source is None:
            raise ValueError(
                "mode 'pretrained' needs 'source', a diffusers folder or a hub repository"
            )
        if self.mode == "pretrain" and self.pretrain is None:
            raise ValueError("mode 'pretrain' needs a 'pretrain' section")
        return self


class DiffusionTrainingConfig(Section):
    """Optimisation shared by Text2Mask and Mask2Img (SegGen A.4).

    Attributes:
        num_steps: optimisation steps (paper: 30,000).
        learning_rate: peak of AdamW's schedule (paper: 1e-5 from SDXL's weights).
        warmup_steps: linear warm-up; then cosine to zero where `lr_scheduler` is "cosine".
        caption_dropout: share of empty captions, for classifier-free guidance.
        ema_decay: decay of the averaged weights that are saved; 0 saves the last ones.
        random_flip: horizontal flips, applied to image and mask together (SegGen A.4).
        checkpoint_every: steps between the states that an interrupted training resumes from.
        precision: of network calls; weights and optimiser stay float32.
        gradient_checkpointing: trade time for memory.
        random_crops: trained on beside the whole samples.
    """

    num_steps: Positive
    batch_size: Positive = 16
    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    warmup_steps: int = Field(50, ge=0)
    lr_scheduler: Literal["constant", "cosine"] = "cosine"
    max_grad_norm: float = Field(1.0, gt=0)
    caption_dropout: Probability = 0.1
    ema_decay: Probability = 0.99
    random_flip: bool = True
    checkpoint_every: Positive = 200
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    random_crops: RandomCrops | None = None


class Text2MaskConfig(DiffusionTrainingConfig):
    """Text2Mask: fine-tuning of the UNet, and of the decoder where `decoder_steps` isn't 0.

    Attributes:
        decoder_steps: steps that the decoder is trained for on degraded latents of colour maps; 0
            leaves it as it is (SegGen).
        decoder_learning_rate: peak; it falls to zero linearly.
        decoder_noise: largest noise on the latents, in standard deviations of the latents.
    """

    decoder_steps: int = Field(0, ge=0)
    decoder_learning_rate: float = Field(2e-3, gt=0)
    decoder_noise: float = Field(0.3, ge=0)


class SamplingConfig(Section):
    """One diffusion sampler.

    Attributes:
        scheduler: a diffusers scheduler class; made from the pipeline's own noise schedule.
        scheduler_kwargs: its settings ({"use_karras_sigmas": true} makes EulerDiscreteScheduler
            EDM's sampler).
        num_inference_steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 is off.
        controlnet_conditioning_scale: what a ControlNet's outputs are multiplied by; no other
            pipeline uses it. Above 1 it makes up for a short training (docs/results.md).
        micro_batch_size: rows of every network call; MaskSyn and ImgSyn take fewer where that
            shares the samples of a source out evenly. Short batches are padded to it, so that the
            bytes of a sample don't depend on how many others are made with it. It is part of what
            defines a sample.
    """

    scheduler: str = "DDIMScheduler"
    scheduler_kwargs: dict[str, Any] = Field(default_factory=dict)
    num_inference_steps: Positive = 20
    guidance_scale: float = Field(2.0, ge=1)
    controlnet_conditioning_scale: float = Field(1.0, ge=0)
    micro_batch_size: Positive = 8
    precision: Precision = "auto"


class SegGenSynthesisConfig(Section):
    """MaskSyn or ImgSyn (SegGen 3.3).

    Attributes:
        samples_per_source: synthetic samples for each real one (paper: 10 for MaskSyn, 50 for
            ImgSyn).
        text2mask: sampler of the colour maps (paper: EDM, 200 steps); unused by ImgSyn.
        mask2img: sampler of the images (paper: EDM, 40 steps).
        max_palette_distance: pixels further than this from every palette colour count as
            off-palette.
        batch_size: samples in flight, rounded to whole sources; changes memory and speed, never
            bytes.
    """

    samples_per_source: Positive
    text2mask: SamplingConfig = SamplingConfig()
    mask2img: SamplingConfig = SamplingConfig()
    max_palette_distance: float = 60.0
    batch_size: Positive = 16
