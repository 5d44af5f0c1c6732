"""params.yaml as frozen, strict pydantic models: one section a stage, each default in one place.

A stage is handed its own section (and `SegGenConfig.seed`), never the tree.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seggen_core.errors import ConfigError

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Precision of network calls; "auto" is bfloat16 where the device computes it natively, else float32."""
SYNTHESIS_METHODS = ("masksyn", "imgsyn", "seediff")
"""Methods that fill data/synthetic/<method>/<class>."""


class Section(BaseModel):
    """Base of every section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class RuntimeConfig(Section):
    """How to compute; changes speed and rounding, never what is computed. Not tracked by DVC.

    Attributes:
        device: "auto" takes CUDA where there is one.
        num_threads: CPU threads of one stage; independent stages run side by side.
        tracking_uri: MLflow server or database; None is sqlite in the project folder. MLFLOW_TRACKING_URI overrides it.
            "disk" keeps everything in .seggen/metrics until `seggen track --replay`.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: Positive = 1
    tracking_uri: str | None = None


class DatasetConfig(Section):
    """The real dataset, and the low-data subsets the segmenter is trained on.

    Attributes:
        name: which reader.
        root: folder of the dataset on disk; the embedded scenes need none.
        splits: "published" takes the dataset's own train, val and test; "val_as_test" evaluates on its val, where test labels
            aren't to be had, and cuts the validation samples out of train.
        image_size: side in pixels of the square samples that all stages work on.
        fit: "stretch" squashes whole frames to squares, "center_crop" keeps proportions and loses the sides.
        num_train, num_val, num_test: samples per split; None takes all there are.
        max_bad: unreadable or invalid samples that may be left out of each split; they are listed in its manifest.
        subset_size: N, the number of real samples the segmenter gets (SegGen Table 4, low-data rows); None takes all.
        subset_seeds: one subset, and one training of every arm, per seed.
    """

    name: Literal["scenes", "camvid"]
    root: Path | None = None
    splits: Literal["published", "val_as_test"] = "published"
    image_size: Positive = 64
    fit: Literal["stretch", "center_crop"] = "stretch"
    num_train: Positive | None = None
    num_val: Positive | None = None
    num_test: Positive | None = None
    max_bad: int = Field(0, ge=0)
    subset_size: Positive | None = None
    subset_seeds: tuple[int, ...] = (0,)


class CaptionsConfig(Section):
    """Text prompts of the real training samples.

    Attributes:
        captioner: "class_list" writes them from the mask, "blip2" from the image (SegGen 3.2), "file" reads the user's.
        model: hub repository or folder of the captioning model.
        revision: commit of `model`; required for a hub repository.
        prompt: the question put to BLIP-2.
        max_new_tokens: longest answer of BLIP-2.
        batch_size: images per call of BLIP-2.
        min_area_share: "class_list" leaves out things and stuff that cover less of the image than this.
        path: the user's table (Parquet or CSV: sample_key, caption), for "file".
    """

    captioner: Literal["class_list", "blip2", "file"] = "class_list"
    model: str = "Salesforce/blip2-flan-t5-xxl"
    revision: str | None = None
    prompt: str = "Question: What are shown in the photo? Answer:"
    max_new_tokens: Positive = 30
    batch_size: Positive = 8
    min_area_share: Probability = 0.002
    path: Path | None = None


class PretrainConfig(Section):
    """Pretraining of a small latent diffusion model on the endless stream of scenes.

    Attributes:
        autoencoder_channels: channels per resolution level; two levels give latents at half the image size.
        kl_weight: weight of the mean KL per latent value.
        unet_steps, unet_decay_steps: optimisation steps, and how many of the last ones the learning rate falls over.
        unet_channels: channels per resolution level; cross-attention in all but the first.
        single_object_share: share of scenes with one large object, as 'a photo of a car' asks for.
        stuff_only_share: share of scenes without any object.
        caption_dropout: share of empty captions, for classifier-free guidance.
        pool_size, refresh: scenes held as latents per process, and how many of them are new at every step; a scene is seen
            batch_size / refresh times on average.
        precision: of network calls; weights and optimiser stay float32.
        init_from: folder of an earlier foundation of the same shape, to continue its pretraining; None starts from scratch.
    """

    image_size: Positive = 64
    autoencoder_steps: Positive = 2900
    autoencoder_channels: tuple[Positive, ...] = (32, 64)
    autoencoder_learning_rate: float = Field(2e-3, gt=0)
    kl_weight: float = Field(1e-4, ge=0)
    latent_channels: Positive = 4
    unet_steps: Positive = 8200
    unet_decay_steps: Positive = 1200
    unet_channels: tuple[Positive, ...] = (32, 96, 128)
    unet_learning_rate: float = Field(5e-4, gt=0)
    text_width: Positive = 128
    batch_size: Positive = 16
    single_object_share: Probability = 0.5
    stuff_only_share: Probability = 0.06
    caption_dropout: Probability = 0.1
    pool_size: Positive = 10_000
    refresh: Positive = 5
    precision: Precision = "auto"
    init_from: Path | None = None


