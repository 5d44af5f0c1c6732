"""Settings that go to diffusers, transformers and timm, checked when params.yaml is read.

The names and types come from the installed library's own source text: importing diffusers or
transformers would take seconds, and `seggen --help` and `seggen plan` need neither. What only a
built object can tell (whether widths fit each other) is checked when a stage starts.
"""

import ast
import importlib.util
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Union

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from seggen_core.config.base import Section, Size

MAX_WHOLE = 1 << 16
"""Largest whole number among these settings: they are widths, layers, points and steps."""
_PLAIN_TYPES = {"int": int, "float": float, "str": str, "bool": bool}
_SIZES = re.compile("size|dim$|_dim_|heads|queries|stride|channels|width|points|feedforward|order")
"""Names of whole numbers of which 0 makes no sense."""
_MAY_BE_NEGATIVE = {"out_indices", "lambda_min_clipped", "steps_offset"}
_MODEL_TYPE = re.compile(r"[a-z0-9_]+")


class HRNetStage(Section):
    """One stage of timm's HRNet, by timm's names."""

    num_modules: int = Field(ge=0, le=64)
    """Number of its modules."""
    num_branches: int = Field(ge=1, le=4)
    """Number of its branches: 1 in the first stage, 4 in the last."""
    block_type: Literal["BASIC", "BOTTLENECK"]
    """Kind of the blocks."""
    num_blocks: tuple[Annotated[int, Field(ge=1, le=64)], ...]
    """Blocks of each branch."""
    num_channels: tuple[Size, ...]
    """Channels of each branch."""
    fuse_method: Literal["SUM"] = "SUM"
    """How branches are joined."""

    @model_validator(mode="after")
    def _check(self) -> "HRNetStage":
        for name in ("num_blocks", "num_channels"):
            if len(getattr(self, name)) != self.num_branches:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} values for num_branches "
                    f"{self.num_branches}; expected one for each branch"
                )
        return self


class HRNetSettings(Section):
    """What may be changed in timm's definition of an HRNet."""

    stem_width: Size | None = None
    """Channels of the stem."""
    stage1: HRNetStage | None = None
    """The stage of one branch."""
    stage2: HRNetStage | None = None
    """The stage of two branches."""
    stage3: HRNetStage | None = None
    """The stage of three branches."""
    stage4: HRNetStage | None = None
    """The stage of four branches."""

    @model_validator(mode="after")
    def _check(self) -> "HRNetSettings":
        for index in range(1, 5):
            stage = getattr(self, f"stage{index}")
            if stage is not None and stage.num_branches != index:
                raise ValueError(
                    f"stage{index} has num_branches {stage.num_branches}; expected {index}"
                )
        return self


def check_hrnet_settings(settings: Mapping[str, Any]) -> None:
    """Raise ValueError where timm's HRNet can't be built with `settings`."""
    try:
        HRNetSettings.model_validate_json(json.dumps(dict(settings)), strict=True)
    except ValidationError as error:
        raise ValueError(first_error(error, section="backbone_kwargs")) from None


def first_error(error: ValidationError, *, section: str) -> str:
    """Return the first of pydantic's errors as one line that names the key below `section`.

    An empty `section` stands for the top of a file.
    """
    first = error.errors()[0]
    key = ".".join(map(str, (*([section] if section else []), *first["loc"])))
    message = plain_message(first["msg"])
    # A contradiction of several keys has no place, and its input is the whole section.
    has_value = first["type"] != "missing" and first["loc"]
    shown = f" (got {_brief(first['input'])})" if has_value else ""
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def plain_message(message: str) -> str:
    """Return a message of pydantic in the words of a YAML file."""
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message.removeprefix("Value error, ")


_WORDS = {
    "be an object": "be a mapping",
    "valid dictionary": "valid mapping",
    "valid array": "valid list",
    "valid tuple": "valid list",
    "Tuple should have": "List should have",
}
"""Pydantic's words, and those of somebody who writes YAML."""


def check_scheduler(name: str, settings: Mapping[str, Any]) -> None:
    """Raise ValueError where diffusers has no such sampler, or the sampler no such setting."""
    samplers = _samplers()
    if name not in samplers:
        raise ValueError(
            f"scheduler is {name!r}; expected a sampler for Stable Diffusion of diffusers: "
            f"{', '.join(sorted(samplers))}"
        )
    known = _parameters(samplers[name], name)
    _check_settings(settings, known, where="scheduler_kwargs", what=name)


def check_mask2former(settings: Mapping[str, Any]) -> None:
    """Raise ValueError where transformers' Mask2FormerConfig has no such field."""
    known = dict(_config_fields("mask2former"))
    backbone = settings.get("backbone_config")
    known["backbone_config"] = Any
    _check_settings(settings, known, where="architecture", what="Mask2FormerConfig")
    if backbone is None:
        return
    where = "architecture.backbone_config"
    if not isinstance(backbone, Mapping) or not isinstance(backbone.get("model_type"), str):
        raise ValueError(  # noqa: TRY004 (pydantic takes no TypeError)
            f"{where} is {_brief(backbone)}; expected a mapping with model_type, such as resnet or "
            "swin"
        )
    model_type = backbone["model_type"]
    fields = _config_fields(model_type, is_backbone=True)
    if not fields:
        raise ValueError(
            f"{where}.model_type is {_brief(model_type)}, which is no backbone of transformers; "
            "expected resnet, swin or another one"
        )
    fields = fields | {"model_type": str, "out_features": list[str], "out_indices": list[int]}
    _check_settings(backbone, fields, where=where, what=model_type)


