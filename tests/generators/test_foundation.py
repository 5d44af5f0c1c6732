import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from seggen_core.config import SegGenConfig
from seggen_core.errors import FoundationError
from seggen_core.generators.foundation import (
    encode_no_prompt,
    encode_prompts,
    load_mask2img,
    load_pipeline,
    unet_arguments,
    vae_scale_factor,
)
from seggen_core.generators.mask2img import build_controlnet
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages import foundation as stage
from seggen_core.taxonomy import Taxonomy
from tests.attention.tiny_pipeline import build_pipeline
from tests.generators.tiny_sdxl import build_sdxl
from tests.minimal_config import minimal_config


@pytest.fixture
def copy(tiny_foundation_folder: Path, tmp_path: Path) -> Path:
    """A foundation folder to damage."""
    return Path(shutil.copytree(tiny_foundation_folder, tmp_path / "foundation"))


@pytest.fixture(scope="module")
def sdxl() -> Any:
    return build_sdxl()


def parameters(pipeline: Any) -> dict[str, torch.Tensor]:
    parts = {
        name: part
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    return {
        f"{name}.{key}": value
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }


def test_a_folder_is_loaded_in_float32_and_locked(tiny_foundation_folder: Path) -> None:
    pipeline, built = load_pipeline(tiny_foundation_folder), parameters(build_pipeline())
    loaded = parameters(pipeline)
    assert loaded.keys() == built.keys() and all(torch.equal(loaded[k], built[k]) for k in built)
    assert all(v.dtype == torch.float32 for v in loaded.values() if v.is_floating_point())
    assert not any(
        p.requires_grad
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)
        for p in part.parameters()
    )
    assert vae_scale_factor(pipeline) == 2


def test_sdxl_is_loaded_with_both_text_encoders_locked(sdxl: Any, tmp_path: Path) -> None:
    sdxl.save_pretrained(tmp_path / "sdxl")
    pipeline = load_pipeline(tmp_path / "sdxl")
    assert isinstance(pipeline, StableDiffusionXLPipeline) and vae_scale_factor(pipeline) == 4
    assert not any(p.requires_grad for p in pipeline.text_encoder_2.parameters())


def test_saved_again_it_does_not_say_where_it_came_from(
    tiny_foundation_folder: Path, tmp_path: Path
) -> None:
    load_pipeline(tiny_foundation_folder).save_pretrained(tmp_path)
    for path in tmp_path.rglob("*.json"):
        assert str(tiny_foundation_folder) not in path.read_text()
    assert (
        "_name_or_path" in (tmp_path / "unet" / "config.json").read_text()
    )  # where diffusers would write it


def test_a_hub_repository_needs_a_full_commit() -> None:
    for revision in (None, "main", "a" * 39, "A" * 40):
        with pytest.raises(
            FoundationError,
            match=r"stabilityai/sdxl is neither a folder here nor .* name the 40-digit commit",
        ) as e:
            load_pipeline("stabilityai/sdxl", revision=revision)
        assert repr(revision) in str(e.value)


def test_a_hub_that_does_not_answer_is_a_user_error() -> None:
    with pytest.raises(
        FoundationError, match="can't load a text-to-image pipeline from nobody/nothing"
    ):
        load_pipeline("nobody/nothing", revision="0" * 40)


@pytest.mark.parametrize("source", ["/no/such/folder", "./no/such/folder"])
def test_a_missing_folder(source: str) -> None:
    with pytest.raises(FoundationError, match=r"there is no folder .*no/such/folder"):
        load_pipeline(source)


def test_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(FoundationError, match="is no diffusers pipeline: it has no model_index"):
        load_pipeline(tmp_path)


def test_pickles_are_never_read(copy: Path) -> None:
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_pipeline(copy).unet.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(FoundationError, match="pickles are never read"):
        load_pipeline(copy)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_damaged_weights_are_a_user_error(copy: Path, part: str) -> None:
    weights = copy / f"{part}.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(FoundationError, match="is no whole safetensors file"):
        load_pipeline(copy)


@pytest.mark.parametrize(
    "part, key", [("unet", "cross_attention_dim"), ("text_encoder", "hidden_size")]
)
def test_weights_that_do_not_fit_are_a_user_error(copy: Path, part: str, key: str) -> None:
    config = copy / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: 24}))
    with pytest.raises(FoundationError, match=f"{part} of .*(another shape|mismatch)"):
        load_pipeline(copy)


