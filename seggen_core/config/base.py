"""The base class and the types of all sections of params.yaml."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Precision of network calls; "auto" is bfloat16 if the device has it natively, else float32."""
NOTHING_TO_WATCH = Path("data/code/none.json")
"""Value of `reads` if the user has no file for DVC to watch: DVC needs a file that exists."""
SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""Names of classes, variants and methods: they become items of dvc.yaml and parts of paths."""


def _check_slug(name: str) -> str:
    if not SLUG.fullmatch(name):
        raise ValueError(
            "expected letters, digits, '_' and '-', the first of them a letter or digit"
        )
    return name


def _check_tracked_path(path: Any) -> Any:
    text = str(path)
    if text.startswith("-") or "://" in text or "${" in text or not text.isprintable():
        raise ValueError(
            "expected a path: no address, no '${', no '-' in front, nothing unprintable"
        )
    return path


Slug = Annotated[str, AfterValidator(_check_slug)]
TrackedPath = BeforeValidator(_check_tracked_path)
"""Marks a path that dvc.yaml names as a dependency: a file or folder of this machine."""


class Section(BaseModel):
    """Base of every section. It is immutable; unknown keys and booleans for numbers are errors.

    Numbers are lax otherwise: YAML reads 1e-4 as text, and a learning rate may be written so.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if _holds_boolean(value) and not _mentions(annotation, {bool, Any}):
            raise ValueError("expected a number or text, not true or false")
        return value


def _holds_boolean(value: Any) -> bool:
    return isinstance(value, bool) or (
        isinstance(value, list | tuple) and any(_holds_boolean(v) for v in value)
    )


def _mentions(annotation: Any, types: set[Any]) -> bool:
    """Return whether one of `types` occurs in an annotation."""
    return annotation in types or any(
        _mentions(part, types) for part in get_args(annotation) if not isinstance(part, str)
    )
