"""Sections on the foundation, its fine-tuning, and sampling."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from seggen_core.config.base import (
    Factor,
    LearningRate,
    NumSamples,
    Positive,
    Precision,
    Probability,
    Section,
    Size,
    TrackedPath,
    Weight,
)
from seggen_core.config.library_settings import check_scheduler
from seggen_core.config.storage import ImageStorageConfig


class RandomCrops(Section):
    """Random square crops of the training samples, image and mask together, at the image size.

    They delay overfitting on a small dataset. A crop has the caption of its sample.
    """

    per_sample: Size
    """Crops of each sample, in addition to the whole sample; drawn once."""
    min_side: float = Field(0.5, gt=0, lt=1)
    """Smallest side of a crop, as a share of the sample's."""


class SamplingConfig(Section):
    """One diffusion sampler."""

    scheduler: str = "DDIMScheduler"
    """Name of a diffusers scheduler class. It gets the noise schedule of the pipeline."""
    scheduler_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Settings of the scheduler ({"use_karras_sigmas": true} makes EulerDiscreteScheduler the
    sampler of EDM).
    """
    num_inference_steps: Size = 20
    """Denoising steps."""
    guidance_scale: float = Field(2.0, ge=1, le=1000)
    """Classifier-free guidance; 1 is off."""
    negative_prompt: str | None = None
    """What guidance leads away from ("blurry, drawing"), with `guidance_scale` above 1; None is the
    pipeline's own: the empty prompt, and zeros for SDXL.
    """
    controlnet_conditioning_scale: float = Field(1.0, ge=0, le=1000)
    """Factor on the outputs of a ControlNet. A factor above 1 compensates for a short training
    (docs/results.md).
    """
    micro_batch_size: Size = 8
    """Rows of every network call. Short batches are padded to it, so the bytes of a sample do not
    depend on the other samples of its batch. MaskSyn and ImgSyn take fewer rows if that divides the
    samples of a source evenly. A change of this number changes the samples.
    """
    precision: Precision = "auto"
    """Precision of network calls."""

    @model_validator(mode="after")
    def _check(self) -> "SamplingConfig":
        if (self.scheduler, self.scheduler_kwargs) != ("DDIMScheduler", {}):
            check_scheduler(self.scheduler, self.scheduler_kwargs)
        return self


class PretrainConfig(Section):
    """Pretraining of a small latent diffusion model on endless scenes or on the training images."""

    data: Literal["scene_stream", "training_images"] = "scene_stream"
    """"scene_stream" draws procedural scenes. "training_images" takes the images and captions
    (never the masks) of the real training split, and trains the UNet and the text encoder of
    `init_from` further, or new ones.
    """
    image_size: Size = 64
    """Side of the pictures in pixels; for "training_images" it must be that of the dataset."""
    autoencoder_steps: Positive = 2900
    """Optimisation steps of the autoencoder."""
    autoencoder_channels: tuple[Size, ...] = (32, 64)
    """Channels per resolution level; two levels give latents at half the image size."""
    autoencoder_learning_rate: LearningRate = 2e-3
    """Peak learning rate of the autoencoder."""
    kl_weight: Weight = 1e-4
    """Weight of the mean KL per latent value."""
    latent_channels: Size = 4
    """Channels of the latents."""
    unet_steps: Positive = 18_500
    """Optimisation steps of the UNet and the text encoder."""
    unet_decay_steps: Positive = 3000
    """Number of steps, at the end, over which the learning rate of both falls."""
    unet_channels: tuple[Size, ...] = (32, 96, 128)
    """Channels per resolution level; cross-attention in all but the first."""
    unet_learning_rate: LearningRate = 5e-4
    """Peak learning rate of the UNet and the text encoder."""
    ema_decay: Probability = 0.9995
    """Decay of the averaged weights that are saved; a short training needs a smaller one."""
    text_width: Size = 128
    """Width of the text embeddings."""
    batch_size: Size = 16
    """Images of a step, of each training."""
    single_object_share: Probability = 0.5
    """Share of scenes with one large object, which match a prompt like 'a photo of a car'."""
    stuff_only_share: Probability = 0.06
    """Share of scenes without any object."""
    caption_dropout: Probability = 0.1
    """Share of empty captions, for classifier-free guidance."""
    pool_size: NumSamples = 10_000
    """Number of scenes in the pool of latents."""
    refresh: Size = 5
    """Scenes of the pool that each step replaces. On average, a scene is in batch_size / refresh
    batches.
    """
    precision: Precision = "auto"
    """Of network calls; weights and optimiser stay float32."""
    init_from: Path | None = None
    """Folder of an earlier foundation, to continue its pretraining; None starts from scratch."""
    new_unet: bool = False
    """Take only the tokenizer and the autoencoder of `init_from`. UNet and text encoder start from
    scratch and may have another shape.
    """
    random_crops: RandomCrops | None = None
    """Crops of the "training_images", in addition to the whole images."""

    @model_validator(mode="after")
    def _check(self) -> "PretrainConfig":
        if self.random_crops is not None and self.data != "training_images":
            raise ValueError("'random_crops' needs data 'training_images'")
        if self.new_unet and self.init_from is None:
            raise ValueError(
                "'new_unet' takes tokenizer and autoencoder of 'init_from', which isn't given; "
                "without 'init_from', all parts are new"
            )
        if self.data == "training_images" and self.init_from is None:
            raise ValueError(
                "data 'training_images' needs 'init_from': training images are too few for a "
                "tokenizer and an autoencoder"
            )
        return self


class FoundationConfig(Section):
    """The text-to-image pipeline that everything downstream starts from."""

    mode: Literal["pretrained", "pretrain"] = "pretrained"
    """"pretrained" loads `source`; "pretrain" trains a small one here."""
    source: str | None = None
    """A diffusers folder, or a hub repository together with `revision`."""
    revision: str | None = None
    """Commit of a hub repository; required for one."""
    reads: Annotated[str | None, TrackedPath] = None
    """The file or folder that DVC watches: for a local `source` the same path, for a repository of
    the Hub, which `revision` pins, data/code/none.json.
    """
    pretrain: PretrainConfig | None = None
    """Settings of mode "pretrain"."""
    preview: SamplingConfig = SamplingConfig()
    """Sampler of the preview picture (.seggen/previews); it changes nothing in the model."""

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
    """Optimisation shared by Text2Mask and Mask2Img (SegGen A.4)."""

    num_steps: Positive
    """Optimisation steps (paper: 30,000)."""
    batch_size: Size = 16
    """Samples of a step."""
    learning_rate: LearningRate = 1e-5
    """Peak of AdamW's schedule (paper: 1e-5 from SDXL's weights)."""
    weight_decay: Weight = 1e-2
    """AdamW's weight decay of all parameters."""
    warmup_steps: int = Field(50, ge=0, le=1_000_000_000)
    """Steps over which the learning rate rises linearly to its peak."""
    lr_scheduler: Literal["constant", "cosine"] = "cosine"
    """After the warm-up, the learning rate stays ("constant") or falls to zero ("cosine")."""
    max_grad_norm: Factor = 1.0
    """Gradients are clipped to this norm."""
    caption_dropout: Probability = 0.1
    """Share of empty captions, for classifier-free guidance."""
    ema_decay: Probability = 0.99
    """Decay of the averaged weights that are saved; 0 saves the last ones."""
    random_flip: bool = True
    """Horizontal flips, applied to image and mask together (SegGen A.4)."""
    checkpoint_every: Positive = 200
    """Steps between the states that an interrupted training resumes from."""
    precision: Precision = "auto"
    """Of network calls; weights and optimiser stay float32."""
    gradient_checkpointing: bool = False
    """Save memory and take more time: compute activations twice instead of storing them."""
    random_crops: RandomCrops | None = None
    """Crops that are trained on in addition to the whole samples."""
    preview: SamplingConfig = SamplingConfig()
    """Sampler of the preview picture (.seggen/previews); it changes nothing in the model."""


