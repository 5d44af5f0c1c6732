"""How a segmenter is shown its samples, optimised, validated and tested."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from seggen_core.config.base import Positive, Precision, Probability, Section, Size

Task = Literal["semantic", "panoptic", "instance"]
"""What a segmenter is trained for."""
CropSize = Size | tuple[Size, Size]
"""Side of square crops, or (height, width)."""
Zoom = Annotated[float, Field(ge=0.05, le=20)]


class RecipeConfig(Section):
    """What published training recipes differ in; a part of `train_seg`."""

    resize: Literal["zoom", "short_side", "scale_jitter"] = "zoom"
    """How samples are resized before they are cropped. "zoom" takes samples of one size, zooms by
    `random_scale` and crops squares. "short_side" brings the short side to `short_side` times a
    factor from `random_scale` (Mask2Former on ADE20K and Cityscapes). "scale_jitter" fits the
    sample into a box of `crop_size` times that factor (large-scale jitter; Mask2Former on COCO).
    The last two take samples of any size, resize with anti-aliasing, and pad small ones at the
    right and at the bottom.
    """
    short_side: Size | None = None
    """Short side of training samples at factor 1, in pixels; "short_side" needs it."""
    max_side: Size | None = None
    """Largest long side of training samples under "short_side", in pixels; None sets no limit."""
    num_scales: Size | None = None
    """Number of factors, equally spaced over `random_scale`, that "short_side" draws from
    (Mask2Former: 16); None draws from the whole range.
    """
    random_scale: tuple[Zoom, Zoom] = (0.75, 1.5)
    """Range of the factor by which samples are resized before cropping."""
    crop_size: CropSize | None = None
    """Side of the training crops, or (height, width); None is the image size, under "zoom" alone.
    """
    max_category_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Under "short_side", a crop is drawn again, ten times at most, while one class has a larger
    share of its labelled pixels. 1 accepts the first crop (Mask2Former's configurations).
    """
    random_flip: bool = True
    """Flip half of the samples left to right."""
    color: Literal["jitter", "ssd"] = "jitter"
    """"jitter" changes brightness, contrast and saturation by `color_jitter`. "ssd" is the
    distortion of SSD, as Mask2Former uses it: brightness by up to 32 of 255, contrast and
    saturation by 0.5 to 1.5, hue by up to 36 degrees, each for half of the samples.
    """
    color_jitter: Probability = 0.3
    """Under "jitter", brightness, contrast and saturation change by at most this factor."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """"adamw" or "sgd" with `momentum`."""
    momentum: Probability = 0.9
    """Momentum of "sgd"."""
    undecayed: Literal["vectors", "norms_and_embeddings", "none"] = "vectors"
    """What weight decay leaves out: all "vectors" (biases and normalisation); normalisation layers,
    embeddings and tables of relative positions (Mask2Former: biases decay); or nothing (HRNet).
    """
    freeze_batch_norm: bool = False
    """Keep the backbone's batch normalisation as it was pretrained: weights and statistics."""
    initialization: Literal["transformers", "published"] = "transformers"
    """First weights of Mask2Former's pixel decoder: transformers' normal distribution, or Xavier's
    and Kaiming's, as the authors publish it.
    """
    precision: Precision = "fp32"
    """Of network calls while training; weights, optimiser and loss stay float32."""
    micro_batch_size: Size | None = None
    """Samples of one network call, a divisor of `batch_size`: the gradients of a step are the mean
    over its calls. Smaller ones take less memory. Batch normalisation that isn't frozen sees the
    samples of one call. None computes a step at once.
    """
    num_readers: Annotated[int, Field(gt=0, le=256)] = 1
    """Threads that read and augment samples; they change the speed alone."""
    validate_every: Positive | None = None
    """Steps between two validations of an unfinished training; None validates at the end alone."""
    num_validation: Positive | None = None
    """Validation samples that these use, spread over the split; None uses all."""
    patience: Positive | None = None
    """A training ends early if this many validations in a row bring no better mIoU; None trains all
    steps.
    """
    test_short_side: Size | None = None
    """Short side in pixels that images are predicted at; predictions are brought back to the size
    of the labels. None predicts images at their own size.
    """
    test_max_side: Size | None = None
    """Largest long side in pixels that images are predicted at; None sets no limit."""

    @property
    def crop_shape(self) -> tuple[int, int] | None:
        """(height, width) of the crops."""
        return (self.crop_size,) * 2 if isinstance(self.crop_size, int) else self.crop_size

    @model_validator(mode="after")
    def _check_recipe(self) -> "RecipeConfig":
        low, high = self.random_scale
        if low > high:
            raise ValueError(f"random_scale is ({low}, {high}); the first must not be larger")
        if self.resize != "zoom" and self.crop_size is None:
            raise ValueError(f"resize {self.resize!r} needs 'crop_size'")
        if self.resize == "short_side" and self.short_side is None:
            raise ValueError("resize 'short_side' needs 'short_side', in pixels")
        if self.resize == "zoom" and isinstance(self.crop_size, tuple):
            raise ValueError("resize 'zoom' crops squares; give crop_size as one number")
        if self.patience is not None and self.validate_every is None:
            raise ValueError("'patience' counts validations: it needs 'validate_every'")
        return self


class MultiScaleConfig(Section):
    """Test-time augmentation: predictions at several scales, and mirrored, are averaged."""

    scales: tuple[Zoom, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    """Factors on the short side that images are tested at (Mask2Former's)."""
    flip: bool = True
    """Also predict each scale mirrored."""


class PostprocessConfig(Section):
    """How queries become segments: Mask2Former's panoptic and instance inference, its values."""

    object_mask_threshold: Probability = 0.8
    """A query is a segment if the probability of its class is higher."""
    overlap_threshold: Probability = 0.8
    """A segment is left out if others cover more of its mask than the rest of this share."""
    num_instances: Size = 100
    """Instances of an image at most, those with the highest scores."""
