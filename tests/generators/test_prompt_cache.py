from typing import Any

import numpy as np
import pytest
import torch

from seggen_core.generators.foundation import encode_no_prompt, encode_prompts
from seggen_core.generators.prompt_cache import PromptCache
from tests.generators.tiny_sdxl import build_sdxl

CAPTIONS = ["a car", "a bus", "", "a car", "house"]


@pytest.mark.parametrize("max_bytes", [2**30, 0], ids=["held", "encoded_again"])
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_every_position_gets_its_caption_and_dropped_ones_get_none(
    tiny_pipeline: Any, kind: str, max_bytes: int
) -> None:
    pipeline = tiny_pipeline if kind == "sd" else build_sdxl()
    prompts = PromptCache(pipeline, CAPTIONS, image_size=32, batch_size=2, max_bytes=max_bytes)
    positions, dropped = np.array([4, 1, 0, 2, 3]), np.array([False, True, False, False, True])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = prompts.gather(positions, dropped, torch.device("cpu"))
    nothing = encode_no_prompt(pipeline, image_size=32)
    for row, (position, drop) in enumerate(zip(positions, dropped, strict=True)):
        wanted = nothing if drop else encode_prompts(pipeline, [CAPTIONS[position]], image_size=32)
        assert embeddings.keys() == wanted.keys()
        for key in wanted:
            torch.testing.assert_close(embeddings[key][row], wanted[key][0], rtol=1e-4, atol=1e-5)