def change_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
CHANGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "a tensor less": (lambda t: t.pop(max(t)), "lack 1 "),
    "a tensor more": (lambda t: t.update(more=torch.zeros(2)), "hold 1 tensors? that"),
    "another shape": (lambda t: t.update({max(t): torch.zeros(3, 3)}), "another shape|mismatch"),
    "int8": (lambda t: t.update({k: v.to(torch.int8) for k, v in t.items()}), "of another type"),
}


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("change, words", CHANGES.values(), ids=CHANGES)
def test_no_part_of_a_model_is_filled_in_or_cast(
    copy: Path, part: str, change: Callable[[dict[str, torch.Tensor]], object], words: str
) -> None:
    change_weights(copy / WEIGHTS[part], change)
    with pytest.raises(FoundationError, match=f"{part} of .*({words}).*copy or download") as caught:
        load_pipeline(copy)
    assert "\n" not in str(caught.value)


def test_a_source_with_nan_is_refused_where_it_comes_in(paths: ProjectPaths) -> None:
    weights = paths.root / "source" / WEIGHTS["vae"]
    change_weights(weights, lambda t: t[min(t)].fill_(torch.nan))
    with pytest.raises(FoundationError, match="infinities or NaN in 1 tensors"):
        stage.run(make_config(), paths=paths, item=None)


