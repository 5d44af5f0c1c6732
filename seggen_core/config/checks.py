"""The section with the limits of the data checks."""

from pydantic import Field

from seggen_core.config.base import NumSamples, Probability, Section, Weight


class ChecksConfig(Section):
    """Limits of the data checks. A failed check stops the stages that read bad data."""

    min_caption_coverage: Probability = 1.0
    """Share of real training samples that need a caption."""
    min_samples: NumSamples = 1
    """Samples that a synthetic partition needs, if any real sample belongs to it."""
    min_edge_agreement: Weight = 1.2
    """How much steeper images have to be along the borders of their masks than elsewhere, as a
    ratio of mean gradients; masks that have nothing to do with their images come to about 1.
    """
    max_histogram_distance: Probability = 0.5
    """Largest total variation distance between the class histogram of a partition and that of its
    real source samples; 0 means equal histograms, 1 means no class in common.
    """
    min_class_share: Probability = 0.005
    """Share of pixels that the class of a partition needs, in methods that label one class at a
    time.
    """
    max_class_share: Probability = 0.95
    """Largest share of pixels of that class."""
    min_val_miou: float = Field(10.0, ge=0, le=100)
    """Mean IoU, in percent, that a trained segmenter needs on the validation split."""
    min_judge_miou: float = Field(15.0, ge=0, le=100)
    """Mean IoU, in percent, that a method's masks need with the predictions of the judge."""
