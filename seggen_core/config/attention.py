"""Sections of the methods that make masks from attention."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from seggen_core.config.base import (
    NOTHING_TO_WATCH,
    LearningRate,
    NumSamples,
    Positive,
    Probability,
    Section,
    Size,
    Slug,
    TrackedPath,
)
from seggen_core.config.generation import SamplingConfig
from seggen_core.config.storage import ImageStorageConfig


class AttentionMethodConfig(ImageStorageConfig):
    """Settings of every method that makes masks from attention."""

    samples_per_class: NumSamples
    """Images per class (SeeDiff: 2,000 to 3,000)."""
    prompts: tuple[str, ...] = ("a photo of {class}",)
    """Templates. "{class}" becomes "a car"; "{other}" becomes another class of the taxonomy, drawn
    for each sample.
    """
    prompt_file: Path | None = None
    """Prompts to use instead of the templates, one a line: a JSON object, {"class": "car",
    "prompt": "a red car"}, or plain text, which then is a prompt of each class that it names. They
    may come from a language model, a retrieval or a list of sub-classes. The file is checked whole
    before the first image. Each partition stores the prompts that it used.
    """
    reads: Annotated[Path | None, TrackedPath] = None
    """The file that DVC watches: `prompt_file` if it is set, else data/code/none.json."""
    sub_classes: dict[Slug, tuple[str, ...]] = Field(default_factory=dict)
    """Names that stand for a class in the templates, by its slug: {"car": ["police car", "old
    car"]}. Each name has to contain the name of the class or a synonym, because their tokens give
    the mask.
    """
    synonyms: dict[Slug, tuple[str, ...]] = Field(default_factory=dict)
    """What else prompts call a class, by its slug: {"person": ["man", "woman"]}. The tokens of all
    these words give the mask. Regular plurals need not be listed.
    """
    multi_class: bool = False
    """True labels every class that the prompt names, by argmax against the background; False labels
    only the class of the partition.
    """
    sampling: SamplingConfig = SamplingConfig()
    """The sampler of the images."""
    cross_attention_layers: tuple[str, ...] | None = None
    """Names of the layers whose cross-attention is averaged; None takes all."""
    class_cross_attention_layers: dict[Slug, tuple[str, ...]] = Field(default_factory=dict)
    """The same for single classes, by slug: other layers may localise a class better."""
    pamr: bool = True
    """Refine soft masks by pixel-adaptive refinement before binarisation."""
    pamr_iterations: Size = 10
    """Updates of PAMR."""
    pamr_dilations: tuple[Size, ...] = (1, 2, 4, 8)
    """Distances of PAMR's neighbours in pixels."""
    min_mask_area: Probability = 0.005
    """Share of the image; a sample with a smaller mask is rejected."""
    max_mask_area: Probability = 0.98
    """Share of the image; a sample with a larger mask is rejected."""
    min_seed_count: int = Field(1, ge=0, le=1 << 32)
    """Lowest number of seeds of an accepted sample (docs/attention.md)."""
    min_contrast: Probability = 0.0
    """Lowest contrast of an accepted sample (docs/attention.md)."""
    min_threshold_agreement: Probability = 0.0
    """Lowest agreement of an accepted sample's mask with masks of nearby thresholds
    (docs/attention.md).
    """
    ignore_background: bool = True
    """Pixels outside the masks become ignore_index (their true class is unknown)."""
    batch_size: Size = 16
    """Samples in flight; changes memory and speed, never bytes."""
    keep_attention: bool = False
    """Keep the attention of each image in .seggen/attention. Then a change of any setting of the
    masks makes new masks and no images. It is kept in float16, from which masks are cut, so they
    differ in a few pixels from those without. SeeDiff keeps 38 MB for an image of 64x64 latents
    (`seggen plan` shows it), DiffuMask, which needs no self-attention, about 1 MB.
    """

    @property
    def recorded(self) -> dict[str, Any]:
        """What the manifest of a partition says about the settings."""
        unused = {name for name in ("synonyms", "keep_attention") if not getattr(self, name)}
        return self.model_dump(mode="json", exclude=self.encoding_fields | unused)

    def for_class(self, slug: str) -> Self:
        """Return the section for one class, with the cross-attention layers of that class."""
        layers = self.class_cross_attention_layers.get(slug, self.cross_attention_layers)
        return self.model_copy(
            update={"cross_attention_layers": layers, "class_cross_attention_layers": {}}
        )

    @model_validator(mode="after")
    def _check_prompts(self) -> "AttentionMethodConfig":
        silent = [t for t in self.prompts if "{class}" not in t]
        if silent and self.prompt_file is None:
            raise ValueError(
                f"prompts holds {silent[0]!r}, which names no class; "
                "write {class} at the place of the class name"
            )
        if not self.prompts:
            raise ValueError(
                "prompts is empty; give at least one template, such as 'a photo of {class}'"
            )
        if self.prompt_file is not None and self.reads != self.prompt_file:
            raise ValueError(
                f"prompt_file is {self.prompt_file}, but reads is {self.reads}: DVC watches the "
                "file that reads names, and wouldn't see the prompts change; write reads: "
                f"{self.prompt_file}"
            )
        if self.prompt_file is None and self.reads not in (None, NOTHING_TO_WATCH):
            raise ValueError(
                f"reads is {self.reads}, but there is no prompt_file, so templates make the "
                f"prompts; write prompt_file: {self.reads} too, or reads: {NOTHING_TO_WATCH}"
            )
        return self


class SeeDiffConfig(AttentionMethodConfig):
    """SeeDiff (AAAI 2025), and the simpler strategies that its Table 5 compares it with."""

    strategy: Literal["seediff", "ca", "ca_sa"] = "seediff"
    """"seediff"; "ca" thresholds cross-attention; "ca_sa" multiplies it by self-attention (Dataset
    Diffusion).
    """
    alpha: Probability = 0.5
    """Seed threshold of equations 6 and 9."""
    beta: Probability = 0.3
    """Binarisation threshold of equation 12, and of the other strategies."""
    cross_attention_resolution: Size = 16
    """Side of the cross-attention map that seeds come from (Table 4)."""
    self_attention_resolutions: tuple[Size, ...] | None = None
    """Sides of the self-attention maps that expand the seeds; None takes the seeds' side and all
    larger ones.
    """
    seed_threshold: Literal["fixed", "otsu"] = "fixed"
    """"fixed" compares with alpha; "otsu" is the public code's variant."""
    affinity: Literal["rows", "columns", "cosine"] = "rows"
    """Reading of equation 7: rows, columns or cosines (`attention.seediff.expand_region`)."""
    normalization: Literal["min_max", "max"] = "min_max"
    """How soft maps are brought to [0, 1]."""
    expansion: Literal["once", "each", "iterative"] = "iterative"
    """"iterative" over all resolutions (IRE of Table 2); "each" grows the seeds of the
    cross-attention map at each resolution and averages the regions (CRE); "once" grows them at the
    coarsest alone.
    """
    background_expansion: bool = True
    """Remove the expanded background from the mask (BE of Table 2)."""
    power: Size = 4
    """Tau of "ca_sa"."""
    uncertainty_threshold: Probability | None = None
    """For "ca_sa": pixels with a score between this and beta are ignored; None ignores none."""

    @model_validator(mode="after")
    def _check_thresholds(self) -> "SeeDiffConfig":
        if self.uncertainty_threshold is not None and self.uncertainty_threshold >= self.beta:
            raise ValueError(
                f"uncertainty_threshold is {self.uncertainty_threshold}; it must be lower than "
                f"beta, which is {self.beta}"
            )
        return self


class AffinityNetConfig(Section):
    """DiffuMask's AffinityNet (Ahn and Kwak, CVPR 2018), trained on the images of one class."""

    feature_size: Size = 32
    """Side of its feature map; the image size divided by a power of two. The random walk has
    feature_size^2 nodes.
    """
    channels: int = Field(32, gt=0, le=1 << 16, multiple_of=4)
    """Number of feature channels."""
    radius: Size = 5
    """Largest distance of two pixels of a training pair, in pixels of the feature map."""
    foreground: Probability = 0.6
    """Pixels with at least this score are labels of the class."""
    background: Probability = 0.3
    """Pixels with at most this score are labels of the background."""
    num_steps: Positive = 120
    """Optimisation steps of its training."""
    batch_size: Size = 8
    """Images of a step of its training."""
    learning_rate: LearningRate = 3e-3
    """Learning rate of its training."""
    sharpness: Size = 8
    """Exponent of the affinities before the random walk (beta of the paper's)."""
    walk_steps: Size = 32
    """Steps of the walk."""

    @model_validator(mode="after")
    def _check(self) -> "AffinityNetConfig":
        if self.background >= self.foreground:
            raise ValueError(
                f"background is {self.background}, but must be lower than foreground, which is "
                f"{self.foreground}"
            )
        return self


class NoiseLearningConfig(Section):
    """DiffuMask's noise learning: cross-validation scores each pair, and the worst are dropped."""

    num_folds: int = Field(3, ge=2, le=1000)
    """Number of folds. The network that scores a pair was trained on the other folds."""
    drop_share: Probability = 0.2
    """Share of the pairs to drop: those with the lowest IoU of mask and prediction."""
    num_steps: Positive = 80
    """Optimisation steps of the small segmenter that each fold trains."""
    batch_size: Size = 8
    """Images of a step of that training."""
    learning_rate: LearningRate = 3e-3
    """Learning rate of that training."""
    channels: int = Field(16, gt=0, le=1 << 16, multiple_of=4)
    """Width of that segmenter."""


class DiffuMaskConfig(AttentionMethodConfig):
    """DiffuMask (ICCV 2023): masks from cross-attention, with one threshold for each image."""

    thresholds: tuple[Probability, ...] = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
    """The candidates that each image chooses its threshold from."""
    background_score: Probability = 0.45
    """Score of the background in the map V that the masks of the thresholds are compared with."""
    affinity_net: AffinityNetConfig | None = AffinityNetConfig()
    """The network that makes V; None takes the cross-attention refined by PAMR instead."""
    noise_learning: NoiseLearningConfig | None = NoiseLearningConfig()
    """None keeps every pair."""

    @model_validator(mode="after")
    def _check(self) -> "DiffuMaskConfig":
        if not self.thresholds or self.multi_class:
            raise ValueError(
                "DiffuMask needs at least one threshold and labels one class an image: set "
                "multi_class to false"
            )
        return self
