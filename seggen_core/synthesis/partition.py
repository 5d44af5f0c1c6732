"""One class partition of a method's samples: what it needs of its stage, and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import StageRun

if TYPE_CHECKING:
    import torch


class PartitionContext(Protocol):
    """What the making of a partition needs of the stage that asks for it."""

    @property
    def name(self) -> str:
        """The stage."""

    @property
    def class_slug(self) -> str:
        """The class."""

    @property
    def config(self) -> SegGenConfig:
        """All of params.yaml."""

    @property
    def paths(self) -> ProjectPaths:
        """Where artifacts are."""

    @property
    def run(self) -> StageRun:
        """Gets inputs."""

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes."""

    @property
    def device(self) -> "torch.device":
        """Where to compute."""

    @property
    def code_digest(self) -> str:
        """A digest of the code that the samples depend on."""


@dataclass(frozen=True)
class FinishedPartition:
    """A partition that is ready to be published.

    Attributes:
        folder: the sample store, with metrics.json and previews.png.
        metrics: what is reported of it.
        digests: the digest under which each sample lies in the cache, by key; the cache keeps
            these. Empty where no later run could use them.
        others: digests of further records that the cache keeps.
    """

    folder: Path
    metrics: Mapping[str, float]
    digests: Mapping[str, str]
    others: Sequence[str] = ()