class FoundationConfig(Section):
    """The text-to-image pipeline that everything downstream starts from.

    Attributes:
        mode: "pretrained" loads `source`; "pretrain" trains a small one here.
        source: a diffusers folder, or a hub repository together with `revision`.
        revision: commit of a hub repository; required for one.
    """

    mode: Literal["pretrained", "pretrain"] = "pretrained"
    source: str | None = None
    revision: str | None = None
    pretrain: PretrainConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> "FoundationConfig":
        if self.mode == "pretrained" and self.source is None:
            raise ValueError("mode 'pretrained' needs 'source', a diffusers folder or a hub repository")
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


class SamplingConfig(Section):
    """One diffusion sampler.

    Attributes:
        scheduler: a diffusers scheduler class; made from the pipeline's own noise schedule.
        scheduler_kwargs: its settings ({"use_karras_sigmas": true} makes EulerDiscreteScheduler EDM's sampler).
        num_inference_steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 is off.
        micro_batch_size: rows of every network call; MaskSyn and ImgSyn take fewer where that shares the samples of a source
            out evenly. Short batches are padded to it, so that the bytes of a sample don't depend on how many others are made
            with it. It is part of what defines a sample.
    """

    scheduler: str = "DDIMScheduler"
    scheduler_kwargs: dict[str, Any] = Field(default_factory=dict)
    num_inference_steps: Positive = 20
    guidance_scale: float = Field(2.0, ge=1)
    micro_batch_size: Positive = 8
    precision: Precision = "auto"


class SegGenSynthesisConfig(Section):
    """MaskSyn or ImgSyn (SegGen 3.3).

    Attributes:
        samples_per_source: synthetic samples for each real one (paper: 10 for MaskSyn, 50 for ImgSyn).
        text2mask: sampler of the colour maps (paper: EDM, 200 steps); unused by ImgSyn.
        mask2img: sampler of the images (paper: EDM, 40 steps).
        max_palette_distance: pixels further than this from every palette colour count as off-palette.
        batch_size: samples in flight, rounded to whole sources; changes memory and speed, never bytes.
    """

    samples_per_source: Positive
    text2mask: SamplingConfig = SamplingConfig()
    mask2img: SamplingConfig = SamplingConfig()
    max_palette_distance: float = 60.0
    batch_size: Positive = 16


class SeeDiffConfig(Section):
    """SeeDiff (AAAI 2025): masks from cross- and self-attention.

    Attributes:
        samples_per_class: images per class (paper: 2,000 to 3,000).
        prompts: templates; "{class}" is replaced by "a car".
        alpha: seed threshold of equations 6 and 9.
        beta: binarisation threshold of equation 12.
        cross_attention_resolution: side of the cross-attention map that seeds come from.
        cross_attention_layers: which layers' cross-attention is averaged; None takes all of that resolution.
        seed_threshold: "fixed" compares with alpha; "otsu" is the public code's variant.
        pamr: refine the soft mask by pixel-adaptive refinement before binarisation.
        ignore_background: pixels outside the class mask become ignore_index (their true class is unknown).
    """

    samples_per_class: Positive
    prompts: tuple[str, ...] = ("a photo of {class}",)
    sampling: SamplingConfig = SamplingConfig()
    alpha: Probability = 0.5
    beta: Probability = 0.3
    cross_attention_resolution: Positive = 16
    cross_attention_layers: tuple[str, ...] | None = None
    seed_threshold: Literal["fixed", "otsu"] = "fixed"
    pamr: bool = True
    pamr_iterations: Positive = 10
    pamr_dilations: tuple[Positive, ...] = (1, 2, 4, 8)
    min_mask_area: Probability = 0.005
    max_mask_area: Probability = 0.98
    ignore_background: bool = True
    batch_size: Positive = 16


