"""Embeddings of captions, computed once before a training where all of them fit in memory."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from seggen_core.generators.foundation import encode_no_prompt, encode_prompts

MAX_PROMPT_BYTES = 2 * 2**30
"""Embeddings of captions that are held in memory."""


class PromptCache:
    """Embeddings of captions, and of a dropped caption.

    Each distinct caption is encoded once where all of them fit in `max_bytes`; else those of a
    batch are encoded whenever it is asked for. (SDXL's take 0.6 MB each: 75 GB if all 118,287
    captions of COCO differ.)
    """

    def __init__(
        self,
        pipeline: Any,
        captions: Sequence[str],
        *,
        image_size: int,
        batch_size: int = 64,
        max_bytes: int = MAX_PROMPT_BYTES,
    ) -> None:
        """Encode `captions` with the pipeline's text encoders."""
        self._captions = list(captions)
        self._encode = partial(encode_prompts, pipeline, image_size=image_size)
        no_prompt = encode_no_prompt(pipeline, image_size=image_size)
        distinct = sorted(set(captions))
        row_bytes = sum(value.numel() * value.element_size() for value in no_prompt.values())
        self._fits = len(distinct) * row_bytes <= max_bytes
        starts = range(0, len(distinct), batch_size) if self._fits else ()
        parts = [no_prompt, *(self._encode(distinct[i : i + batch_size]) for i in starts)]
        self._table = {key: torch.cat([part[key] for part in parts]).cpu() for key in no_prompt}
        row_of = {caption: row for row, caption in enumerate(distinct, start=1)}
        self._rows = np.array([row_of[caption] for caption in captions])

    def gather(
        self, positions: np.ndarray, dropped: np.ndarray, device: torch.device
    ) -> dict[str, torch.Tensor]:
        """Return the conditioning of a batch on `device`, as `encode_prompts` does.

        Args:
            positions: int [B], of captions.
            dropped: bool [B]; True takes no prompt instead of the caption.
            device: where the result lies.
        """
        if self._fits:
            rows = torch.from_numpy(np.where(dropped, 0, self._rows[positions]))
            return {key: value[rows].to(device) for key, value in self._table.items()}
        with torch.autocast(device.type, enabled=False):  # in the precision of the table
            encoded = self._encode([self._captions[position] for position in positions])
        drop = torch.from_numpy(dropped).to(device)
        return {
            key: torch.where(
                drop.view(-1, *[1] * (value.ndim - 1)),
                self._table[key].to(device),
                value.to(device),
            )
            for key, value in encoded.items()
        }
