"""Loading of a foundation: a diffusers text-to-image pipeline of the Stable Diffusion family.

That is SD 1.x, SD 2.x, SDXL, and the embedded foundation.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import torch

from seggen_core.config import FoundationConfig
from seggen_core.errors import FoundationError
from seggen_core.generators.pipeline_folder import (
    check_diffusers_model,
    check_finite_parts,
    check_fit,
    check_index,
    check_links,
    check_parts,
    cure_for,
    load_text_encoders,
)

_CONTROLNET_PIPELINES = {
    "StableDiffusionPipeline": "StableDiffusionControlNetPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLControlNetPipeline",
}
_COMMIT = re.compile(r"[0-9a-f]{40}")


def load_pipeline(source: str | Path, *, revision: str | None = None) -> Any:
    """Load a text-to-image pipeline from a folder, or from a hub repository at a commit.

    It is in float32, on the CPU, and its weights require no gradient. Only safetensors are read,
    and no code of the repository is run.

    Raises:
        FoundationError: no such folder; a hub repository without a full commit hash; no
            text-to-image pipeline; or a part is damaged, lacks tensors or doesn't fit.
    """
    # Not AutoPipelineForText2Image: it imports every pipeline that diffusers has, some 10 s of CPU.
    from diffusers import DiffusionPipeline

    folder = fetch_pipeline(source, revision=revision)
    try:
        index = check_index(folder, classes=_CONTROLNET_PIPELINES)
        check_links(folder)
        check_parts(folder, index)
        pipeline: Any = DiffusionPipeline.from_pretrained(
            str(folder),
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            **load_text_encoders(folder, index),
        )
    except FoundationError:
        raise
    # The user's files: the libraries raise whatever they meet in them, the tokenizer's a bare
    # Exception.
    except Exception as error:
        raise FoundationError(
            f"can't load a text-to-image pipeline from {source}: {error}: {cure_for(source)}"
        ) from error
    check_fit(pipeline, source=source)
    if getattr(pipeline.vae.config, "latents_mean", None) is not None:
        raise FoundationError(
            f"the autoencoder of {source} shifts its latents (latents_mean); expected one that "
            "only scales them"
        )
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    forget_origin(pipeline)
    return pipeline


def fetch_pipeline(source: str | Path, *, revision: str | None = None) -> Path:
    """Return the folder of a pipeline; one of the hub is downloaded if it isn't on this machine.

    Raises:
        FoundationError: no such folder, a hub repository without a full commit hash, or one that
            can't be downloaded.
    """
    _check_source(str(source), revision=revision)
    if Path(source).is_dir():
        return Path(source)
    from diffusers import DiffusionPipeline

    try:
        return Path(
            DiffusionPipeline.download(
                str(source), revision=revision, use_safetensors=True, trust_remote_code=False
            )
        )
    # The library raises whatever it meets in the repository and on the way to it.
    except Exception as error:
        raise FoundationError(
            f"can't load a text-to-image pipeline from {source} at {revision}: {error}"
        ) from error


def _check_source(source: str, *, revision: str | None) -> None:
    """Raise FoundationError where a pipeline is neither a folder nor pinned by commit."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise FoundationError(f"{folder} is no diffusers pipeline: it has no model_index.json")
    elif folder.is_absolute() or source.startswith("."):
        raise FoundationError(
            f"there is no folder {folder}; give a diffusers pipeline folder, or a hub repository "
            "and its revision"
        )
    elif revision is None or not _COMMIT.fullmatch(revision):
        raise FoundationError(
            f"{source} is neither a folder here nor a hub repository pinned by commit (revision: "
            f"{revision!r}); name the 40-digit commit to load, as foundation.revision in "
            "params.yaml or as --revision"
        )


def copy_pipeline(config: FoundationConfig, *, base: Path, folder: Path) -> None:
    """Load the pipeline that `config.source` names and save it in `folder`.

    A relative local source starts from `base`.

    Raises:
        FoundationError: as `load_pipeline`.
    """
    assert config.source is not None
    local = base / config.source
    pipeline = load_pipeline(local if local.is_dir() else config.source, revision=config.revision)
    # Once, where the model comes in: reading all weights again in every stage would take time.
    check_finite_parts(pipeline, source=config.source)
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder, safe_serialization=True)