class SegmenterConfig(Section):
    """Segmentation training, the same for every arm.

    Attributes:
        model: "hrnet" (timm) or "mask2former" (transformers).
        strategy: "replace" swaps each real sample for a synthetic one with probability p_aug; "pretrain" trains on synthetic
            samples first and on real ones after (SegGen 3.4).
        p_aug: replacement probability (paper: 0.6).
        num_steps: optimisation steps in all; under "pretrain", the first `pretrain_share` of them see synthetic data.
        learning_rate: peak of AdamW's schedule; after the warm-up it falls to zero as `lr_scheduler` says ("poly": to the power
            0.9 of the steps left, SegGen A.3). Under "pretrain" each phase has its own schedule.
        weight_decay: of matrices and kernels; not of biases and normalisation layers.
        max_grad_norm: gradients are clipped to this norm.
        random_scale: range of the zoom before cropping to the image size.
        color_jitter: brightness, contrast and saturation change by at most this factor.
        checkpoint_every: steps between the states that an interrupted training resumes from.
        backbone: timm model name of "hrnet".
        backbone_kwargs: changes to timm's definition of it, by its own names ("stem_width", "stage2": {...}).
        backbone_source: safetensors file of pretrained weights, or a folder with model.safetensors; None trains from scratch.
        stem_stride: how much HRNet's stem shrinks the image: 4 as published; 2 or 1 for images that are small themselves.
        head_width: channels of HRNet's segmentation head.
        mask2former: fields of transformers' Mask2FormerConfig, `backbone_config` among them; they change `mask2former_source`'s
            where that is given.
        mask2former_source: transformers folder, or hub repository with `mask2former_revision`; None trains from scratch.
        mask2former_revision: commit of a hub repository; required for one.
        overrides: fields of this section that differ for one model, as {"mask2former": {"learning_rate": 1.0e-4}}; they hold
            wherever that model is trained.
    """

    model: Literal["hrnet", "mask2former"] = "hrnet"
    strategy: Literal["replace", "pretrain"] = "replace"
    p_aug: Probability = 0.6
    num_steps: Positive = 600
    pretrain_share: Probability = 0.6
    batch_size: Positive = 16
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    warmup_steps: int = Field(50, ge=0)
    lr_scheduler: Literal["poly", "cosine"] = "poly"
    max_grad_norm: float = Field(10.0, gt=0)
    random_flip: bool = True
    random_scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 1.5)
    color_jitter: Probability = 0.3
    checkpoint_every: Positive = 200
    backbone: str = "hrnet_w18_small"
    backbone_kwargs: dict[str, Any] = Field(default_factory=dict)
    backbone_source: str | None = None
    stem_stride: Literal[1, 2, 4] = 4
    head_width: Positive = 64
    mask2former: dict[str, Any] = Field(default_factory=dict)
    mask2former_source: str | None = None
    mask2former_revision: str | None = None
    overrides: dict[Literal["hrnet", "mask2former"], dict[str, Any]] = Field(default_factory=dict)

    def for_model(self, model: Literal["hrnet", "mask2former"] | None) -> "SegmenterConfig":
        """Return the section as `model` is trained with it: its overrides applied; None is the section's own model."""
        name = model or self.model
        tree = self.model_dump() | self.overrides.get(name, {}) | {"model": name, "overrides": {}}
        return SegmenterConfig.model_validate(tree)

    @model_validator(mode="after")
    def _check(self) -> "SegmenterConfig":
        low, high = self.random_scale
        if low > high:
            raise ValueError(f"random_scale is ({low}, {high}); the first must not be larger")
        for name, changes in self.overrides.items():
            if "model" in changes or "overrides" in changes:
                raise ValueError(f"overrides of {name} can't change 'model' or 'overrides'")
            self.for_model(name)
        return self