def check_eomt(settings: Mapping[str, Any]) -> None:
    """Raise ValueError where transformers' EomtConfig has no such field."""
    known = dict(_config_fields("eomt"))
    _check_settings(settings, known, where="architecture", what="EomtConfig")


def _check_settings(
    settings: Mapping[str, Any], known: Mapping[str, Any], *, where: str, what: str
) -> None:
    for name, value in settings.items():
        if name not in known:
            raise ValueError(
                f"{where} holds {_brief(name)}; {what} knows: "
                f"{', '.join(sorted(k for k in known if k[0] != '_'))}"
            )
        try:
            _adapter(known[name]).validate_python(value)
        except ValidationError as error:
            raise ValueError(
                f"{where}.{name} is {_brief(value)}; {what} takes {_in_words(known[name])} "
                f"({error.errors()[0]['msg']})"
            ) from None
        least = 1 if _SIZES.search(name) else -8 if name in _MAY_BE_NEGATIVE else 0
        for leaf in _numbers(value):
            if not least <= leaf <= MAX_WHOLE:
                raise ValueError(
                    f"{where}.{name} is {_brief(value)}; expected numbers from {least} to "
                    f"{MAX_WHOLE}"
                )


def _numbers(value: Any) -> list[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _numbers(item)]
    return [value] if isinstance(value, int | float) else []


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    # Strict: True is no 1, and "3" no 3. But YAML has no tuples, so lists stand for them.
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def _in_words(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation).replace("typing.", "")


def _brief(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


# The sources of the libraries -----------------------------------------------------------------


def _folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, package
    assert spec.submodule_search_locations, package
    return Path(spec.submodule_search_locations[0])


@cache
def _samplers() -> dict[str, Path]:
    """Return the files of diffusers' samplers, by class.

    They are the classes that share Stable Diffusion's noise schedules: diffusers marks them with
    `_compatibles`.
    """
    samplers: dict[str, Path] = {}
    for path in sorted((_folder("diffusers") / "schedulers").glob("scheduling_*.py")):
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^class (\w+Scheduler)\(SchedulerMixin\b", text, re.MULTILINE):
            body = text[match.end() :].partition("\nclass ")[0]
            if "_compatibles = [e.name" in body and "def __init__" in body:
                samplers[match[1]] = path
    return samplers


@cache
def _parameters(path: Path, name: str) -> dict[str, Any]:
    """Return the parameters of a class's constructor with their types, from the source text."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    arguments = [*item.args.args[1:], *item.args.kwonlyargs]
                    return {a.arg: _type(a.annotation) for a in arguments}
    return {}


@cache
def _config_fields(model_type: str, *, is_backbone: bool = False) -> dict[str, Any]:
    """Return the fields of transformers' configuration of a model with their types.

    The result is empty if there is no such model, or it is no backbone.
    """
    if not _MODEL_TYPE.fullmatch(model_type):
        return {}
    folder = _folder("transformers") / "models" / model_type
    path = folder / f"configuration_{model_type}.py"
    if not path.is_file():
        return {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef) or not node.name.endswith("Config"):
            continue
        if is_backbone and not any(
            isinstance(base, ast.Name) and base.id == "BackboneConfigMixin" for base in node.bases
        ):
            continue
        fields: dict[str, Any] = {}
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                if "ClassVar" not in ast.unparse(item.annotation):
                    fields[item.target.id] = _type(item.annotation)
            elif isinstance(item, ast.Assign) and ast.unparse(item.targets[0]) == "attribute_map":
                fields |= dict.fromkeys(ast.literal_eval(item.value), Any)
        return fields
    return {}


def _type(node: ast.expr | None) -> Any:
    """Return the type that an annotation means; Any for what this module doesn't know."""
    if isinstance(node, ast.Constant) and node.value is None:
        return NoneType
    if isinstance(node, ast.Name):
        return _PLAIN_TYPES.get(node.id, Any)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        parts = [_type(node.left), _type(node.right)]
        return Any if Any in parts else Union[tuple(parts)]  # noqa: UP007 (of parts known later)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        match node.value.id:
            case "Literal":
                return Literal[tuple(ast.literal_eval(part) for part in parts)]
            case "Optional":
                return Union[_type(parts[0]), None]  # noqa: UP007 (likewise)
            case "Union":
                inner = [_type(part) for part in parts]
                return Any if Any in inner else Union[tuple(inner)]  # noqa: UP007 (likewise)
            case "list" | "List" | "tuple" | "Tuple" | "Sequence":
                return list[_type(parts[0])]  # type: ignore[misc] # (a type known at run time)
    return Any
