"""Captions of the real training samples: written from the mask, by BLIP-2, or by the user.

They are the text prompts that every generator is trained on and sampled with (SegGen 3.2).
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from seggen_core.config import CaptionsConfig
from seggen_core.datasets.scene_layout import SCENES_TAXONOMY, compose_caption, count_phrase, join_phrases
from seggen_core.errors import CaptionError, ConfigError
from seggen_core.taxonomy import Taxonomy

if TYPE_CHECKING:
    import pandas as pd

    from seggen_core.synthesis.sample_store import SampleStore


class Captioner(Protocol):
    """Writes one caption a sample.

    Attributes:
        name: as in params.yaml.
        revision: what a caption depends on besides the sample: a model's commit, a file's hash, a grammar's version.
    """

    name: str
    revision: str

    def captions(self, store: "SampleStore", *, keys: Sequence[str]) -> Iterator[str]:
        """Yield the captions of `keys` in their order, none of them empty; CaptionError names a sample that gets none."""


def make_captioner(config: CaptionsConfig, *, taxonomy: Taxonomy, device: str, base: Path = Path()) -> Captioner:
    """Return the captioner that `config` names.

    Args:
        config: which one, and its settings.
        taxonomy: classes of the masks.
        device: "cpu", "cuda" or "auto", for models.
        base: folder that relative paths start from.
    """
    if config.captioner == "class_list":
        return ClassListCaptioner(taxonomy, min_area_share=config.min_area_share)
    if config.captioner == "file":
        if config.path is None:
            raise ConfigError("captions.captioner is 'file' but captions.path is not set; expected a Parquet or CSV table")
        return FileCaptioner(base / config.path)
    from seggen_core.generators.blip2 import Blip2Captioner

    local = base / config.model
    return Blip2Captioner(
        str(local) if local.is_dir() else config.model,
        revision=config.revision,
        prompt=config.prompt,
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens,
        device=device,
    )


class ClassListCaptioner:
    """Captions from the classes in the mask: "a photo of a car and two trees on grass and road under sky".

    Things are counted by instance ids, or named once where the dataset has none; the largest come first. The embedded
    scenes get the grammar that their foundation was pretrained with; for other taxonomies stuff is listed after "with",
    because one doesn't stand on a building: "a photo of a car and two pedestrians with road, building and sky".
    """

    name = "class_list"
    revision = "1"
    """Version of the grammar; raised when a caption would read differently."""

    def __init__(self, taxonomy: Taxonomy, *, min_area_share: float) -> None:
        """Leave out instances, and classes without instances, below `min_area_share` of the image's area."""
        self._taxonomy = taxonomy
        self._min_area_share = min_area_share

    def captions(self, store: "SampleStore", *, keys: Sequence[str]) -> Iterator[str]:
        """Yield one caption a key; CaptionError where a mask has no labelled pixel."""
        for key in keys:
            sample = store[key]
            try:
                yield self.describe(sample.segmentation_map, instance_map=sample.instance_map)
            except CaptionError as error:
                raise CaptionError(f"sample {key}: {error}") from None

    def describe(self, segmentation_map: np.ndarray, *, instance_map: np.ndarray | None) -> str:
        """Return the caption of one sample.

        Args:
            segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
            instance_map: uint16 [H, W], 0 where there is no instance, or None.

        Raises:
            CaptionError: no pixel is labelled.
        """
        num_classes = len(self._taxonomy)
        area = np.bincount(segmentation_map.ravel(), minlength=256)[:num_classes]
        if not area.any():
            raise CaptionError("no pixel is labelled, so there is nothing to describe (run: seggen validate)")
        smallest = self._min_area_share * segmentation_map.size
        counts = (area >= smallest).astype(int)
        if instance_map is not None:
            for c in self._taxonomy:
                if c.is_thing:
                    sizes = np.bincount(instance_map[segmentation_map == c.train_id])[1:]
                    counts[c.train_id] = int((sizes >= max(smallest, 1)).sum())
        if not counts.any():
            counts[area.argmax()] = 1
        by_area = [self._taxonomy[int(i)] for i in np.argsort(-area, kind="stable") if counts[i]]
        things = {c.name: int(counts[c.train_id]) for c in by_area if c.is_thing}
        stuff = [c.name for c in by_area if not c.is_thing]
        if self._taxonomy == SCENES_TAXONOMY:
            return compose_caption(things=things, stuff=[c.name for c in SCENES_TAXONOMY if c.name in stuff])
        if not things:
            return f"a photo of {join_phrases(stuff)}"
        text = "a photo of " + join_phrases([count_phrase(name, count) for name, count in things.items()])
        return f"{text} with {join_phrases(stuff)}" if stuff else text


class FileCaptioner:
    """Captions that the user wrote: a Parquet or CSV table with the columns sample_key ("train-00012") and caption."""

    name = "file"

    def __init__(self, path: Path) -> None:
        """Read and check the table; CaptionError where it is unreadable, or repeats a key, or holds an empty caption."""
        self._path = path
        table = self._read()
        if not {"sample_key", "caption"} <= set(table.columns):
            raise CaptionError(f"{path} has the columns {', '.join(map(str, table.columns))}; expected sample_key and caption")
        keys = table["sample_key"].fillna("").astype(str).str.strip()
        texts = table["caption"].fillna("").astype(str).str.strip()
        self._refuse("repeats", keys[keys.duplicated()].unique().tolist(), "give each sample one caption")
        self._refuse("has an empty caption for", keys[texts == ""].tolist(), "write one, or remove the row and the sample")
        self._caption = dict(zip(keys, texts, strict=True))
        self.revision = hashlib.sha256(path.read_bytes()).hexdigest()[:12]

    def captions(self, store: "SampleStore", *, keys: Sequence[str]) -> Iterator[str]:  # noqa: ARG002 (the interface's)
        """Yield one caption a key, once all are known to be there; rows of other samples are not used."""
        self._refuse("has no caption for", [k for k in keys if k not in self._caption], "add the missing rows")
        yield from (self._caption[k] for k in keys)

    def _read(self) -> "pd.DataFrame":
        import pandas as pd

        if not self._path.is_file():
            raise CaptionError(
                f"{self._path} is not a file; expected a table with sample_key and caption: set captions.path to it"
            )
        try:
            if self._path.suffix == ".parquet":
                return pd.read_parquet(self._path)
            if self._path.suffix == ".csv":
                # Every cell is text: a caption "None" or "NA" stays what it is.
                return pd.read_csv(self._path, dtype=str, keep_default_na=False, encoding="utf-8")
        except (OSError, ValueError) as error:  # pandas' parser and pyarrow's errors are among these
            raise CaptionError(f"{self._path} can't be read: {error}; expected a Parquet or UTF-8 CSV table") from None
        raise CaptionError(f"{self._path} ends in {self._path.suffix!r}; expected .parquet or .csv")

    def _refuse(self, what: str, keys: list[str], remedy: str) -> None:
        if keys:
            named = ", ".join(k or "(no key)" for k in keys[:10]) + (" ..." if len(keys) > 10 else "")
            raise CaptionError(f"{self._path} {what} {len(keys)} sample(s): {named}; {remedy}")
