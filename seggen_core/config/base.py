"""The base class and the types of all sections of params.yaml."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0, le=1_000_000_000)]
"""A number of steps, or of something else that takes time but no memory."""
Size = Annotated[int, Field(gt=0, le=1 << 16)]
"""A number of pixels, channels or rows: memory grows with it."""
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""Seed of random streams."""
NumSamples = Annotated[int, Field(gt=0, le=1 << 22)]
"""A number of samples; readers list at most four million."""
LearningRate = Annotated[float, Field(gt=0, le=10)]
"""A learning rate. Above 10, AdamW changes every weight by more than 10 in each step."""
Weight = Annotated[float, Field(ge=0, le=10_000)]
"""A factor or limit that may be 0."""
Factor = Annotated[float, Field(gt=0, le=10_000)]
"""A factor or limit above 0."""
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
    """Base of every section. It is immutable; unknown keys, infinities and NaN are errors.

    `load.check_config` reads params.yaml strictly: text is no number, true is no 1, 3.0 no 3.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
