"""params.yaml as a whole, and its reading."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from seggen_core.config.attention import DiffuMaskConfig, SeeDiffConfig
from seggen_core.config.base import Section, Seed, Slug
from seggen_core.config.checks import ChecksConfig
from seggen_core.config.data import CaptionsConfig, DatasetConfig, RuntimeConfig
from seggen_core.config.generation import (
    DiffusionTrainingConfig,
    FoundationConfig,
    SegGenSynthesisConfig,
    Text2MaskConfig,
)
from seggen_core.config.library_settings import plain_message
from seggen_core.config.mask_recipe import MaskRecipeConfig
from seggen_core.config.overrides import apply_overrides
from seggen_core.config.params_file import read_params, require_mapping
from seggen_core.config.segmentation import (
    SYNTHESIS_METHODS,
    AblationConfig,
    EvaluateConfig,
    JudgeConfig,
    MemorizationConfig,
    VariantConfig,
    ZeroShotConfig,
)
from seggen_core.config.segmenter import SegmenterConfig, TrainSegConfig, keys_of_version_0_1
from seggen_core.config.suite import SuiteConfig
from seggen_core.config.transfer import TransferConfig
from seggen_core.config.words import WORDS, check_words, complete_words, is_words
from seggen_core.errors import ConfigError


class SegGenConfig(Section):
    """The whole of params.yaml."""

    profile: Slug
    """Name of the profile; its folder below profiles/ holds what it ships with."""
    seed: Seed = 0
    """Seed of all random streams."""
    classes: tuple[Slug, ...]
    """Slugs of the class partitions to synthesise; a part of the dataset's taxonomy, or all of it.
    """
    methods: tuple[Slug, ...] = SYNTHESIS_METHODS
    """Synthetic methods and mask recipes that are checked, judged and compared with the training
    set: those that arms read, and others.
    """
    runtime: RuntimeConfig = RuntimeConfig()
    """How to compute."""
    dataset: DatasetConfig
    """The real samples."""
    captions: CaptionsConfig = CaptionsConfig()
    """Text prompts of the real samples."""
    foundation: FoundationConfig
    """The pretrained text-to-image pipeline."""
    text2mask: Text2MaskConfig
    """Training of Text2Mask."""
    mask2img: DiffusionTrainingConfig
    """Training of Mask2Img."""
    masksyn: SegGenSynthesisConfig
    """Sampling of MaskSyn."""
    imgsyn: SegGenSynthesisConfig
    """Sampling of ImgSyn."""
    seediff: SeeDiffConfig
    """Sampling and masks of SeeDiff."""
    diffumask: DiffuMaskConfig | None = None
    """Sampling and masks of DiffuMask; None if the stage is not used."""
    mask_recipe: dict[Slug, MaskRecipeConfig] = Field(default_factory=dict)
    """Further stores of SeeDiff and DiffuMask, by name: other masks of the same images."""
    train_seg: TrainSegConfig = TrainSegConfig()
    """Training of the segmenters."""
    variants: dict[Slug, VariantConfig]
    """Arms of the ablation, by name."""
    zero_shot: ZeroShotConfig = ZeroShotConfig()
    """Classes that only synthetic data may teach."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Scoring on the test split."""
    judge: JudgeConfig = JudgeConfig()
    """Scoring of synthetic pairs."""
    memorization: MemorizationConfig = MemorizationConfig()
    """Distances of synthetic samples to the training samples."""
    ablation: AblationConfig = AblationConfig()
    """The table over all arms."""
    transfer: dict[Slug, TransferConfig] = Field(default_factory=dict)
    """Tests of arms on other datasets, by name."""
    suite: dict[Slug, SuiteConfig] = Field(default_factory=dict)
    """Suites, by name: tables of some arms beside a paper's figures."""
    checks: ChecksConfig = ChecksConfig()
    """Limits of the data checks."""

    @model_validator(mode="after")
    def _check(self) -> "SegGenConfig":
        if self.dataset.image_size % 8:
            raise ValueError(
                f"dataset.image_size is {self.dataset.image_size}; expected a multiple of 8: "
                "diffusion pipelines make images of no other size"
            )
        self._check_models()
        check_words(self)
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"'classes' repeats a class: {list(self.classes)}")
        self._check_recipes()
        if unknown := set(self.methods) - set(self.synthetic_stores):
            raise ValueError(
                f"'methods' holds {sorted(unknown)}; known: {', '.join(self.synthetic_stores)}"
            )
        for key, values in (
            ("methods", self.methods),
            ("dataset.subset_seeds", self.dataset.subset_seeds),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"{key!r} repeats a value: {list(values)}")
        for name, variant in self.variants.items():
            if unknown := set(variant.methods) - set(self.synthetic_stores):
                raise ValueError(
                    f"variants.{name}: unknown synthetic source {sorted(unknown)}; known: "
                    f"{', '.join(self.synthetic_stores)}"
                )
            if unchecked := set(variant.methods) - set(self.methods):
                raise ValueError(
                    f"variants.{name} reads {', '.join(sorted(unchecked))}, which 'methods' lacks: "
                    "only the samples of the methods listed there are checked (add it)"
                )
        if self.ablation.baseline not in self.variants:
            raise ValueError(
                f"ablation.baseline is {self.ablation.baseline!r}, which isn't among the variants"
            )
        self._check_transfers()
        self._check_judge()
        return self

    def _check_judge(self) -> None:
        name = self.judge.variant
        judge = self.variants.get(name)
        if judge is None:
            if "judge" in self.model_fields_set and self.methods:
                raise ValueError(
                    f"judge.variant is {name!r}, which isn't among the variants: "
                    f"{', '.join(self.variants)}"
                )
            return
        if judge.known_classes:
            raise ValueError(
                f"judge.variant is {name!r}, which knows some classes only "
                "(known_classes); a judge has to know all"
            )
        if self._settings_of(name).task == "instance":
            raise ValueError(
                f"judge.variant is {name!r}, whose task is instance: it gives no class to every "
                "pixel; name an arm with task semantic or panoptic"
            )

    def _check_models(self) -> None:
        models = [self._settings_of(name) for name in self.variants]
        for name, settings in zip(self.variants, models, strict=True):
            if settings.model == "hrnet" and settings.task != "semantic":
                raise ValueError(
                    f"variants.{name}: the task is {settings.task}, and hrnet gives a class for "
                    "each pixel alone; write model: mask2former or eomt, or task: semantic"
                )
        if self.evaluate.multi_scale is not None and all(m.task != "semantic" for m in models):
            raise ValueError(
                "evaluate.multi_scale averages the scores of classes, pixel by pixel, which arms "
                "with task semantic alone have (Mask2Former's authors test the others at one "
                "scale); remove it: no arm here has that task"
            )
        zooming = sorted({m.model for m in models if m.resize == "zoom"})
        if self.dataset.fit == "native" and self.dataset.name != "scenes" and zooming:
            raise ValueError(
                "dataset.fit is 'native', so samples differ in size, but "
                f"train_seg.common.resize is 'zoom' for {' and '.join(zooming)}; set it to "
                "short_side or scale_jitter"
            )

    @property
    def synthetic_stores(self) -> tuple[str, ...]:
        """Names of the folders below data/synthetic: methods, then mask recipes."""
        return (*SYNTHESIS_METHODS, *self.mask_recipe)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Names of the arms that `evaluate` scores; a list of words has no test images."""
        return () if self.dataset.name == WORDS else tuple(self.variants)

    def attention_settings(self, name: str) -> SeeDiffConfig | DiffuMaskConfig:
        """Return the settings of an attention method or of a mask recipe.

        Raises:
            ValueError: the recipe can't be used, or params.yaml has no section for its method.
        """
        recipe = self.mask_recipe.get(name)
        section = getattr(self, name if recipe is None else recipe.method)
        if section is None:
            raise ValueError("params.yaml has no section 'diffumask', which this method needs")
        return section if recipe is None else recipe.settings_for(section)

    def _check_recipes(self) -> None:
        for name in self.mask_recipe:
            if name in SYNTHESIS_METHODS:
                raise ValueError(
                    f"mask_recipe.{name} has the name of a method, whose folder it would fill; "
                    "choose another one"
                )
            try:
                self.attention_settings(name)
            except ValueError as error:
                raise ValueError(f"mask_recipe.{name}.{error}") from None

    def _check_transfers(self) -> None:
        for name, transfer in self.transfer.items():
            if transfer.arm not in self.variants or name in self.variants:
                raise ValueError(
                    f"transfer.{name}: its arm {transfer.arm!r} has to be among the variants, and "
                    f"{name!r} must not be, because both have their scores in data/reports/evaluate"
                )
            if self._settings_of(transfer.arm).task == "instance":
                raise ValueError(
                    f"transfer.{name}: its arm {transfer.arm} has the task instance and gives no "
                    "class to every pixel; name an arm with task semantic or panoptic"
                )

    def _settings_of(self, name: str) -> SegmenterConfig:
        """Return the settings that an arm is trained by; ValueError names the arm."""
        try:
            return self.train_seg.for_arm(self.variants[name])
        except ValueError as error:
            raise ValueError(f"variants.{name}.{error}") from None


def load_config(path: Path, *, overrides: Iterable[str] = ()) -> SegGenConfig:
    """Read and check params.yaml.

    Args:
        path: the file.
        overrides: values that replace those of the file: "text2mask.num_steps=100".

    Raises:
        ConfigError: says which keys are wrong, what they hold and what is expected; or as
            `params_file.read_params` and `overrides.apply_overrides`.
    """
    tree = read_params(path)
    apply_overrides(tree, overrides)
    config = check_config(tree, name=str(path))
    _check_files(config, base=path.parent, name=str(path))
    return config


def _check_files(config: SegGenConfig, *, base: Path, name: str) -> None:
    """Refuse FIFOs and devices: DVC and the stages would wait for ever while they read them.

    Raises:
        ConfigError: it names the key and the file.
    """
    diffumask = config.diffumask
    files = {
        "dataset.reads": config.dataset.reads,
        "captions.reads": config.captions.reads,
        "captions.edits": config.captions.edits,
        "foundation.reads": config.foundation.reads,
        "seediff.reads": config.seediff.reads,
        "diffumask.reads": None if diffumask is None else diffumask.reads,
        "train_seg.hrnet.backbone_source": config.train_seg.hrnet.backbone_source,
        "train_seg.mask2former.backbone_source": config.train_seg.mask2former.backbone_source,
        "train_seg.detectron2.backbone_source": config.train_seg.detectron2.backbone_source,
    } | {
        f"variants.{name}.overrides.backbone_source": arm.overrides.get("backbone_source")
        for name, arm in config.variants.items()
    }
    for key, file in files.items():
        path = None if file is None else base / file
        try:
            is_wrong = path is not None and path.exists() and not (path.is_file() or path.is_dir())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name}: {key} is {str(file)!r}: {error}; expected a path") from None
        if is_wrong:
            raise ConfigError(
                f"{name}: {key} is {str(file)!r}, which is neither a file nor a folder but a "
                "device, FIFO or socket; name a file or folder"
            )


def check_config(tree: Any, *, name: str) -> SegGenConfig:
    """Check parameters that were read already.

    Args:
        tree: what the YAML holds.
        name: where it is from, in messages.

    Raises:
        ConfigError: as `load_config`.
    """
    require_mapping(tree, name=name, keys="profile, classes, dataset, ...")
    if earlier := keys_of_version_0_1(tree):
        lines = [f"  {line}" for line in earlier]
        raise ConfigError(f"{name} has {len(lines)} invalid value(s):\n" + "\n".join(lines))
    if is_words(tree):
        tree = complete_words(tree, name=name)
    try:
        # As JSON, because values are strict there (text is no number), but a list is a tuple.
        return SegGenConfig.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        lines = [
            _describe(e["loc"], kind=e["type"], message=e["msg"], value=e["input"])
            for e in error.errors()
        ]
        raise ConfigError(
            f"{name} has {len(lines)} invalid value(s):\n" + "\n".join(lines)
        ) from None


def _describe(location: tuple[int | str, ...], *, kind: str, message: str, value: Any) -> str:
    """Return one line on an invalid value: its key, what is expected, and the value if short."""
    if not location:  # the message names the keys that contradict each other
        return f"  {plain_message(message)}"
    line = f"  {'.'.join(map(str, location))}: "
    if kind == "extra_forbidden":
        section: type[BaseModel] = SegGenConfig
        for part in location[:-1]:
            field = section.model_fields.get(str(part))
            if (
                field is not None
            ):  # else the name of one section among several, as in variants.baseline
                types = (field.annotation, *get_args(field.annotation))
                section = next(t for t in types if isinstance(t, type) and issubclass(t, Section))
        close = get_close_matches(str(location[-1]), section.model_fields, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        return line + f"unknown key; known here: {', '.join(section.model_fields)}{meant}"
    shown = f" (got {value!r})" if kind != "missing" and len(repr(value)) < 80 else ""
    return line + plain_message(message) + shown
