"""What Text2Mask and Mask2Img are trained on: the real training split with its captions."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from seggen_core.color_code import ColorCode
from seggen_core.config import ColorMapKind, DiffusionTrainingConfig, SegGenConfig
from seggen_core.errors import CaptionError
from seggen_core.paths import ProjectPaths
from seggen_core.synthesis.sample_store import SampleStore
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking.dvc_lineage import content_digest


@dataclass(frozen=True)
class GeneratorTrainingData:
    """The real training split as the generators read it.

    Attributes:
        store: images and masks.
        captions: one per sample, in the store's order.
        taxonomy: the classes.
        read_color_map: colour map of sample i, uint8 [H, W, 3].
    """

    store: SampleStore
    captions: list[str]
    taxonomy: Taxonomy
    read_color_map: Callable[[int], np.ndarray]


def open_training_data(paths: ProjectPaths, *, color_map: ColorMapKind) -> GeneratorTrainingData:
    """Open the training split and its captions.

    Args:
        paths: the project.
        color_map: what its colour maps show.

    Raises:
        CaptionError: a sample has no caption.
        ConfigError: colour maps can't show what `color_map` asks for.
    """
    store = SampleStore(paths.real("train"))
    taxonomy = Taxonomy.from_json(json.loads(paths.taxonomy.read_text(encoding="utf-8")))
    code = ColorCode(taxonomy, kind=color_map)
    table = pd.read_parquet(paths.captions)
    caption_of = dict(zip(table["sample_key"], table["caption"], strict=True))
    keys = store.keys()
    missing = [key for key in keys if key not in caption_of]
    if missing:
        raise CaptionError(f"{len(missing)} training samples have no caption, e.g. {missing[0]} (run: dvc repro captions)")

    def read_color_map(position: int) -> np.ndarray:
        instances = store.read_instances(position) if color_map == "panoptic" else None
        return code.encode(store.read_mask(position), instance_map=instances)

    return GeneratorTrainingData(store, [caption_of[k] for k in keys], taxonomy, read_color_map)


def training_fingerprint(name: str, *, config: SegGenConfig, section: DiffusionTrainingConfig, paths: ProjectPaths) -> str:
    """Return a short hash of all that defines a generator's training; it names the folder an interrupted run resumes from."""
    identity = [
        name,
        section.model_dump(mode="json"),
        config.seed,
        config.dataset.color_map,
        content_digest(paths.model("foundation")),
        content_digest(paths.real("train")),
        content_digest(paths.captions),
        paths.taxonomy.read_text(encoding="utf-8"),
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
