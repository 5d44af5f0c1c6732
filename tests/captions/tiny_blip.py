"""A real BLIP with random weights.

It has a ViT and a BERT of one layer, 16 wide, and a small word-piece tokenizer.
"""

from pathlib import Path


def save_blip(folder: Path) -> Path:
    """Save model and processor as safetensors in `folder`, which is returned."""
    import torch
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "[DEC]",
        *"a photo of car two trees on road under sky".split(),  # noqa: SIM905
    ]
    tokenizer = BertTokenizer(vocab={w: i for i, w in enumerate(words)})
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    processor = BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer)
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "initializer_range": 0.5,
    }
    ids = {"bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    config = BlipConfig(
        text_config={
            **small,
            "vocab_size": len(tokenizer),
            "encoder_hidden_size": 16,
            "max_position_embeddings": 32,
            **ids,
        },
        vision_config={**small, "image_size": 16, "patch_size": 8},
    )
    torch.manual_seed(1)
    model = BlipForConditionalGeneration(config)
    model.generation_config.suppress_tokens = list(range(6))  # it would say little else
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
