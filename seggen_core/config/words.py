"""What parameters say where the dataset is a list of words: classes without real images.

Such a project has no stage that reads real images (`commands.pipeline_text`), so its parameters
have no section for one.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from seggen_core.errors import ConfigError

if TYPE_CHECKING:
    from seggen_core.config.data import DatasetConfig
    from seggen_core.config.generation import FoundationConfig
    from seggen_core.config.segmentation import VariantConfig
    from seggen_core.config.segmenter import TrainSegConfig

WORDS = "words"
"""`dataset.name` of a list of words."""
WORD_METHODS = ("seediff", "diffumask")
"""Methods that need no real image."""

_SECTIONS = (
    "captions",
    "text2mask",
    "mask2img",
    "masksyn",
    "imgsyn",
    "judge",
    "memorization",
    "ablation",
)
"""Sections of stages that read real images."""
_REQUIRED: dict[str, dict[str, int]] = {
    "text2mask": {"num_steps": 1},
    "mask2img": {"num_steps": 1},
    "masksyn": {"samples_per_source": 1},
    "imgsyn": {"samples_per_source": 1},
}
"""Sections that every other dataset has to have. No stage of a list of words reads them."""
_IMAGE_SETTINGS = (
    "root",
    "files",
    "columns",
    "num_train",
    "num_val",
    "num_test",
    "subset_size",
    "keep_val_in_train",
    "use_sbd",
    "max_size",
    "max_bad",
    "max_unlisted_share",
)
_ADVICE = "run: seggen init --words FILE, which writes parameters for a list of words"


class CheckedParams(Protocol):
    """The sections of params.yaml that are checked here; `SegGenConfig` has them."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods and mask recipes that are used."""

    @property
    def dataset(self) -> "DatasetConfig":
        """The real samples, or the words."""

    @property
    def foundation(self) -> "FoundationConfig":
        """The text-to-image pipeline."""

    @property
    def mask_recipe(self) -> Mapping[str, Any]:
        """Mask recipes, by name."""

    @property
    def train_seg(self) -> "TrainSegConfig":
        """Training of the segmenters."""

    @property
    def variants(self) -> Mapping[str, "VariantConfig"]:
        """Arms, by name."""


def is_words(tree: Any) -> bool:
    """Return whether unchecked parameters are of a list of words."""
    dataset = tree.get("dataset") if isinstance(tree, Mapping) else None
    return isinstance(dataset, Mapping) and dataset.get("name") == WORDS


def complete_words(tree: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Return the parameters of a list of words with the sections that are required elsewhere.

    Args:
        tree: unchecked parameters.
        name: where they are from, in messages.

    Raises:
        ConfigError: they have sections of stages that read real images.
    """
    present = [section for section in _SECTIONS if section in tree]
    if present:
        raise ConfigError(
            f"{name}: dataset.name is {WORDS!r}, a list of classes without real images, but there "
            f"are sections of stages that read real images: {', '.join(present)}; remove them, or "
            f"{_ADVICE}"
        )
    variants = tree.get("variants")
    first = next(iter(variants), "") if isinstance(variants, Mapping) else ""
    return {**tree, **_REQUIRED, "ablation": {"baseline": first}}


def check_words(config: CheckedParams) -> None:
    """Raise ValueError where parameters ask for real images that a list of words hasn't."""
    if config.dataset.name == WORDS and (faults := list(_faults(config))):
        raise ValueError(
            "dataset.name is 'words', a list of classes without real images, but "
            + "; ".join(faults)
            + f" ({_ADVICE})"
        )


def _faults(config: CheckedParams) -> Iterator[str]:
    dataset = config.dataset
    defaults = type(dataset).model_fields
    unused = [key for key in _IMAGE_SETTINGS if getattr(dataset, key) != _default(defaults[key])]
    if dataset.splits != "published":
        unused.append("splits")
    if unused:
        yield f"dataset.{', dataset.'.join(unused)} say something of images"
    if (dataset.classes_file is None) == (not dataset.class_list):
        yield "the classes have to be in dataset.classes_file or in dataset.class_list"
    known = (*WORD_METHODS, *config.mask_recipe)
    if sourced := [method for method in config.methods if method not in known]:
        yield f"methods has {' and '.join(sourced)}, which start from real samples"
    real = [name for name, arm in config.variants.items() if arm.real != "none"]
    if real:
        yield f"the arms {', '.join(real)} train on real samples: write real: none"
    for name, arm in config.variants.items():
        settings = config.train_seg.for_arm(arm)
        if settings.task != "semantic":
            yield f"the arm {name} has the task {settings.task}: masks of words have no instances"
        if settings.validate_every is not None:
            yield f"the arm {name} has validate_every: there is nothing to validate with"
        if settings.class_balance:
            yield f"the arm {name} has class_balance: it counts the pixels of real samples"
    pretrain = config.foundation.pretrain if config.foundation.mode == "pretrain" else None
    if pretrain is not None and pretrain.data == "training_images":
        yield "foundation.pretrain.data is training_images"


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not None else field.default
