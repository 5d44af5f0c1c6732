"""A real BLIP-2 with random weights.

It has a ViT, a Q-Former and a T5 of one or two layers, 16 wide, and a tokenizer of 19 words.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from seggen_core.captions.blip2 import Blip2Captioner

if TYPE_CHECKING:
    from transformers import T5Tokenizer


def save_blip2(folder: Path) -> Path:
    """Save model and processor as safetensors in `folder`, which is returned.

    Every call writes the same weights.
    """
    import torch
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessor,
        T5Config,
    )

    tokenizer = _tokenizer()
    processor = Blip2Processor(
        BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer, num_query_tokens=4
    )
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "initializer_range": 0.5,
    }
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            **small, num_hidden_layers=1, image_size=16, patch_size=8
        ).to_dict(),
        qformer_config=Blip2QFormerConfig(**small, num_hidden_layers=2, vocab_size=8).to_dict(),
        text_config=T5Config(
            vocab_size=len(tokenizer),
            d_model=16,
            d_kv=8,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
            initializer_factor=5.0,
        ).to_dict(),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        model.query_tokens.normal_()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer() -> "T5Tokenizer":
    from transformers import T5Tokenizer

    words = dict.fromkeys(
        (Blip2Captioner.default_prompt + " a car two trees on road under sky").split()
    )
    vocabulary = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((f"▁{w}", -1.0) for w in words),
        ("▁", -9.0),
    ]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)
