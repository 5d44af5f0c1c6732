"""Captions by Florence-2 (Xiao et al. 2024): more detailed than BLIP's.

The models have 0.2 and 0.8 billion parameters.
"""

from seggen_core.captions.model_captioner import ModelCaptioner
from seggen_core.errors import CaptionError

_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")


class Florence2Captioner(ModelCaptioner):
    """Florence-2 through transformers' own classes.

    The original repositories need code of their own and aren't loaded.
    """

    name = "florence2"
    title = "Florence-2"
    default_model = "florence-community/Florence-2-large"
    default_prompt = "<DETAILED_CAPTION>"
    processor_class = "Florence2Processor"
    network_class = "Florence2ForConditionalGeneration"

    def check_prompt(self) -> None:
        """Raise CaptionError where the prompt is none of the captioning tasks."""
        if self.prompt not in _TASKS:
            raise CaptionError(
                f"captions.prompt is {self.prompt!r}; "
                f"Florence-2 captions with one of {', '.join(_TASKS)}"
            )