class VariantConfig(Section):
    """One arm of the ablation.

    Attributes:
        real: which real samples it trains on: the N-sample "subset", "all" of the training split, or "none".
        reads: exactly two paths, since DVC gives each item of a group the same number of dependencies. Folders under
            data/synthetic are the arm's synthetic sources; an arm that needs fewer names the real indexes instead.
        shuffle_masks: the control: each synthetic image gets the mask of another one.
        model: train this model instead of `train_seg.model`.
    """

    real: Literal["subset", "all", "none"] = "subset"
    reads: tuple[str, str]
    shuffle_masks: bool = False
    model: Literal["hrnet", "mask2former"] | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the synthetic methods among `reads`."""
        return tuple(Path(p).name for p in self.reads if Path(p).parts[:2] == ("data", "synthetic"))

    @model_validator(mode="after")
    def _check(self) -> "VariantConfig":
        unknown = set(self.methods) - set(SYNTHESIS_METHODS)
        if unknown:
            raise ValueError(f"unknown synthetic source {sorted(unknown)}; known: {', '.join(SYNTHESIS_METHODS)}")
        if self.real == "none" and not self.methods:
            raise ValueError("the arm has no data: 'real' is none and 'reads' names nothing under data/synthetic")
        return self


class EvaluateConfig(Section):
    """Evaluation on the held-out test split."""

    batch_size: Positive = 32
    num_pictures: Positive = 8


class JudgeConfig(Section):
    """Scoring of synthetic pairs by the segmenter trained on all real samples."""

    variant: str = "full_real"
    batch_size: Positive = 32


class AblationConfig(Section):
    """The comparison table."""

    baseline: str = "baseline"


class SegGenConfig(Section):
    """The whole of params.yaml.

    Attributes:
        profile: name of the profile; its folder below profiles/ holds what it ships with.
        seed: of all random streams.
        classes: slugs of the class partitions to synthesise; a part of the dataset's taxonomy, or all of it.
        methods: synthetic methods that the judge scores.
    """

    profile: str
    seed: int = Field(0, ge=0)
    classes: tuple[str, ...]
    methods: tuple[str, ...] = SYNTHESIS_METHODS
    runtime: RuntimeConfig = RuntimeConfig()
    dataset: DatasetConfig
    captions: CaptionsConfig = CaptionsConfig()
    foundation: FoundationConfig
    text2mask: DiffusionTrainingConfig
    mask2img: DiffusionTrainingConfig
    masksyn: SegGenSynthesisConfig
    imgsyn: SegGenSynthesisConfig
    seediff: SeeDiffConfig
    train_seg: SegmenterConfig = SegmenterConfig()
    variants: dict[str, VariantConfig]
    evaluate: EvaluateConfig = EvaluateConfig()
    judge: JudgeConfig = JudgeConfig()
    ablation: AblationConfig = AblationConfig()

    @model_validator(mode="after")
    def _check(self) -> "SegGenConfig":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"'classes' repeats a class: {list(self.classes)}")
        if self.ablation.baseline not in self.variants:
            raise ValueError(f"ablation.baseline is {self.ablation.baseline!r}, which isn't among the variants")
        return self


def load_config(path: Path) -> SegGenConfig:
    """Read and check params.yaml; ConfigError says which key is wrong, what was found and what is expected."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; run from the project folder or pass --params") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read as UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {type(tree).__name__}, expected a mapping of sections")
    try:
        return SegGenConfig.model_validate(tree)
    except ValidationError as error:
        lines = [_describe(e["loc"], kind=e["type"], message=e["msg"], found=e["input"]) for e in error.errors()]
        raise ConfigError(f"{path} has {len(lines)} invalid value(s):\n" + "\n".join(lines)) from None


def _describe(location: tuple[int | str, ...], *, kind: str, message: str, found: Any) -> str:
    """Return one line on an invalid value: its key, what is expected, and what was found where that is short."""
    line = f"  {'.'.join(map(str, location)) or '(top level)'}: "
    if kind == "extra_forbidden":
        section: type[BaseModel] = SegGenConfig
        for part in location[:-1]:
            field = section.model_fields.get(str(part))
            if field is not None:  # else the name of one section among several, as in variants.baseline
                types = (field.annotation, *get_args(field.annotation))
                section = next(t for t in types if isinstance(t, type) and issubclass(t, Section))
        return line + f"unknown key; known here: {', '.join(section.model_fields)}"
    shown = f" (got {found!r})" if kind != "missing" and len(repr(found)) < 80 else ""
    return line + message.removeprefix("Value error, ") + shown
