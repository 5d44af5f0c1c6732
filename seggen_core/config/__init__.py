"""params.yaml as frozen, strict pydantic models: one section a stage, each default in one place.

A stage is handed its own section (and `SegGenConfig.seed`), never the tree.
"""

from seggen_core.config.attention import SeeDiffConfig
from seggen_core.config.base import Positive, Precision, Probability, Section
from seggen_core.config.data import CaptionsConfig, ColorMapKind, DatasetConfig, RuntimeConfig
from seggen_core.config.generation import (
    DiffusionTrainingConfig,
    FoundationConfig,
    PretrainConfig,
    SamplingConfig,
    SegGenSynthesisConfig,
)
from seggen_core.config.load import SegGenConfig, load_config
from seggen_core.config.segmentation import (
    SYNTHESIS_METHODS,
    AblationConfig,
    EvaluateConfig,
    JudgeConfig,
    SegmenterConfig,
    VariantConfig,
)

__all__ = [
    "SYNTHESIS_METHODS",
    "AblationConfig",
    "CaptionsConfig",
    "ColorMapKind",
    "DatasetConfig",
    "DiffusionTrainingConfig",
    "EvaluateConfig",
    "FoundationConfig",
    "JudgeConfig",
    "Positive",
    "Precision",
    "PretrainConfig",
    "Probability",
    "RuntimeConfig",
    "SamplingConfig",
    "Section",
    "SeeDiffConfig",
    "SegGenConfig",
    "SegGenSynthesisConfig",
    "SegmenterConfig",
    "VariantConfig",
    "load_config",
]