def test_a_missing_shard(copy: Path) -> None:
    weights = copy / WEIGHTS["unet"]
    names = sorted(load_file(weights))
    placed = {name: f"a-{i % 2}.safetensors" for i, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": placed}
    (copy / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    tensors = load_file(weights)
    save_file({n: tensors[n] for n in names[::2]}, copy / "unet" / "a-0.safetensors")
    weights.unlink()
    with pytest.raises(FoundationError, match=r"lacks 1 of 2 files of weights, a-1\.safetensors"):
        load_pipeline(copy)
    save_file({n: tensors[n] for n in names[1::2]}, copy / "unet" / "a-1.safetensors")
    assert torch.equal(parameters(load_pipeline(copy))[f"unet.{names[0]}"], tensors[names[0]])


def test_names_of_older_autoencoders_are_known(copy: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if ".to_q." in n]:
            tensors[name.replace(".to_q.", ".query.")] = tensors.pop(name)

    before = parameters(load_pipeline(copy))
    change_weights(copy / WEIGHTS["vae"], rename)
    after = parameters(load_pipeline(copy))
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("file", ["tokenizer/tokenizer.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 5000, "\0"])
def test_damaged_small_files(copy: Path, file: str, content: str) -> None:
    (copy / file).write_text(content)
    with pytest.raises(FoundationError) as caught:
        load_pipeline(copy)
    assert str(copy) in str(caught.value) and "copy or download" in str(caught.value)


def test_links_out_of_the_folder_and_code_of_the_repository(copy: Path, tmp_path: Path) -> None:
    config = copy / "unet" / "config.json"
    text = config.read_text()
    config.write_text(json.dumps(json.loads(text) | {"auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(FoundationError, match="auto_map, which names code"):
        load_pipeline(copy)
    config.unlink()
    (tmp_path / "elsewhere.json").write_text(text)
    config.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(FoundationError, match="link out of"):
        load_pipeline(copy)


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "StableDiffusionImg2ImgPipeline",
            "is a StableDiffusionImg2ImgPipeline; foundations are one of: StableDiffusionPipeline",
        ),
        ("DDPMPipeline", "is a DDPMPipeline; foundations are"),
        ("NoSuchPipeline", "is a NoSuchPipeline; foundations are"),
    ],
)
def test_another_kind_of_pipeline(copy: Path, name: str, words: str) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    with pytest.raises(FoundationError, match=words):
        load_pipeline(copy)


def test_an_autoencoder_with_shifted_latents_is_refused(copy: Path) -> None:
    config = json.loads((copy / "vae" / "config.json").read_text())
    (copy / "vae" / "config.json").write_text(
        json.dumps(config | {"latents_mean": [0.1] * 4, "latents_std": [1.0] * 4})
    )
    with pytest.raises(FoundationError, match="shifts its latents"):
        load_pipeline(copy)


def test_prompts_are_encoded_as_the_unet_wants_them(tiny_pipeline: Any) -> None:
    conditioning = encode_prompts(tiny_pipeline, ["car", "a photo of a bus"], image_size=32)
    assert conditioning.keys() == {"encoder_hidden_states"}
    assert conditioning["encoder_hidden_states"].shape == (2, 16, 16)
    assert unet_arguments(conditioning).keys() == {"encoder_hidden_states"}
    empty = encode_prompts(tiny_pipeline, [""], image_size=32)["encoder_hidden_states"]
    assert torch.equal(
        encode_no_prompt(tiny_pipeline, image_size=32)["encoder_hidden_states"], empty
    )


def test_sdxl_prompts_come_with_pooled_embeddings_and_sizes(sdxl: Any) -> None:
    conditioning = encode_prompts(sdxl, ["car", "a photo of a bus"], image_size=32)
    assert conditioning["encoder_hidden_states"].shape == (2, 16, 32) and conditioning[
        "text_embeds"
    ].shape == (2, 24)
    assert conditioning["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]] * 2
    arguments = unet_arguments(conditioning)
    assert arguments["added_cond_kwargs"].keys() == {"text_embeds", "time_ids"}
    assert sdxl.unet(torch.randn(2, 4, 8, 8), 5, **arguments).sample.shape == (2, 4, 8, 8)


@pytest.mark.parametrize("zeros", [True, False])
def test_no_prompt_is_what_guidance_contrasts_with(sdxl: Any, zeros: bool) -> None:
    sdxl.register_to_config(force_zeros_for_empty_prompt=zeros)
    nothing = encode_no_prompt(sdxl, image_size=32)
    empty = encode_prompts(sdxl, [""], image_size=32)
    assert nothing.keys() == empty.keys() and torch.equal(nothing["time_ids"], empty["time_ids"])
    for key in ("encoder_hidden_states", "text_embeds"):
        assert torch.equal(nothing[key], torch.zeros_like(empty[key]) if zeros else empty[key])
    sdxl.register_to_config(force_zeros_for_empty_prompt=True)


def test_mask2img_joins_a_foundation_and_a_controlnet(
    tiny_foundation_folder: Path, tmp_path: Path
) -> None:
    controlnet = build_controlnet(load_pipeline(tiny_foundation_folder))
    controlnet.save_pretrained(tmp_path)
    pipeline = load_mask2img(tiny_foundation_folder, tmp_path)
    assert type(pipeline).__name__ == "StableDiffusionControlNetPipeline"
    loaded = pipeline.controlnet.state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in controlnet.state_dict().items())
    assert not any(p.requires_grad for p in pipeline.controlnet.parameters())


def test_a_missing_controlnet_says_what_to_run(
    tiny_foundation_folder: Path, tmp_path: Path
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FoundationError, match=r"there is no file .*config\.json; expected"):
            load_mask2img(tiny_foundation_folder, folder)


def make_config(**changes: Any) -> SegGenConfig:
    sections: dict[str, Any] = {
        "runtime": {"device": "cpu", "tracking_uri": "disk"},
        "foundation": {"source": "source", "preview": {"num_inference_steps": 2}},
    }
    return minimal_config({"name": "scenes", "image_size": 32}, **sections | changes)


@pytest.fixture
def paths(tiny_foundation_folder: Path, tmp_path: Path) -> ProjectPaths:
    """A project whose foundation lies in `source`."""
    paths = ProjectPaths(tmp_path)
    paths.taxonomy.parent.mkdir(parents=True)
    paths.taxonomy.write_text(
        json.dumps(Taxonomy.from_names(stuff=["sky"], things=["car", "airplane"]).to_json())
    )
    shutil.copytree(tiny_foundation_folder, tmp_path / "source")
    return paths


def test_the_stage_copies_the_source_and_shows_what_it_draws(paths: ProjectPaths) -> None:
    stage.run(make_config(), paths=paths, item=None)
    out = paths.model("foundation")
    copied, wanted = parameters(load_pipeline(out)), parameters(build_pipeline())
    assert all(torch.equal(copied[k], wanted[k]) for k in wanted)
    with Image.open(paths.preview("foundation")) as picture:
        assert picture.width > 3 * 128 and np.asarray(picture).std() > 0
    assert {p.name for p in out.iterdir()} == {p.name for p in (paths.root / "source").iterdir()}
    assert not list((paths.scratch / "foundation").glob("*"))
    assert not [p for p in out.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]


def test_a_source_that_is_not_there(paths: ProjectPaths) -> None:
    with pytest.raises(
        FoundationError, match="elsewhere is neither a folder here nor a hub repository"
    ):
        stage.run(make_config(foundation={"source": "elsewhere"}), paths=paths, item=None)
    assert not paths.model("foundation").exists()
