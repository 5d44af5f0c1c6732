"""The model of `seggen mask`: a folder, a repository of the Hub, or the shipped foundation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from seggen_core.config import SamplingConfig
from seggen_core.config.load import load_config
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.generators.foundation import fetch_pipeline
from seggen_core.generators.pipeline_folder import cure_for, read_scale_factor, read_tokenizer
from seggen_core.project.digests import content_digest
from seggen_core.project.shipped import shipped
from seggen_core.project.weights import read_json_object
from seggen_core.synthesis.mask_settings import (
    MaskDefaults,
    defaults_of_pipeline,
    defaults_of_profile,
)

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_PROFILE = Path("profiles", "scenes")
"""The profile of the shipped foundation."""
_MAX_SIDE = 1 << 12
_PIPELINE_STEP = 8
"""Pipelines of diffusers make multiples of this."""


@dataclass(frozen=True)
class MaskModel:
    """A pipeline that isn't loaded yet.

    Attributes:
        folder: on this machine.
        identity: digest of its files, or its commit.
        scale: image pixels per latent, along a side.
        defaults: settings that fit it.
    """

    folder: Path
    identity: str
    scale: int
    defaults: MaskDefaults

    def read_tokenizer(self) -> "CLIPTokenizer":
        """Return the tokenizer alone, so that prompts are checked before weights are loaded.

        Raises:
            FoundationError: it can't be read.
        """
        return read_tokenizer(self.folder)


def open_model(source: str | None, *, revision: str | None, root: Path) -> MaskModel:
    """Return the model that a user names; a repository is downloaded if it isn't here yet.

    Args:
        source: folder or repository; None is the shipped foundation.
        revision: commit of a repository.
        root: the folder with `profiles`; without one, what ships with seggen.

    Raises:
        FoundationError: there is no such pipeline, or it can't be used.
    """
    profile = _shipped_profile(root)
    folder = profile / "foundation" if source is None else fetch_pipeline(source, revision=revision)
    if not (folder / "model_index.json").is_file():
        raise FoundationError(
            f"there is no foundation in {folder}; name a pipeline's folder or repository: --model"
        )
    cure = cure_for(folder)
    scale = read_scale_factor(folder)
    sample = read_json_object(folder / "unet" / "config.json", cure=cure).get("sample_size")
    if not isinstance(sample, int) or sample < 1:
        raise FoundationError(
            f"the configurations of {folder} don't say how large its images are (sample_size of "
            f"the UNet: {str(sample)[:40]}): {cure}"
        )
    if folder.resolve() == (profile / "foundation").resolve():
        defaults = defaults_of_profile(load_config(profile / "params.yaml"))
    else:
        defaults = defaults_of_pipeline(sample * scale)
    is_local = source is None or Path(source).is_dir()
    identity = content_digest(folder) if is_local or revision is None else revision
    return MaskModel(folder, identity, scale, defaults)


def change_sampling(default: SamplingConfig, changes: Mapping[str, Any]) -> SamplingConfig:
    """Return a sampler with the user's changes; None leaves a value as it is.

    Raises:
        ConfigError: a value can't be used.
    """
    values = {key: value for key, value in changes.items() if value is not None}
    try:
        return SamplingConfig.model_validate(default.model_dump() | values)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(
            f"{'.'.join(map(str, fault['loc']))} of the sampler is {fault['input']!r}: "
            f"{fault['msg']}"
        ) from None


def check_image_size(size: int, model: MaskModel) -> int:
    """Return `size`; ConfigError where the pipeline makes no such images."""
    step = max(model.scale, _PIPELINE_STEP)
    if not 0 < size <= _MAX_SIDE or size % step:
        raise ConfigError(
            f"--size is {size}; expected a multiple of {step} up to {_MAX_SIDE}, at best the "
            f"model's own size, {model.defaults.image_size}"
        )
    return size


def _shipped_profile(root: Path) -> Path:
    here = root / _PROFILE
    return here if here.is_dir() else shipped(_PROFILE.as_posix())
