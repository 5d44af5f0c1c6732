"""What every section of params.yaml shares."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Precision of network calls; "auto" is bfloat16 where the device computes it natively, else float32."""


class Section(BaseModel):
    """Base of every section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
