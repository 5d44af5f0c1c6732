"""Checks of a diffusers folder before and after it is loaded.

diffusers and transformers fill missing tensors with random numbers, cast integers to floats, and
raise whatever they meet in a damaged file. Here every part is compared with its own configuration,
and what is wrong is one FoundationError.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from seggen_core.errors import FoundationError
from seggen_core.project.weights import (
    check_finite,
    check_floats,
    check_loading,
    check_weights,
    read_headers,
    read_json_object,
    weight_files,
)

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model"
TRANSFORMERS_WEIGHTS = "model"
_MODELS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
_TEXT_ENCODERS = {
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}
_LIBRARIES = {"diffusers", "transformers", "stable_diffusion"}
_MAX_TIMESTEPS = 1 << 20


def cure_for(source: str | Path) -> str:
    """Return what to do about a damaged model, in words."""
    parts = Path(source).parts
    if "models" in parts[1:] and parts[parts.index("models") - 1] == "data":
        place = Path(*parts[parts.index("models") - 1 :])
        stage = parts[parts.index("models") + 1] if place.parts[2:] else "foundation"
        return f"run: dvc checkout {place}, or dvc repro -f -s {stage}"
    return "copy or download the folder again"


def check_index(folder: Path, *, classes: Mapping[str, str]) -> dict[str, Any]:
    """Read model_index.json.

    Args:
        folder: of the pipeline.
        classes: names of the pipelines that may be loaded.

    Raises:
        FoundationError: it is damaged, of another pipeline, or names classes of other libraries.
    """
    cure = cure_for(folder)
    index = read_json_object(folder / "model_index.json", cure=cure)
    name = index.get("_class_name")
    if name not in classes:
        raise FoundationError(
            f"{folder} is a {name}; foundations are one of: {', '.join(sorted(classes))}"
        )
    for part in (*_MODELS, "scheduler", "tokenizer", "text_encoder"):
        if part not in index:
            raise FoundationError(f"{folder / 'model_index.json'} names no {part}: {cure}")
    for part, value in index.items():
        is_part = isinstance(value, list) and len(value) == 2
        if part.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue
        if not is_part or value[0] not in _LIBRARIES or not isinstance(value[1], str):
            raise FoundationError(
                f"{folder / 'model_index.json'} has {part} {str(value)[:100]}; expected a class of "
                f"diffusers or transformers: {cure}"
            )
    return index


def check_links(folder: Path) -> None:
    """Refuse links out of a model's folder; those into DVC's cache and the hub's are fine.

    Raises:
        FoundationError: a link leads elsewhere, or nowhere.
    """
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if not path.is_symlink():
            continue
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise FoundationError(
                f"{path} is a link to nothing; expected a file: {cure_for(folder)}"
            ) from None
        parts = target.parts
        if not target.is_relative_to(inside) and not {"blobs", "md5"} & set(parts):
            raise FoundationError(
                f"{path} is a link out of {folder}; expected a file inside it: copy the file there"
            )


def check_parts(folder: Path, index: Mapping[str, Any]) -> None:
    """Compare the files of UNet and autoencoder with their configurations, and the sampler's.

    Raises:
        FoundationError: names the part, the tensors and what to do.
    """
    import diffusers

    cure = cure_for(folder)
    for part, expected in _MODELS.items():
        if index[part][1] != expected:
            raise FoundationError(f"{folder} has {index[part][1]} for {part}; expected {expected}")
        model_class = getattr(diffusers, expected)
        check_diffusers_model(folder / part, model_class, part=f"{part} of {folder}", cure=cure)
    scheduler = read_json_object(folder / "scheduler" / "scheduler_config.json", cure=cure)
    steps = scheduler.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= _MAX_TIMESTEPS:
        raise FoundationError(
            f"the scheduler of {folder} has num_train_timesteps {str(steps)[:60]}; expected 1 to "
            f"{_MAX_TIMESTEPS}: {cure}"
        )
    for key in ("beta_start", "beta_end"):
        value = scheduler.get(key, 0.0)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise FoundationError(
                f"the scheduler of {folder} has {key} {str(value)[:60]}; expected a number: {cure}"
            )


def check_diffusers_model(folder: Path, model_class: Any, *, part: str, cure: str) -> None:
    """Compare the weights of a diffusers model with what its config.json builds.

    Raises:
        FoundationError: names the part, the tensors and what to do.
    """
    config = read_json_object(folder / "config.json", cure=cure)
    if config.get("_class_name", model_class.__name__) != model_class.__name__:
        raise FoundationError(
            f"{folder / 'config.json'} is of a {str(config['_class_name'])[:60]}; expected "
            f"{model_class.__name__}: {cure}"
        )
    files = weight_files(folder, name=DIFFUSERS_WEIGHTS, part=part, cure=cure)
    stored: dict[str, Any] = dict(read_headers(files, part=part, cure=cure))
    try:
        with torch.device("meta"):
            model = model_class.from_config(config)
    # A configuration of the user's own: the library raises whatever it meets in it.
    except Exception as error:
        raise FoundationError(
            f"{folder / 'config.json'} builds no {model_class.__name__}: {_in_one_line(error)}: "
            f"{cure}"
        ) from error
    model._fix_state_dict_keys_on_load(stored)  # noqa: SLF001 (names of older files)
    check_weights(stored, model.state_dict(), part=part, cure=cure)


def load_text_encoders(folder: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """Load the text encoders, in float32, and compare them with their files.

    Raises:
        FoundationError: names the part, the tensors and what to do.
    """
    import transformers

    cure = cure_for(folder)
    loaded: dict[str, Any] = {}
    for part, expected in _TEXT_ENCODERS.items():
        if index.get(part) in (None, [None, None]):
            continue
        if index[part][1] != expected:
            raise FoundationError(f"{folder} has {index[part][1]} for {part}; expected {expected}")
        where = f"{part} of {folder}"
        read_json_object(folder / part / "config.json", cure=cure)
        files = weight_files(folder / part, name=TRANSFORMERS_WEIGHTS, part=where, cure=cure)
        check_floats(read_headers(files, part=where, cure=cure), part=where, cure=cure)
        try:
            loaded[part], loading = getattr(transformers, expected).from_pretrained(
                folder / part, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        # As above: the library raises whatever it meets in the files.
        except Exception as error:
            raise FoundationError(
                f"can't load the {where}: {_in_one_line(error)}: {cure}"
            ) from error
        check_loading(loading, part=where, cure=cure)
    return loaded


def check_fit(pipeline: Any, *, source: str | Path) -> None:
    """Raise FoundationError where the parts of a loaded pipeline don't fit each other."""
    unet, vae = pipeline.unet.config, pipeline.vae.config
    widths = [
        part.config.hidden_size
        for part in (pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None))
        if part is not None
    ]
    tokens, embeddings = len(pipeline.tokenizer), pipeline.text_encoder.config.vocab_size
    scale = vae.scaling_factor
    problems = {
        f"the UNet takes {unet.in_channels} channels and the autoencoder makes "
        f"{vae.latent_channels}": unet.in_channels != vae.latent_channels,
        f"the UNet takes text embeddings of width {unet.cross_attention_dim}, the text encoders "
        f"make {' + '.join(map(str, widths))}": unet.cross_attention_dim != sum(widths),
        f"the tokenizer has {tokens} tokens and the text encoder {embeddings}": tokens > embeddings,
        f"the autoencoder's scaling_factor is {scale!r}": not isinstance(scale, int | float)
        or not math.isfinite(scale)
        or scale <= 0,
    }
    faults = [problem for problem, is_there in problems.items() if is_there]
    if faults:
        raise FoundationError(
            f"the parts of {source} don't fit each other: {'; '.join(faults)}: {cure_for(source)}"
        )


