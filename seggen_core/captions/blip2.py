"""Captions by BLIP-2 (Li et al. 2023), asked as SegGen asks it.

The question is "Question: What are shown in the photo? Answer:".
"""

from typing import Any

from seggen_core.captions.model_captioner import ModelCaptioner
from seggen_core.errors import CaptionError


class Blip2Captioner(ModelCaptioner):
    """BLIP-2 through transformers (the paper names model and question, not the decoding)."""

    name = "blip2"
    title = "BLIP-2"
    default_model = "Salesforce/blip2-flan-t5-xxl"
    default_prompt = "Question: What are shown in the photo? Answer:"
    processor_class = "Blip2Processor"
    network_class = "Blip2ForConditionalGeneration"

    def check_loaded(self, processor: Any, network: Any) -> None:
        """Raise CaptionError where the processor leaves no place for the image in the prompt.

        Without image tokens in the prompt, BLIP-2 answers without looking at the image, and doesn't
        say so.
        """
        tokens, queries = processor.num_query_tokens, network.config.num_query_tokens
        image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
        if tokens != queries or network.config.image_token_index != image_token:
            raise CaptionError(
                f"{self.model}: the processor puts {tokens} image tokens into the prompt, the "
                f"model has {queries} queries and image token {network.config.image_token_index}; "
                "expected them to agree: take a newer revision of the model"
            )
