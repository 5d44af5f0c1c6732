"""What captioners by a vision-language model share: loading, batches, and answers in order."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from seggen_core.config import RuntimeConfig
from seggen_core.errors import CaptionError, ConfigError
from seggen_core.project.runtime import pick_device
from seggen_core.project.weights import (
    check_floats,
    check_loading,
    read_headers,
    weight_files,
)

if TYPE_CHECKING:
    import torch

    from seggen_core.store.reader import SampleStore

_SAMPLED_BYTES = 1 << 20


class ModelCaptioner:
    """A model of transformers that is shown images and a prompt, greedily decoded.

    Weights are loaded from safetensors only, with transformers' own classes, when the first caption
    is asked for. On CUDA they are bfloat16, on the CPU float32. Every call of the network has
    exactly `batch_size` rows, so that a caption doesn't depend on how many samples there are.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """The model's name in messages."""
    default_model: ClassVar[str]
    default_prompt: ClassVar[str]
    processor_class: ClassVar[str]
    network_class: ClassVar[str]
    """Names of classes in transformers."""

    def __init__(
        self,
        model: str,
        *,
        revision: str | None,
        prompt: str,
        batch_size: int,
        max_new_tokens: int,
        device: Literal["auto", "cpu", "cuda"],
    ) -> None:
        """Say what to load.

        Args:
            model: a folder, or a hub repository.
            revision: commit of a hub repository.
            prompt: what the model is asked.
            batch_size: rows of every call.
            max_new_tokens: longest answer.
            device: "cpu", "cuda", or "auto", which takes CUDA where there is one.

        Raises:
            ConfigError: a hub repository without a revision.
        """
        folder = Path(model)
        if not folder.is_dir() and revision is None:
            raise ConfigError(
                f"captions.model is {model!r}, which is no folder; a hub repository needs "
                "captions.revision, the commit to take"
            )
        self.model, self.prompt, self.max_new_tokens = model, prompt, max_new_tokens
        self.revision = _folder_fingerprint(folder) if folder.is_dir() else str(revision)
        self.batch_size, self._device = batch_size, device

    def check_prompt(self) -> None:
        """Raise CaptionError where the model can't be asked the prompt; any will do here."""

    def check_loaded(self, processor: Any, network: Any) -> None:
        """Raise CaptionError where processor and network don't fit; all do here."""

    @cached_property
    def _loaded(self) -> tuple[Any, Any, str, "torch.dtype"]:
        """Processor, network, device and precision; CaptionError where they can't be had."""
        import torch

        device = pick_device(RuntimeConfig(device=self._device)).type
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        # A folder has no revisions.
        options = {} if Path(self.model).is_dir() else {"revision": self.revision}
        self.check_prompt()
        try:
            processor, network = self._load(options, dtype=dtype)
        # The user's files: transformers and tokenizers raise whatever they meet in them.
        except Exception as error:
            raise CaptionError(
                f"{self.title} can't be loaded from {self.model} (revision {self.revision}): "
                f"{error}\nexpected a transformers folder, or a hub repository that can be "
                "reached, with safetensors; captions.captioner: class_list needs no model"
            ) from error
        self.check_loaded(processor, network)
        return processor, network.to(device).eval(), device, dtype

    def _load(self, options: dict[str, Any], *, dtype: "torch.dtype") -> tuple[Any, Any]:
        import transformers

        processor = getattr(transformers, self.processor_class).from_pretrained(
            self.model, **options
        )
        network, loading = getattr(transformers, self.network_class).from_pretrained(
            self.model, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        part, cure = f"{self.title} in {self.model}", "copy or download the folder again"
        check_loading(loading, part=part, cure=cure)
        if Path(self.model).is_dir():
            files = weight_files(Path(self.model), name="model", part=part, cure=cure)
            check_floats(read_headers(files, part=part, cure=cure), part=part, cure=cure)
        return processor, network

    def captions(self, store: "SampleStore", *, keys: Sequence[str]) -> Iterator[str]:
        """Yield the model's answers; CaptionError names a sample that gets an empty one."""
        from seggen_core.project.chunks import padded_chunks

        for chunk, real in padded_chunks(keys, self.batch_size):
            answers = self._answer([store.read_image(key) for key in chunk])[:real]
            for key, answer in zip(chunk, answers, strict=False):
                if not answer:
                    raise CaptionError(
                        f"{self.title} has no answer for sample {key}; caption the samples in a "
                        "file (captions.captioner: file) or change captions.prompt"
                    )
                yield answer

    def _answer(self, images: list[Any]) -> list[str]:
        import torch

        processor, network, device, dtype = self._loaded
        inputs = processor(
            images=images,
            text=[self.prompt] * len(images),
            return_tensors="pt",
            input_data_format="channels_last",
        ).to(device, dtype)
        with torch.inference_mode():
            tokens = network.generate(
                **inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens
            )
        # Spaces and line breaks as one space: a caption is one line of text.
        answers = processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in answers]


def _folder_fingerprint(folder: Path) -> str:
    """Return "local-" and a hash over names, sizes, beginnings and ends of the files.

    Hashing all of tens of gigabytes would take minutes.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLED_BYTES))
            file.seek(max(0, size - _SAMPLED_BYTES))
            digest.update(file.read(_SAMPLED_BYTES))
    return f"local-{digest.hexdigest()[:12]}"