def check_finite_parts(pipeline: Any, *, source: str | Path) -> None:
    """Raise FoundationError where a weight of a loaded pipeline is infinite or NaN."""
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            check_finite(part, part=f"{name} of {source}", cure=cure_for(source))


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def read_tokenizer(folder: Path) -> "CLIPTokenizer":
    """Return a pipeline's tokenizer alone, so that prompts are checked before weights are loaded.

    Raises:
        FoundationError: it can't be read.
    """
    from transformers import CLIPTokenizer

    place = folder / "tokenizer"
    try:
        return CLIPTokenizer.from_pretrained(place)
    # The user's files: the library raises whatever it meets in them, also a bare Exception.
    except Exception as error:
        raise FoundationError(
            f"can't read the tokenizer {place}: {error}: {cure_for(folder)}"
        ) from error


def read_scale_factor(folder: Path) -> int:
    """Return image pixels per latent along a side, from the configuration of the autoencoder.

    Raises:
        FoundationError: it doesn't say.
    """
    cure = cure_for(folder)
    blocks = read_json_object(folder / "vae" / "config.json", cure=cure).get("block_out_channels")
    if not isinstance(blocks, list) or not blocks:
        raise FoundationError(
            f"the configuration of the autoencoder of {folder} lists no block_out_channels: {cure}"
        )
    return 2 ** (len(blocks) - 1)
