"""Model weights on disk, compared with the model that is to get them before anything is loaded.

Libraries fill in what a file lacks with random numbers, cast integers to floats, and raise whatever
they meet in a damaged file. `check_weights` reads only the headers of safetensors files and says in
one message what doesn't fit.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from seggen_core.errors import FoundationError

if TYPE_CHECKING:
    import torch

_FLOATS = ("F64", "F32", "F16", "BF16")
_INTEGERS = ("position_ids", "num_batches_tracked", "relative_position_index")
"""What names of tensors end in that are whole numbers in sound files."""
_MAX_JSON_BYTES = 1 << 26
_MAX_NAMED = 3
_SHARD = re.compile(r"[\w.-]+\.safetensors")


class StoredTensor(NamedTuple):
    """What a header says of a tensor."""

    dtype: str
    """The type by safetensors' name."""
    shape: tuple[int, ...]
    """Its sizes."""


def read_json_object(path: Path, *, cure: str) -> dict[str, Any]:
    """Read a model's configuration.

    Raises:
        FoundationError: it is missing, no JSON object, or names code of the repository (auto_map).
    """
    try:
        if not path.is_file():  # neither is a FIFO
            raise FoundationError(f"there is no file {path}; expected a configuration: {cure}")
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise FoundationError(f"{path} is too large for a configuration: {cure}")
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, FoundationError):
            raise
        what = "it nests too deep" if isinstance(error, RecursionError) else error
        raise FoundationError(f"{path} is no valid JSON: {what}: {cure}") from None
    if not isinstance(tree, dict):
        raise FoundationError(f"{path} holds {type(tree).__name__}, expected an object: {cure}")
    if "auto_map" in tree:
        raise FoundationError(
            f"{path} has auto_map, which names code of the repository; such code is never run: "
            "take a folder that transformers' or diffusers' own classes can load"
        )
    return tree


