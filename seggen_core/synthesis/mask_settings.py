"""Settings of `seggen mask`: the paper's, those of the shipped foundation, and the user's changes.

The shipped foundation has the settings of its profile. Any other pipeline has SeeDiff's of the
paper, at its own image size.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from seggen_core.config import DiffuMaskConfig, SamplingConfig, SeeDiffConfig, SegGenConfig
from seggen_core.errors import ConfigError
from seggen_core.synthesis.kept_attention import KeptAttention

METHODS = ("seediff", "dataset-diffusion", "cross-attention", "diffumask")
_STRATEGIES = {"seediff": "seediff", "dataset-diffusion": "ca_sa", "cross-attention": "ca"}
_PREFERRED_SIDE = 16
"""Side of the cross-attention map of SeeDiff's paper (Table 4)."""

_UNKNOWN = "there is no such key"

Settings = TypeVar("Settings", SeeDiffConfig, DiffuMaskConfig)


@dataclass(frozen=True)
class MaskDefaults:
    """What holds where the user says nothing.

    Attributes:
        image_size: side of the images in pixels.
        sampling: the sampler.
        seediff: settings of SeeDiff and the strategies of its section.
        diffumask: settings of DiffuMask.
    """

    image_size: int
    sampling: SamplingConfig
    seediff: Mapping[str, Any]
    diffumask: Mapping[str, Any]


def defaults_of_profile(config: SegGenConfig) -> MaskDefaults:
    """Return the settings of the profile that a foundation comes with."""
    seediff, diffumask = config.seediff, config.diffumask
    assert diffumask is not None
    return MaskDefaults(
        image_size=config.dataset.image_size,
        sampling=seediff.sampling,
        seediff=seediff.model_dump(mode="json", exclude_unset=True),
        diffumask=diffumask.model_dump(mode="json", exclude_unset=True) | {"noise_learning": None},
    )


def defaults_of_pipeline(image_size: int) -> MaskDefaults:
    """Return the papers' settings, for a pipeline that makes images of this size."""
    sampling = SamplingConfig(
        scheduler="DPMSolverMultistepScheduler", num_inference_steps=25, guidance_scale=7.5
    )
    return MaskDefaults(image_size, sampling, seediff={}, diffumask={"noise_learning": None})


def method_settings(
    method: str,
    defaults: MaskDefaults,
    changes: Mapping[str, Any],
    *,
    attentions: Sequence[KeptAttention],
) -> SeeDiffConfig | DiffuMaskConfig:
    """Return the settings of a method with the user's changes.

    Where nobody says at which resolution SeeDiff's seeds are, they are at 16x16, else at the
    coarsest finer one that the network has (SDXL: 32x32), else at its finest.

    Args:
        method: one of METHODS.
        defaults: of the pipeline.
        changes: keys of the method's section.
        attentions: images with their attention; without any, the resolution isn't chosen.

    Raises:
        ConfigError: a key is unknown, or a value means nothing to the method.
    """
    if method == "diffumask":
        return _check(DiffuMaskConfig, {**defaults.diffumask, **changes})
    values = {**defaults.seediff, "strategy": _STRATEGIES[method]}
    if method == "dataset-diffusion":
        values |= {"beta": 0.6, "uncertainty_threshold": 0.5}  # of its paper
        if "beta" in changes and "uncertainty_threshold" not in changes:
            values["uncertainty_threshold"] = None
    settings = _check(SeeDiffConfig, values | dict(changes))
    if "cross_attention_resolution" in settings.model_fields_set or not attentions:
        return settings
    sides = sorted({m.shape[-1] for one in attentions for m in one.layers(None).values()})
    side = next((s for s in sides if s >= _PREFERRED_SIDE), sides[-1])
    return settings.model_copy(update={"cross_attention_resolution": side})


def _message(fault: Mapping[str, Any]) -> str:
    return f"{fault['msg'].removeprefix('Value error, ')} (got {str(fault['input'])[:80]})"


def _check(section: type[Settings], values: Mapping[str, Any]) -> Settings:
    try:
        # As JSON, because values are strict there, but a list is a tuple.
        return section.model_validate_json(
            json.dumps({"samples_per_class": 1, **values}), strict=True
        )
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, fault['loc'])) or 'settings'}: "
            f"{_UNKNOWN if fault['type'] == 'extra_forbidden' else _message(fault)}"
            for fault in error.errors()
        ]
        raise ConfigError(
            "these settings of the masks can't be used:\n"
            + "\n".join(lines)
            + f"\n--set takes the keys of {section.__name__} in seggen_core/config/attention.py"
        ) from None
