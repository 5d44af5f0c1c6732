"""Captions by BLIP-2 (Li et al. 2023), asked as SegGen asks it: "Question: What are shown in the photo? Answer:"."""

from typing import TYPE_CHECKING, Any

from seggen_core.captions.model_captioner import ModelCaptioner
from seggen_core.errors import CaptionError

if TYPE_CHECKING:
    import torch


class Blip2Captioner(ModelCaptioner):
    """BLIP-2 through transformers (the paper names model and question, not the decoding)."""

    name = "blip2"
    title = "BLIP-2"
    default_model = "Salesforce/blip2-flan-t5-xxl"
    default_prompt = "Question: What are shown in the photo? Answer:"

    def load(
        self, source: str, *, options: dict[str, Any], dtype: "torch.dtype"
    ) -> tuple[Any, Any]:
        """Load; CaptionError where the processor leaves no place for the image in the prompt."""
        from transformers import Blip2ForConditionalGeneration, Blip2Processor

        processor = Blip2Processor.from_pretrained(source, **options)
        network: Any = Blip2ForConditionalGeneration.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **options
        )
        # Without image tokens in the prompt, BLIP-2 answers without looking at the image, and
        # doesn't say so.
        tokens, queries = processor.num_query_tokens, network.config.num_query_tokens
        if (
            tokens != queries
            or network.config.image_token_index
            != processor.tokenizer.convert_tokens_to_ids("<image>")
        ):
            raise CaptionError(
                f"{source}: the processor puts {tokens} image tokens into the prompt, the model has {queries} queries and "
                f"image token {network.config.image_token_index}; expected them to agree: take a newer revision of the model"
            )
        return processor, network

    def prepare(self, processor: Any, images: list[Any]) -> Any:
        """Put the question beside every image."""
        return processor(
            images=images,
            text=[self.prompt] * len(images),
            return_tensors="pt",
            input_data_format="channels_last",
        )
