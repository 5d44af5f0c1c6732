"""Captions by BLIP (Li et al. 2022): a twentieth of BLIP-2's size, and it only goes on from the prompt."""

from typing import TYPE_CHECKING, Any

from seggen_core.captions.model_captioner import ModelCaptioner

if TYPE_CHECKING:
    import torch


class BlipCaptioner(ModelCaptioner):
    """BLIP through transformers; a caption begins with the prompt."""

    name = "blip"
    title = "BLIP"
    default_model = "Salesforce/blip-image-captioning-large"
    default_prompt = "a photo of"

    def load(
        self, source: str, *, options: dict[str, Any], dtype: "torch.dtype"
    ) -> tuple[Any, Any]:
        """Load."""
        from transformers import BlipForConditionalGeneration, BlipProcessor

        processor = BlipProcessor.from_pretrained(source, **options)
        network: Any = BlipForConditionalGeneration.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **options
        )
        return processor, network

    def prepare(self, processor: Any, images: list[Any]) -> Any:
        """Put the beginning of the caption beside every image."""
        return processor(
            images=images,
            text=[self.prompt] * len(images),
            return_tensors="pt",
            input_data_format="channels_last",
        )