def weight_files(folder: Path, *, name: str, part: str, cure: str) -> list[Path]:
    """Return the safetensors files of a part: one file, or the shards that its index names.

    Args:
        folder: of the part.
        name: of the one file, without its suffix ("diffusion_pytorch_model").
        part: what it is, in messages.
        cure: what to do, in messages.

    Raises:
        FoundationError: there is no such file, or a shard is missing.
    """
    single, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise FoundationError(
            f"{part} has no weights: there is neither {single} nor {index.name} (pickles are never "
            f"read): {cure}"
        )
    placed = read_json_object(index, cure=cure).get("weight_map")
    if not isinstance(placed, dict) or not all(
        isinstance(shard, str) and _SHARD.fullmatch(shard) for shard in placed.values()
    ):
        raise FoundationError(f"{index} names no safetensors files in its weight_map: {cure}")
    shards = [folder / shard for shard in sorted(set(placed.values()))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise FoundationError(
            f"{part} lacks {len(missing)} of {len(shards)} files of weights, {missing[0]} the "
            f"first, in {folder}: {cure}"
        )
    stored = read_headers(shards, part=part, cure=cure)
    if placed.keys() != stored.keys():
        names = sorted(placed.keys() ^ stored.keys())
        raise FoundationError(
            f"{index} and the files that it names differ in {len(names)} tensors, "
            f"{_named(names)}: {cure}"
        )
    return shards


def read_headers(files: Sequence[Path], *, part: str, cure: str) -> dict[str, StoredTensor]:
    """Return what safetensors files hold.

    Raises:
        FoundationError: a file is no safetensors file, is cut, or repeats a tensor.
    """
    from safetensors import SafetensorError, safe_open

    stored: dict[str, StoredTensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                    entry = tensors.get_slice(name)
                    stored[name] = StoredTensor(entry.get_dtype(), tuple(entry.get_shape()))
        except (SafetensorError, OSError, ValueError) as error:
            raise FoundationError(
                f"the weights of {part} are damaged: {file} is no whole safetensors file "
                f"({error}): {cure}"
            ) from None
    return stored


def check_weights(
    stored: Mapping[str, StoredTensor],
    expected: Mapping[str, "torch.Tensor"],
    *,
    part: str,
    cure: str,
) -> None:
    """Compare what files hold with the state of the model that is to get it.

    Args:
        stored: of `read_headers`.
        expected: the model's state; its tensors may be on the meta device.
        part: what it is, in messages ("the UNet of <folder>").
        cure: what to do, in messages.

    Raises:
        FoundationError: tensors are missing, are more than the model has, or have another shape or
            a type that isn't the model's.
    """
    problems: list[str] = []
    missing = sorted(expected.keys() - stored.keys())
    # Older files of CLIP hold these constants too.
    more = sorted(n for n in stored.keys() - expected.keys() if not n.endswith("position_ids"))
    both = sorted(expected.keys() & stored.keys())
    shapes = [n for n in both if tuple(expected[n].shape) != stored[n].shape]
    types = [n for n in both if expected[n].is_floating_point() != (stored[n].dtype in _FLOATS)]
    if missing:
        problems.append(f"lack {len(missing)} of {len(expected)} tensors, {_named(missing)}")
    if more:
        problems.append(f"hold {len(more)} tensors that the model hasn't, {_named(more)}")
    if shapes:
        name = shapes[0]
        problems.append(
            f"have {len(shapes)} tensors of another shape, {_named(shapes)}: "
            f"{list(stored[name].shape)} instead of {list(expected[name].shape)}"
        )
    if types:
        problems.append(
            f"have {len(types)} tensors of another type, {_named(types)}: {stored[types[0]].dtype} "
            f"instead of one of {', '.join(_FLOATS)}"
        )
    if problems:
        raise FoundationError(
            f"the weights of {part} {'; they '.join(problems)}; expected those of its config.json: "
            f"{cure}"
        )


def check_floats(stored: Mapping[str, StoredTensor], *, part: str, cure: str) -> None:
    """Raise FoundationError where weights are integers; libraries would cast them in silence."""
    types = sorted(
        name
        for name, tensor in stored.items()
        if tensor.dtype not in _FLOATS and not name.endswith(_INTEGERS)
    )
    if types:
        raise FoundationError(
            f"the weights of {part} have {len(types)} tensors of another type, {_named(types)}: "
            f"{stored[types[0]].dtype} instead of one of {', '.join(_FLOATS)}: {cure}"
        )


def check_loading(loading: Mapping[str, Any], *, part: str, cure: str) -> None:
    """Raise FoundationError where transformers filled tensors with random numbers.

    Args:
        loading: what `from_pretrained` returns with `output_loading_info`.
        part: what was loaded, in messages.
        cure: what to do, in messages.
    """
    problems = []
    for key, words in (
        ("missing_keys", "lack {} tensors, {}"),
        ("mismatched_keys", "have {} tensors of another shape, {}"),
        ("unexpected_keys", "hold {} tensors that the model hasn't, {}"),
    ):
        entries = loading.get(key) or ()
        names = sorted(str(e[0]) if isinstance(e, tuple | list) else str(e) for e in entries)
        names = [name for name in names if not name.endswith("position_ids")]
        if names:
            problems.append(words.format(len(names), _named(names)))
    if problems:
        raise FoundationError(
            f"the weights of {part} {'; they '.join(problems)}; expected those of its config.json: "
            f"{cure}"
        )


def check_finite(module: "torch.nn.Module", *, part: str, cure: str) -> None:
    """Raise FoundationError where a weight is infinite or NaN: every output would be NaN."""
    names = sorted(name for name, value in module.state_dict().items() if not _is_finite(value))
    if names:
        raise FoundationError(
            f"the weights of {part} hold infinities or NaN in {len(names)} tensors, "
            f"{_named(names)}: {cure}"
        )


def _is_finite(value: "torch.Tensor") -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown}, ..."
