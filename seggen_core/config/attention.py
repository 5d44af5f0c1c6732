"""Sections on masks from attention."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from seggen_core.config.base import NOTHING_TO_WATCH, Positive, Probability, Section, TrackedPath
from seggen_core.config.generation import SamplingConfig


class AttentionMethodConfig(Section):
    """What all methods that take masks from attention share."""

    samples_per_class: Positive
    """Images per class (SeeDiff: 2,000 to 3,000)."""
    prompts: tuple[str, ...] = ("a photo of {class}",)
    """Templates; "{class}" is replaced by "a car", "{other}" by another class of the taxonomy,
    drawn per sample.
    """
    prompt_file: Path | None = None
    """Prompts to use instead of the templates, one JSON object a line: {"class": "car", "prompt":
    "a red car"} (an LLM's, a retrieval's, sub-classes). The prompts used are kept in the partition,
    so that they travel with it.
    """
    reads: Annotated[Path | None, TrackedPath] = None
    """The file that DVC watches: `prompt_file` if it is set, else data/code/none.json."""
    sub_classes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Names that stand for a class in the templates, by its slug: {"car": ["police car", "old
    car"]}. A name has to contain the class's own, whose tokens the mask is taken from.
    """
    multi_class: bool = False
    """Label every class that the prompt names, by argmax against background; else the partition's
    class alone.
    """
    sampling: SamplingConfig = SamplingConfig()
    """The sampler of the images."""
    cross_attention_layers: tuple[str, ...] | None = None
    """Which layers' cross-attention is averaged; None takes all."""
    class_cross_attention_layers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """The same for single classes, by slug, where other layers localise them better."""
    pamr: bool = True
    """Refine soft masks by pixel-adaptive refinement before binarisation."""
    pamr_iterations: Positive = 10
    """Updates of PAMR."""
    pamr_dilations: tuple[Positive, ...] = (1, 2, 4, 8)
    """Distances of PAMR's neighbours in pixels."""
    min_mask_area: Probability = 0.005
    """Share of the image; a sample with a smaller mask is rejected."""
    max_mask_area: Probability = 0.98
    """Share of the image; a sample with a larger mask is rejected."""
    min_seed_count: int = Field(1, ge=0)
    """Lowest number of seeds of an accepted sample (docs/attention.md)."""
    min_contrast: Probability = 0.0
    """Lowest contrast of an accepted sample (docs/attention.md)."""
    min_threshold_agreement: Probability = 0.0
    """Lowest agreement of an accepted sample's mask with masks of nearby thresholds
    (docs/attention.md).
    """
    ignore_background: bool = True
    """Pixels outside the masks become ignore_index (their true class is unknown)."""
    batch_size: Positive = 16
    """Samples in flight; changes memory and speed, never bytes."""

    def for_class(self, slug: str) -> Self:
        """Return the section for one class: with its own cross-attention layers, if any."""
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
                "write {class} where its name belongs"
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
    cross_attention_resolution: Positive = 16
    """Side of the cross-attention map that seeds come from (Table 4)."""
    self_attention_resolutions: tuple[Positive, ...] | None = None
    """Sides of the self-attention maps that regions grow on; None takes all from the seeds' on."""
    seed_threshold: Literal["fixed", "otsu"] = "fixed"
    """"fixed" compares with alpha; "otsu" is the public code's variant."""
    affinity: Literal["rows", "columns", "cosine"] = "rows"
    """How self-attention is read in equation 7 (`attention.seediff.expand_region`)."""
    normalization: Literal["min_max", "max"] = "min_max"
    """How soft maps are brought to [0, 1]."""
    expansion: Literal["once", "iterative"] = "iterative"
    """"iterative" over all resolutions (IRE of Table 2), or "once" at the coarsest (CRE)."""
    background_expansion: bool = True
    """Take the grown background out (BE of Table 2)."""
    power: Positive = 4
    """Tau of "ca_sa"."""
    uncertainty_threshold: Probability | None = None
    """Under "ca_sa", pixels from here to beta become ignore_index; None: none do."""

    @model_validator(mode="after")
    def _check_thresholds(self) -> "SeeDiffConfig":
        if self.uncertainty_threshold is not None and self.uncertainty_threshold >= self.beta:
            raise ValueError(
                f"uncertainty_threshold is {self.uncertainty_threshold}; it must be lower than "
                f"beta, which is {self.beta}"
            )
        return self


class AffinityNetConfig(Section):
    """DiffuMask's AffinityNet (Ahn and Kwak, CVPR 2018), trained on one class's own images."""

    feature_size: Positive = 32
    """Side of its feature map; the image size divided by a power of two. The random walk has
    feature_size^2 nodes.
    """
    channels: int = Field(32, gt=0, multiple_of=4)
    """Of its features."""
    radius: Positive = 5
    """Pixels of the feature map further apart than this form no training pair."""
    foreground: Probability = 0.6
    """From this score on, a pixel certainly belongs to the class, and the network learns from it.
    """
    background: Probability = 0.3
    """Up to this score, a pixel certainly is background, and the network learns from it."""
    num_steps: Positive = 120
    """Optimisation steps of its training."""
    batch_size: Positive = 8
    """Images of a step of its training."""
    learning_rate: float = Field(3e-3, gt=0)
    """Learning rate of its training."""
    sharpness: Positive = 8
    """Exponent of the affinities before the random walk (beta of the paper's)."""
    walk_steps: Positive = 32
    """Steps of the walk."""

    @model_validator(mode="after")
    def _check(self) -> "AffinityNetConfig":
        if self.background >= self.foreground:
            raise ValueError(
                f"background is {self.background}, foreground {self.foreground}; it has to be lower"
            )
        return self


class NoiseLearningConfig(Section):
    """DiffuMask's noise learning: cross-validation scores each pair, and the worst are dropped."""

    num_folds: int = Field(3, ge=2)
    """Each pair is judged by a network that has seen none of its fold."""
    drop_share: Probability = 0.2
    """This share of the pairs is dropped, those with the lowest IoU between mask and prediction."""
    num_steps: Positive = 80
    """Optimisation steps of the small segmenter that each fold trains."""
    batch_size: Positive = 8
    """Images of a step of that training."""
    learning_rate: float = Field(3e-3, gt=0)
    """Learning rate of that training."""
    channels: int = Field(16, gt=0, multiple_of=4)
    """Width of that segmenter."""


class DiffuMaskConfig(AttentionMethodConfig):
    """DiffuMask (ICCV 2023): cross-attention alone, with a threshold of its own for every image."""

    thresholds: tuple[Probability, ...] = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
    """The candidates that each image chooses its threshold from."""
    background_score: Probability = 0.45
    """Score of the background in the map that candidates are matched with."""
    affinity_net: AffinityNetConfig | None = AffinityNetConfig()
    """What makes that map; None takes the refined cross-attention (PAMR) itself."""
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
