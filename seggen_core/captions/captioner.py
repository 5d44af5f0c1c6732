"""Captions of the real training samples: from the mask, by a model, or by the user.

They are the text prompts that every generator is trained on and sampled with (SegGen 3.2).
"""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from seggen_core.captions.table import FileCaptioner
from seggen_core.config import CaptionsConfig
from seggen_core.errors import ConfigError
from seggen_core.taxonomy import Taxonomy

if TYPE_CHECKING:
    from seggen_core.captions.model_captioner import ModelCaptioner
    from seggen_core.store.reader import SampleStore


_MODELS = {
    "blip2": ("seggen_core.captions.blip2", "Blip2Captioner"),
    "blip": ("seggen_core.captions.blip", "BlipCaptioner"),
    "florence2": ("seggen_core.captions.florence2", "Florence2Captioner"),
}


class Captioner(Protocol):
    """Writes one caption a sample."""

    @property
    def name(self) -> str:
        """As in params.yaml."""

    @property
    def revision(self) -> str:
        """What a caption depends on besides the sample.

        A model's commit, a file's hash or a grammar's version.
        """

    def captions(self, store: "SampleStore", *, keys: Sequence[str]) -> Iterator[str]:
        """Yield the captions of `keys` in their order, none of them empty.

        Raises:
            CaptionError: a sample gets no caption; the message names it.
        """


def make_captioner(
    config: CaptionsConfig,
    *,
    taxonomy: Taxonomy,
    device: Literal["auto", "cpu", "cuda"],
    base: Path = Path(),
    cache: Path | None = None,
) -> Captioner:
    """Return the captioner that `config` names.

    Args:
        config: which one, and its settings.
        taxonomy: classes of the masks.
        device: "cpu", "cuda" or "auto", for models.
        base: folder that relative paths start from.
        cache: folder in which a model's answers are kept, so that no image is shown to it twice.

    Raises:
        ConfigError: a table is to be read and none is named, or a hub model has no revision.
        CaptionError: the table can't be read.
    """
    if config.captioner == "class_list":
        from seggen_core.captions.class_list import ClassListCaptioner

        return ClassListCaptioner(taxonomy, min_area_share=config.min_area_share)
    if config.captioner == "file":
        if config.reads is None:
            raise ConfigError(
                "captions.captioner is 'file' but captions.reads is not set; "
                "expected a Parquet or CSV table"
            )
        return FileCaptioner(base / config.reads)

    module, class_name = _MODELS[config.captioner]
    kind: type[ModelCaptioner] = getattr(importlib.import_module(module), class_name)
    model = config.model or kind.default_model
    local = base / model
    captioner = kind(
        str(local) if local.is_dir() else model,
        revision=config.revision,
        prompt=kind.default_prompt if config.prompt is None else config.prompt,
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens,
        device=device,
    )
    if cache is None:
        return captioner
    from seggen_core.captions.cache import CachedCaptioner

    return CachedCaptioner(captioner, folder=cache)
