"""How MaskSyn and ImgSyn differ: in the masks that their images show (SegGen 3.3)."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from seggen_core.config import SegGenSynthesisConfig
from seggen_core.datasets.fit import square_map
from seggen_core.generators.foundation import load_pipeline
from seggen_core.stage import Stage
from seggen_core.store.reader import SampleStore
from seggen_core.synthesis.seggen import PairMasks, PairRecipe, SynthesisTask, draw_masks

MaskSource = Callable[[Sequence[SynthesisTask]], PairMasks]
"""Returns the masks of some tasks."""


class SegGenMethod(ABC):
    """One of the two, on the real training samples of `store`."""

    name: ClassVar[str]
    """"masksyn" or "imgsyn"."""
    models: ClassVar[tuple[str, ...]]
    """Folders of `ProjectPaths.model` that its samples depend on."""
    rejects: ClassVar[bool] = False
    """Whether `max_ambiguous` may reject samples: real masks have no ambiguous pixel."""
    settings: SegGenSynthesisConfig
    """Its section of params.yaml."""

    def __init__(self, stage: Stage, store: SampleStore) -> None:
        self.stage, self.store = stage, store
        self.settings = getattr(stage.config, self.name)

    def source_digest(self, key: str) -> str | None:  # noqa: ARG002 (for subclasses)
        """Return a digest of what a sample takes from real sample `key`, but for its caption.

        None: it takes nothing else.
        """
        return None

    @abstractmethod
    def open_masks(self, recipe: PairRecipe) -> MaskSource:
        """Load what the masks come from; FoundationError where a model can't be loaded."""


class MaskSyn(SegGenMethod):
    """New masks from captions, and images that show them."""

    name = "masksyn"
    models = ("foundation", "text2mask", "mask2img")
    rejects = True

    def open_masks(self, recipe: PairRecipe) -> MaskSource:
        """Load Text2Mask; FoundationError where it can't be loaded."""
        folder = self.stage.paths.model("text2mask")
        text2mask = load_pipeline(folder).to(self.stage.device)
        return lambda tasks: draw_masks(tasks, text2mask=text2mask, recipe=recipe)


class ImgSyn(SegGenMethod):
    """New images for the real masks."""

    name = "imgsyn"
    models = ("foundation", "mask2img")

    def source_digest(self, key: str) -> str:
        """Return a digest of the real sample's mask and instances."""
        shown = [self.store.read_bytes(key, member) for member in ("mask", "instances")]
        return ":".join(hashlib.sha256(part).hexdigest() for part in shown)

    def open_masks(self, recipe: PairRecipe) -> MaskSource:
        """Return the real masks as squares, with instances where the colour code shows them."""
        shows_instances = recipe.code.kind == "panoptic"

        def read(tasks: Sequence[SynthesisTask]) -> PairMasks:
            keys = [task.source_key for task in tasks]
            masks = (self.store.read_mask(key) for key in keys)
            return PairMasks(
                np.stack([square_map(mask, recipe.image_size) for mask in masks]),
                [instances(key) if shows_instances else None for key in keys],
                [{} for _ in keys],
            )

        def instances(key: str) -> np.ndarray | None:
            instance_map = self.store.read_instances(key)
            return None if instance_map is None else square_map(instance_map, recipe.image_size)

        return read
