"""A real Florence-2 with random weights.

It has a DaViT of four single blocks, a BART of one layer, 16 wide, and a word tokenizer.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Florence2Processor


def save_florence2(folder: Path) -> Path:
    """Save model and processor as safetensors in `folder`, which is returned."""
    import torch
    from transformers import Florence2Config, Florence2ForConditionalGeneration

    processor = _processor()
    config = Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(processor.tokenizer),
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "max_position_embeddings": 64,
            "init_std": 0.5,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
        },
        vision_config={
            "depths": [1, 1, 1, 1],
            "embed_dim": [8, 8, 16, 16],
            "num_heads": [1, 1, 2, 2],
            "num_groups": [1, 1, 2, 2],
            "window_size": 4,
            "projection_dim": 16,
            "initializer_range": 0.5,
        },
        image_token_id=4,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    torch.manual_seed(0)
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.suppress_tokens = [0, 1, 3, 4]  # it would say little else
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _processor() -> "Florence2Processor":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import CLIPImageProcessor, Florence2Processor, PreTrainedTokenizerFast

    said = "Describe in detail what is shown the image. a car and road under sky"
    words = ["<s>", "<pad>", "</s>", "<unk>", "<image>", *said.split()]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    images = CLIPImageProcessor(
        size={"height": 64, "width": 64}, do_center_crop=False, image_seq_length=5
    )
    images.image_seq_length = 5
    return Florence2Processor(images, tokenizer)
