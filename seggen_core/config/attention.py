"""Sections on masks from attention."""

from typing import Literal

from seggen_core.config.base import Positive, Probability, Section
from seggen_core.config.generation import SamplingConfig


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