def forget_origin(pipeline: Any) -> None:
    """Take the folders that the parts were loaded from out of their configurations.

    Saved again, the configurations would differ by machine.
    """
    from diffusers import ConfigMixin

    for part in (pipeline, *pipeline.components.values()):
        if isinstance(part, ConfigMixin) and "_name_or_path" in part.config:
            part.register_to_config(_name_or_path="")


def vae_scale_factor(pipeline: Any) -> int:
    """Return image pixels per latent along a side: 8 for SD and SDXL, 2 for the embedded one."""
    return 2 ** (len(pipeline.vae.config.block_out_channels) - 1)


def pipeline_sizes(pipeline: Any) -> dict[str, float]:
    """Return how large a pipeline is: parameters of UNet and VAE, and `vae_scale_factor`."""
    return {
        "unet_parameters": float(sum(p.numel() for p in pipeline.unet.parameters())),
        "vae_parameters": float(sum(p.numel() for p in pipeline.vae.parameters())),
        "vae_scale_factor": float(vae_scale_factor(pipeline)),
    }


@torch.no_grad()
def encode_prompts(
    pipeline: Any, prompts: list[str], *, image_size: int
) -> dict[str, torch.Tensor]:
    """Encode `prompts` as the pipeline's UNet wants them.

    Returns:
        "encoder_hidden_states" [B, T, D] and, for SDXL, "text_embeds" [B, P] and "time_ids" [B, 6]
        (original size, crop offset and target size, all of an uncropped square image).
    """
    device = pipeline.unet.device
    encoded = pipeline.encode_prompt(
        prompt=prompts, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return _conditioning(*encoded[::2], image_size=image_size)


@torch.no_grad()
def encode_no_prompt(pipeline: Any, *, image_size: int) -> dict[str, torch.Tensor]:
    """Encode what classifier-free guidance contrasts a prompt with, as one row.

    The result is as of `encode_prompts`. For SD it is the empty prompt; SDXL-base, with
    `force_zeros_for_empty_prompt`, takes zeros.
    """
    device = pipeline.unet.device
    encoded = pipeline.encode_prompt(
        prompt=[""], device=device, num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    return _conditioning(*encoded[1::2], image_size=image_size)


def _conditioning(
    hidden_states: torch.Tensor, text_embeds: torch.Tensor | None = None, *, image_size: int
) -> dict[str, torch.Tensor]:
    conditioning = {"encoder_hidden_states": hidden_states}
    if text_embeds is not None:
        sizes = hidden_states.new_tensor([image_size, image_size, 0, 0, image_size, image_size])
        conditioning |= {
            "text_embeds": text_embeds,
            "time_ids": sizes.expand(len(hidden_states), -1),
        }
    return conditioning


def unet_arguments(conditioning: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Turn a batch of `encode_prompts` into keyword arguments of a UNet or ControlNet call."""
    arguments: dict[str, Any] = {"encoder_hidden_states": conditioning["encoder_hidden_states"]}
    if "text_embeds" in conditioning:
        arguments["added_cond_kwargs"] = {k: conditioning[k] for k in ("text_embeds", "time_ids")}
    return arguments


def controlnet_pipeline_name(pipeline: Any) -> str:
    """Return the name of diffusers' class for a text-to-image pipeline with a ControlNet."""
    return _CONTROLNET_PIPELINES[type(pipeline).__name__]


def load_mask2img(foundation: Path, controlnet: Path) -> Any:
    """Load the ControlNet pipeline of a foundation folder and a ControlNet folder, in float32.

    Raises:
        FoundationError: either can't be loaded.
    """
    import diffusers
    from diffusers import ControlNetModel

    cure = cure_for(controlnet)
    part = f"the ControlNet in {controlnet}"
    check_diffusers_model(controlnet, ControlNetModel, part=part, cure=cure)
    side_network = ControlNetModel.from_pretrained(controlnet, use_safetensors=True)
    side_network.requires_grad_(False)
    base = load_pipeline(foundation)
    pipeline = getattr(diffusers, controlnet_pipeline_name(base)).from_pipe(
        base, controlnet=side_network
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
