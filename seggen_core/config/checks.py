"""The section with the limits of the data checks."""

from pydantic import Field, field_validator

from seggen_core.config.base import SLUG, NumSamples, Probability, Section, Weight


class CheckLimits(Section):
    """Limits that may be others for one method, or for one class of a method."""

    min_edge_agreement: Weight | None = None
    """As `ChecksConfig.min_edge_agreement`; None leaves it as it is."""
    max_histogram_distance: Probability | None = None
    """As `ChecksConfig.max_histogram_distance`."""
    min_class_share: Probability | None = None
    """As `ChecksConfig.min_class_share`."""
    max_class_share: Probability | None = None
    """As `ChecksConfig.max_class_share`."""


class ChecksConfig(Section):
    """Limits of the data checks. A failed check stops the stages that read bad data.

    A change of a limit looks at the data again and computes none of them again.
    """

    max_shared_images: int = Field(0, ge=0)
    """Training and validation images that may be in the test split, too."""
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
    min_val_pq: float = Field(2.0, ge=0, le=100)
    """Panoptic quality, in percent, that one of an arm with task "panoptic" needs there."""
    min_val_ap: float = Field(0.5, ge=0, le=100)
    """Average precision, in percent, that one of an arm with task "instance" needs there."""
    min_judge_miou: float = Field(15.0, ge=0, le=100)
    """Mean IoU, in percent, that a method's masks should have with the predictions of the judge."""
    overrides: dict[str, CheckLimits] = Field(default_factory=dict)
    """Limits of one method ("diffumask") or of one of its partitions ("diffumask/road"), in place
    of those above.
    """

    @field_validator("overrides")
    @classmethod
    def _check_places(cls, overrides: dict[str, CheckLimits]) -> dict[str, CheckLimits]:
        for place in overrides:
            if not all(SLUG.fullmatch(part) for part in place.split("/", 1)):
                raise ValueError(f"{place!r} is neither a method nor a method/class")
        return overrides

    def key_of(self, limit: str, *, method: str, class_slug: str) -> str:
        """Return the key of params.yaml that sets a limit for a partition."""
        for place in (f"{method}/{class_slug}", method):
            if getattr(self.overrides.get(place), limit, None) is not None:
                return f"checks.overrides.{place}.{limit}"
        return f"checks.{limit}"

    def for_partition(self, method: str, class_slug: str) -> "ChecksConfig":
        """Return the limits of one partition of a method."""
        changed: dict[str, float] = {}
        for place in (method, f"{method}/{class_slug}"):
            if place in self.overrides:
                changed |= self.overrides[place].model_dump(exclude_none=True)
        return self.model_copy(update=changed)
