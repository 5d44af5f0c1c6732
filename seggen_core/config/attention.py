"""Sections on masks from attention."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from seggen_core.config.base import Positive, Probability, Section
from seggen_core.config.generation import SamplingConfig

_TEMPLATES = Path("seggen_core/synthesis/prompt_templates.py")


class AttentionMethodConfig(Section):
    """What all methods that take masks from attention share.

    Attributes:
        samples_per_class: images per class (SeeDiff: 2,000 to 3,000).
        prompts: templates; "{class}" is replaced by "a car", "{other}" by another class of the
            taxonomy, drawn per sample.
        prompt_file: prompts to use instead of the templates, one JSON object a line: {"class":
            "car", "prompt": "a red car"} (an LLM's, a retrieval's, sub-classes). The prompts used
            are kept in the partition, so that they travel with it.
        reads: the file that the prompts come from; DVC tracks it. `prompt_file` where that is set,
            else the module that makes them of the templates.
        sub_classes: names that stand for a class in the templates, by its slug: {"car": ["police
            car", "old car"]}. A name has to contain the class's own, whose tokens the mask is taken
            from.
        multi_class: label every class that the prompt names, by argmax against background; else the
            partition's class alone.
        sampling: the sampler of the images.
        cross_attention_layers: which layers' cross-attention is averaged; None takes all.
        class_cross_attention_layers: the same for single classes, by slug, where other layers
            localise them better.
        pamr: refine soft masks by pixel-adaptive refinement before binarisation.
        pamr_iterations, pamr_dilations: updates, and distances of the neighbours in pixels.
        min_mask_area, max_mask_area: shares of the image; samples with a mask outside of them are
            rejected.
        min_seed_count, min_contrast, min_threshold_agreement: lowest quality scores of a sample
            that is kept (docs/attention.md).
        ignore_background: pixels outside the masks become ignore_index (their true class is
            unknown).
        batch_size: samples in flight; changes memory and speed, never bytes.
    """

    samples_per_class: Positive
    prompts: tuple[str, ...] = ("a photo of {class}",)
    prompt_file: Path | None = None
    reads: Path | None = None
    sub_classes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    multi_class: bool = False
    sampling: SamplingConfig = SamplingConfig()
    cross_attention_layers: tuple[str, ...] | None = None
    class_cross_attention_layers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    pamr: bool = True
    pamr_iterations: Positive = 10
    pamr_dilations: tuple[Positive, ...] = (1, 2, 4, 8)
    min_mask_area: Probability = 0.005
    max_mask_area: Probability = 0.98
    min_seed_count: int = Field(1, ge=0)
    min_contrast: Probability = 0.0
    min_threshold_agreement: Probability = 0.0
    ignore_background: bool = True
    batch_size: Positive = 16

    def for_class(self, slug: str) -> Self:
        """Return the section as it holds for one class: its own cross-attention layers, if it has any."""
        layers = self.class_cross_attention_layers.get(slug, self.cross_attention_layers)
        return self.model_copy(
            update={"cross_attention_layers": layers, "class_cross_attention_layers": {}}
        )

    @model_validator(mode="after")
    def _check_prompts(self) -> "AttentionMethodConfig":
        silent = [t for t in self.prompts if "{class}" not in t]
        if silent and self.prompt_file is None:
            raise ValueError(
                f"prompts holds {silent[0]!r}, which names no class; write {{class}} where its name belongs"
            )
        if not self.prompts:
            raise ValueError(
                "prompts is empty; give at least one template, such as 'a photo of {class}'"
            )
        if self.prompt_file is not None and self.reads != self.prompt_file:
            raise ValueError(
                f"prompt_file is {self.prompt_file}, but reads is {self.reads}: DVC tracks the file that reads names, and "
                f"wouldn't see the prompts change; write reads: {self.prompt_file}"
            )
        if self.prompt_file is None and self.reads not in (None, _TEMPLATES):
            raise ValueError(
                f"reads is {self.reads}, but there is no prompt_file: the prompts are made of templates; write prompt_file: "
                f"{self.reads} too, or reads: {_TEMPLATES}"
            )
        return self


class SeeDiffConfig(AttentionMethodConfig):
    """SeeDiff (AAAI 2025), and the simpler strategies that its Table 5 compares it with.

    Attributes:
        strategy: "seediff"; "ca" thresholds cross-attention; "ca_sa" multiplies it by
            self-attention (Dataset Diffusion).
        alpha: seed threshold of equations 6 and 9.
        beta: binarisation threshold of equation 12, and of the other strategies.
        cross_attention_resolution: side of the cross-attention map that seeds come from (Table 4).
        self_attention_resolutions: sides of the self-attention maps that regions grow on; None
            takes all from the seeds' on.
        seed_threshold: "fixed" compares with alpha; "otsu" is the public code's variant.
        affinity: how self-attention is read in equation 7 (`attention.seediff.expand_region`).
        normalization: how soft maps are brought to [0, 1].
        expansion: "iterative" over all resolutions (IRE of Table 2), or "once" at the coarsest
            (CRE).
        background_expansion: take the grown background out (BE of Table 2).
        power: tau of "ca_sa".
        uncertainty_threshold: under "ca_sa", pixels from here to beta become ignore_index; None:
            none do.
    """

    strategy: Literal["seediff", "ca", "ca_sa"] = "seediff"
    alpha: Probability = 0.5
    beta: Probability = 0.3
    cross_attention_resolution: Positive = 16
    self_attention_resolutions: tuple[Positive, ...] | None = None
    seed_threshold: Literal["fixed", "otsu"] = "fixed"
    affinity: Literal["rows", "columns", "cosine"] = "rows"
    normalization: Literal["min_max", "max"] = "min_max"
    expansion: Literal["once", "iterative"] = "iterative"
    background_expansion: bool = True
    power: Positive = 4
    uncertainty_threshold: Probability | None = None

    @model_validator(mode="after")
    def _check_thresholds(self) -> "SeeDiffConfig":
        if self.uncertainty_threshold is not None and self.uncertainty_threshold >= self.beta:
            raise ValueError(
                f"uncertainty_threshold is {self.uncertainty_threshold}, beta {self.beta}; it has to be lower"
            )
        return self


class AffinityNetConfig(Section):
    """DiffuMask's AffinityNet (Ahn and Kwak, CVPR 2018), trained on one class's own images.

    Attributes:
        feature_size: side of its feature map; the image size divided by a power of two. The random
            walk has feature_size^2 nodes.
        channels: of its features.
        radius: pixels of the feature map further apart than this form no training pair.
        foreground, background: from this score on, and up to this score, a pixel is certain enough
            to learn from.
        num_steps, batch_size, learning_rate: of its training.
        sharpness: exponent of the affinities before the random walk (beta of the paper's).
        walk_steps: steps of the walk.
    """

    feature_size: Positive = 32
    channels: int = Field(32, gt=0, multiple_of=4)
    radius: Positive = 5
    foreground: Probability = 0.6
    background: Probability = 0.3
    num_steps: Positive = 120
    batch_size: Positive = 8
    learning_rate: float = Field(3e-3, gt=0)
    sharpness: Positive = 8
    walk_steps: Positive = 32

    @model_validator(mode="after")
    def _check(self) -> "AffinityNetConfig":
        if self.background >= self.foreground:
            raise ValueError(
                f"background is {self.background}, foreground {self.foreground}; it has to be lower"
            )
        return self


class NoiseLearningConfig(Section):
    """DiffuMask's noise learning: cross-validated confidence in each image-mask pair; the least certain are dropped.

    Attributes:
        num_folds: each pair is judged by a network that has seen none of its fold.
        drop_share: this share of the pairs is dropped, those with the lowest IoU between mask and
            prediction.
        num_steps, batch_size, learning_rate, channels: of the small segmenter that each fold
            trains.
    """

    num_folds: int = Field(3, ge=2)
    drop_share: Probability = 0.2
    num_steps: Positive = 80
    batch_size: Positive = 8
    learning_rate: float = Field(3e-3, gt=0)
    channels: int = Field(16, gt=0, multiple_of=4)


class DiffuMaskConfig(AttentionMethodConfig):
    """DiffuMask (ICCV 2023): cross-attention alone, with a threshold of its own for every image.

    Attributes:
        thresholds: the candidates that each image chooses its threshold from.
        background_score: score of the background in the map that candidates are matched with.
        affinity_net: what makes that map; None takes the refined cross-attention (PAMR) itself.
        noise_learning: None keeps every pair.
    """

    thresholds: tuple[Probability, ...] = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
    background_score: Probability = 0.45
    affinity_net: AffinityNetConfig | None = AffinityNetConfig()
    noise_learning: NoiseLearningConfig | None = NoiseLearningConfig()

    @model_validator(mode="after")
    def _check(self) -> "DiffuMaskConfig":
        if not self.thresholds or self.multi_class:
            raise ValueError(
                "DiffuMask wants at least one threshold, and labels one class an image (multi_class: false)"
            )
        return self
