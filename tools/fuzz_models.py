"""Damaged model folders: `seggen foundation` has to refuse all of them, with one message.

    python -m tools.fuzz_models [--count 74] [--seed 0]

The model is the tiny pipeline of the tests, so that a case takes a second.
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tools.campaign import Campaign, Case, run_tool
from tools.damage import FILES, JSON, change_json, drop_key, flip_bit, link_to

ROOT = Path(__file__).parent.parent
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
CONFIGS = (
    *("model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"),
    *("scheduler/scheduler_config.json", "tokenizer/tokenizer.json"),
)


def _tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(path)
        change(tensors)
        path.unlink()
        save_file(tensors, path)

    return damage


def _drop(share: float) -> Callable[[dict[str, Any]], object]:
    def change(tensors: dict[str, Any]) -> None:
        for name in sorted(tensors)[: max(1, int(share * len(tensors)))]:
            del tensors[name]

    return change


def _cast(kind: str) -> Callable[[dict[str, Any]], object]:
    def change(tensors: dict[str, Any]) -> None:
        import torch

        for name, tensor in tensors.items():
            tensors[name] = tensor.to(getattr(torch, kind))

    return change


def _set(value: float) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors[max(tensors)].fill_(value)


def _reshape(tensors: dict[str, Any]) -> None:
    name = max(tensors)
    tensors[name] = tensors[name].new_zeros(3, 5)


def _add(tensors: dict[str, Any]) -> None:
    tensors["more"] = next(iter(tensors.values())).new_zeros(2)


def _pickle(path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    torch.save(load_file(path), path.with_name("diffusion_pytorch_model.bin"))
    path.unlink()


def _shard(path: Path) -> None:
    """Write an index that names a shard which isn't there."""
    from safetensors.torch import load_file

    placed = dict.fromkeys(load_file(path), "model-00001-of-00002.safetensors")
    path.with_name(f"{path.name}.index.json").write_text(json.dumps({"weight_map": placed}))
    path.unlink()


def _config(**changes: Any) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


TENSORS: dict[str, Callable[[Path], object]] = {
    "one tensor missing": _tensors(_drop(0)),
    "half of the tensors missing": _tensors(_drop(0.5)),
    "all tensors missing": _tensors(lambda tensors: tensors.clear()),
    "a tensor more": _tensors(_add),
    "a tensor of another shape": _tensors(_reshape),
    "int8": _tensors(_cast("int8")),
    "bool": _tensors(_cast("bool")),
    "NaN": _tensors(_set(float("nan"))),
    "an infinity": _tensors(_set(float("inf"))),
    "pickles alone": _pickle,
    "a shard missing": _shard,
}
FOREIGN: dict[str, tuple[str, Callable[[Path], object]]] = {
    "code of the repository": ("unet/config.json", _config(auto_map={"AutoModel": "x.Y"})),
    "code of the text encoder": ("text_encoder/config.json", _config(auto_map={"A": "x.Y"})),
    "a class of another library": ("model_index.json", _config(unet=["os", "system"])),
    "a module of its own": ("model_index.json", _config(unet=["my_unet", "UNet"])),
    "another pipeline": ("model_index.json", _config(_class_name="DDPMPipeline")),
    "another UNet": ("unet/config.json", _config(_class_name="UNet2DModel")),
    "a wider UNet": ("unet/config.json", _config(cross_attention_dim=24)),
    "a billion channels": ("unet/config.json", _config(block_out_channels=[10**9, 10**9])),
    "a billion tokens": ("text_encoder/config.json", _config(vocab_size=10**9)),
    "a billion timesteps": (
        "scheduler/scheduler_config.json",
        _config(num_train_timesteps=10**9),
    ),
    "no scale of latents": ("vae/config.json", _config(scaling_factor=None)),
    "a link out of the folder": ("unet/config.json", link_to("/etc/hostname")),
}


def make_campaign(count: int, rng: random.Random) -> Campaign:
    """Return `count` cases: every kind of damage once, the rest chosen at random."""
    cases = [
        Case(f"{part}: {name}", _at(WEIGHTS[part], damage))
        for name, damage in TENSORS.items()
        for part in WEIGHTS
    ]
    cases += [
        Case(f"{name} ({file})", _at(file, damage)) for name, (file, damage) in FOREIGN.items()
    ]
    small = [
        Case(f"{file}: {name}", _at(file, damage))
        for file in CONFIGS
        for name, damage in (FILES | JSON).items()
    ]
    small += [
        Case(f"{part}: {name}", _at(WEIGHTS[part], damage))
        for part in WEIGHTS
        for name, damage in FILES.items()
    ]
    # A changed key may be a sound model of another kind, a flipped bit another number.
    strange: tuple[Any, ...] = (-1, "x", None, [], 10**9)
    loose = [Case(f"{file}: a key less", _at(file, drop_key(rng)), False) for file in CONFIGS]
    loose += [
        Case(f"{file}: {value!r} somewhere", _at(file, change_json(rng, value=value)), False)
        for file in CONFIGS
        for value in strange
    ]
    loose += [Case(f"{part}: a bit", _at(WEIGHTS[part], flip_bit(rng)), False) for part in WEIGHTS]
    rest = max(0, count - len(cases))
    cases += rng.sample(small, min(len(small), rest - rest // 3))
    cases += rng.sample(loose, min(len(loose), rest // 3))
    return Campaign(
        title="model folders (foundation)",
        prepare=_prepare,
        command=("foundation",),
        cases=cases[:count],
        imports=(
            "seggen_core.stages.foundation",
            "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
            "transformers.models.clip.modeling_clip",
        ),
        seconds=120,
    )


def _at(file: str, damage: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: damage(folder / "source" / file)


def _prepare(folder: Path) -> None:
    from seggen_core.taxonomy import Taxonomy
    from tests.attention.tiny_pipeline import build_pipeline

    build_pipeline().save_pretrained(folder / "source")
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["runtime"] = {"tracking_uri": "disk"}
    tree["dataset"]["image_size"] = 32
    tree["foundation"] = {
        "source": "source",
        "reads": "source",
        "preview": {"num_inference_steps": 1, "micro_batch_size": 2},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    (folder / "data" / "real").mkdir(parents=True)
    taxonomy = Taxonomy.from_names(stuff=["sky"], things=["car"])
    (folder / "data" / "real" / "taxonomy.json").write_text(json.dumps(taxonomy.to_json()))


if __name__ == "__main__":
    sys.exit(run_tool(make_campaign, about=str(__doc__), count=74, argv=sys.argv[1:]))
