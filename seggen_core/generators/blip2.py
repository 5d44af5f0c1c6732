"""Captions by BLIP-2 (Li et al. 2023), asked as SegGen asks it: "Question: What are shown in the photo? Answer:"."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seggen_core.errors import CaptionError, ConfigError

if TYPE_CHECKING:
    from seggen_core.synthesis.sample_store import SampleStore

LOCAL_REVISION = "local"
"""Revision of a model loaded from a folder."""


class Blip2Captioner:
    """BLIP-2 through transformers, greedily decoded (the paper names model and question, not the decoding).

    The weights are loaded from safetensors only. On CUDA they are bfloat16, on the CPU float32. Every call of the network has
    exactly `batch_size` rows, so that a caption doesn't depend on how many samples there are.
    """

    name = "blip2"

    def __init__(
        self, model: str, *, revision: str | None, prompt: str, batch_size: int, max_new_tokens: int, device: str
    ) -> None:
        """Load processor and model.

        Args:
            model: a folder, or a hub repository.
            revision: commit of a hub repository.
            prompt: the question.
            batch_size: rows of every call.
            max_new_tokens: longest answer.
            device: "cpu", "cuda", or "auto", which takes CUDA where there is one.

        Raises:
            ConfigError: a hub repository without a revision.
            CaptionError: the model can't be loaded, or its processor leaves no place for the image in the prompt.
        """
        local = Path(model).is_dir()
        if not local and revision is None:
            raise ConfigError(
                f"captions.model is {model!r}, which is no folder; a hub repository needs captions.revision, the commit to take"
            )
        self.revision = revision or LOCAL_REVISION
        self._prompt, self._batch_size, self._max_new_tokens = prompt, batch_size, max_new_tokens

        import torch
        from transformers import Blip2ForConditionalGeneration, Blip2Processor

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device, self._dtype = device, torch.bfloat16 if device == "cuda" else torch.float32
        try:
            # A folder has no revisions: transformers looks at the argument for hub repositories alone.
            self._processor = Blip2Processor.from_pretrained(model, revision=self.revision)
            network: Any = Blip2ForConditionalGeneration.from_pretrained(
                model, revision=self.revision, dtype=self._dtype, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise CaptionError(
                f"BLIP-2 can't be loaded from {model} (revision {self.revision}): {error}\n"
                "expected a transformers folder, or a hub repository that can be reached, with safetensors; "
                "captions.captioner: class_list needs no model"
            ) from error
        # Without image tokens in the prompt, BLIP-2 answers without looking at the image, and doesn't say so.
        tokens, queries = self._processor.num_query_tokens, network.config.num_query_tokens
        if tokens != queries or network.config.image_token_index != self._processor.tokenizer.convert_tokens_to_ids("<image>"):
            raise CaptionError(
                f"{model}: the processor puts {tokens} image tokens into the prompt, the model has {queries} queries and "
                f"image token {network.config.image_token_index}; expected them to agree: take a newer revision of the model"
            )
        self._model = network.to(device).eval()

    def captions(self, store: "SampleStore", *, keys: Sequence[str]) -> Iterator[str]:
        """Yield the model's answers; CaptionError names a sample that gets an empty one."""
        from seggen_core.generators.sampling import padded_chunks

        for chunk, real in padded_chunks(keys, self._batch_size):
            answers = self._answer([store.read_image(key) for key in chunk])[:real]
            for key, answer in zip(chunk, answers, strict=False):
                if not answer:
                    raise CaptionError(
                        f"BLIP-2 has no answer for sample {key}; caption it in a file (captions.path) or change captions.prompt"
                    )
                yield answer

    def _answer(self, images: list) -> list[str]:
        """Return the answers for `images`, uint8 [H, W, 3] RGB each."""
        import torch

        inputs = self._processor(
            images=images, text=[self._prompt] * len(images), return_tensors="pt", input_data_format="channels_last"
        )
        inputs = inputs.to(self._device, self._dtype)
        with torch.inference_mode():
            tokens = self._model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self._max_new_tokens)
        # Spaces and line breaks as one space: a caption is one line of text.
        return [" ".join(text.split()) for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]
