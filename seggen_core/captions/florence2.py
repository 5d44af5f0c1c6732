"""Captions by Florence-2 (Xiao et al. 2024): small (0.2 or 0.8 billion parameters) and more detailed than BLIP."""

from typing import TYPE_CHECKING, Any

from seggen_core.captions.model_captioner import ModelCaptioner
from seggen_core.errors import CaptionError

if TYPE_CHECKING:
    import torch

_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")


class Florence2Captioner(ModelCaptioner):
    """Florence-2 through transformers' own classes; the original repositories need code of their own and aren't loaded."""

    name = "florence2"
    title = "Florence-2"
    default_model = "florence-community/Florence-2-large"
    default_prompt = "<DETAILED_CAPTION>"

    def load(
        self, source: str, *, options: dict[str, Any], dtype: "torch.dtype"
    ) -> tuple[Any, Any]:
        """Load; CaptionError where the prompt is none of the captioning tasks."""
        from transformers import Florence2ForConditionalGeneration, Florence2Processor

        if self.prompt not in _TASKS:
            raise CaptionError(
                f"captions.prompt is {self.prompt!r}; Florence-2 captions with one of {', '.join(_TASKS)}"
            )
        processor = Florence2Processor.from_pretrained(source, **options)
        network: Any = Florence2ForConditionalGeneration.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **options
        )
        return processor, network

    def prepare(self, processor: Any, images: list[Any]) -> Any:
        """Put the task beside every image."""
        return processor(
            images=images,
            text=[self.prompt] * len(images),
            return_tensors="pt",
            input_data_format="channels_last",
        )