class LoraConfig(Section):
    """Low-rank adapters that are trained in place of the UNet's own weights (Hu et al. 2022).

    Gradients, moments and averages are then those of the adapters alone, so the UNet takes 4 bytes
    a weight instead of 20. `learning_rate` has to be larger, about 1e-4.
    """

    rank: Annotated[int, Field(ge=1, le=1024)] = 32
    """Rank of the adapters: more learns more, and takes more memory."""
    alpha: Size | None = None
    """Adapters are multiplied by alpha / rank; None is the rank, a factor of 1."""
    feed_forward: bool = False
    """Adapt the feed-forward layers, too, not the attention alone."""


class Text2MaskConfig(DiffusionTrainingConfig):
    """Text2Mask: fine-tuning of the UNet, and of the decoder if `decoder_steps` is above 0."""

    lora: LoraConfig | None = None
    """Train low-rank adapters of the UNet; None trains all its weights (SegGen)."""
    decoder_steps: int = Field(0, ge=0, le=1_000_000_000)
    """Steps that train the decoder on degraded latents of colour maps; 0 does not train it
    (SegGen).
    """
    decoder_learning_rate: LearningRate = 2e-3
    """Peak learning rate of the decoder; it falls to zero linearly."""
    decoder_noise: Weight = 0.3
    """Largest noise on the latents, in standard deviations of the latents."""


class SegGenSynthesisConfig(ImageStorageConfig):
    """MaskSyn or ImgSyn (SegGen 3.3)."""

    samples_per_source: NumSamples
    """Synthetic samples for each real one (paper: 10 for MaskSyn, 50 for ImgSyn)."""
    text2mask: SamplingConfig = SamplingConfig()
    """Sampler of the colour maps (paper: EDM, 200 steps); unused by ImgSyn."""
    mask2img: SamplingConfig = SamplingConfig()
    """Sampler of the images (paper: EDM, 40 steps)."""
    max_ambiguous: Probability = 1.0
    """Largest share of pixels of a drawn colour map that no colour explains (docs/color_maps.md).
    A sample with more is rejected: counted in the metrics, listed in the manifest, not replaced. 1
    rejects none, since all pixels of a hardly trained Text2Mask may be ambiguous. Unused by ImgSyn.
    """
    batch_size: Size = 16
    """Samples in flight, rounded to whole sources; changes memory and speed, never bytes."""
