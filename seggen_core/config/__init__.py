"""params.yaml as frozen, strict pydantic models: one section for each stage.

Each default is in one place. A function gets the section that it needs, never the whole tree.
"""

from seggen_core.config.attention import (
    AffinityNetConfig,
    AttentionMethodConfig,
    DiffuMaskConfig,
    NoiseLearningConfig,
    SeeDiffConfig,
)
from seggen_core.config.base import SLUG, Positive, Precision, Probability, Section, Slug
from seggen_core.config.checks import ChecksConfig
from seggen_core.config.data import (
    CaptionsConfig,
    ColorMapKind,
    DatasetConfig,
    RuntimeConfig,
    Split,
    SplitFiles,
)
from seggen_core.config.generation import (
    DiffusionTrainingConfig,
    FoundationConfig,
    PretrainConfig,
    RandomCrops,
    SamplingConfig,
    SegGenSynthesisConfig,
    Text2MaskConfig,
)
from seggen_core.config.load import SegGenConfig, load_config
from seggen_core.config.mask_recipe import MaskRecipeConfig
from seggen_core.config.recipe import MultiScaleConfig, PostprocessConfig, RecipeConfig, Task
from seggen_core.config.segmentation import (
    SYNTHESIS_METHODS,
    AblationConfig,
    EvaluateConfig,
    JudgeConfig,
    MemorizationConfig,
    ModelName,
    NoiseFilterConfig,
    SyntheticAugmentConfig,
    VariantConfig,
    ZeroShotConfig,
)
from seggen_core.config.segmenter import (
    HRNetConfig,
    Mask2FormerConfig,
    SegmenterConfig,
    TrainSegConfig,
)
from seggen_core.config.suite import SuiteConfig, SuiteFile, SuiteRow, merge_params, read_suite
from seggen_core.config.transfer import TransferConfig

__all__ = [
    "SLUG",
    "SYNTHESIS_METHODS",
    "AblationConfig",
    "AffinityNetConfig",
    "AttentionMethodConfig",
    "CaptionsConfig",
    "ChecksConfig",
    "ColorMapKind",
    "DatasetConfig",
    "DiffuMaskConfig",
    "DiffusionTrainingConfig",
    "EvaluateConfig",
    "FoundationConfig",
    "HRNetConfig",
    "JudgeConfig",
    "Mask2FormerConfig",
    "MaskRecipeConfig",
    "MemorizationConfig",
    "ModelName",
    "MultiScaleConfig",
    "NoiseFilterConfig",
    "NoiseLearningConfig",
    "Positive",
    "PostprocessConfig",
    "Precision",
    "PretrainConfig",
    "Probability",
    "RandomCrops",
    "RecipeConfig",
    "RuntimeConfig",
    "SamplingConfig",
    "Section",
    "SeeDiffConfig",
    "SegGenConfig",
    "SegGenSynthesisConfig",
    "SegmenterConfig",
    "Slug",
    "Split",
    "SplitFiles",
    "SuiteConfig",
    "SuiteFile",
    "SuiteRow",
    "SyntheticAugmentConfig",
    "Task",
    "Text2MaskConfig",
    "TrainSegConfig",
    "TransferConfig",
    "VariantConfig",
    "ZeroShotConfig",
    "load_config",
    "merge_params",
    "read_suite",
]
