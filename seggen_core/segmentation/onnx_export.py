"""A trained segmenter as one ONNX file, which onnxruntime and others run without torch.

    images   float32 [1, 3, H, W], RGB in [0, 1]
    scores   float32 [1, C, H, W]; the argmax over C is the class

Normalisation and padding are inside of the file. H and W are those of the export: networks that
attend to windows or to whole images have no other.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from seggen_core.errors import ConfigError, FoundationError
from seggen_core.project.storage import written_whole
from seggen_core.segmentation.segmenter import Segmenter

INPUT, OUTPUT = "images", "scores"
_LARGEST_DIFFERENCE = 1e-2
"""Of scores, relative to the largest, between the file and the segmenter."""


class _Scores(nn.Module):
    """The part of a segmenter that is exported."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.segmenter.predict_logits(images)


def export_onnx(segmenter: Segmenter, out: Path, *, size: tuple[int, int]) -> float:
    """Write an ONNX file and compare it with the segmenter, if onnxruntime is installed.

    The file's metadata has the classes: "id2label", as JSON.

    Args:
        segmenter: in evaluation mode, on the CPU.
        out: the file.
        size: (H, W) of the images.

    Returns:
        The largest difference of a score from the segmenter's, relative to the largest score; NaN
        if nothing compared them.

    Raises:
        ConfigError: onnx and onnxscript aren't installed.
        FoundationError: torch can't export the network, or the file computes something else.
        StorageError: the file can't be written.
    """
    _check_packages()
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with tqdm(total=4, desc="export", unit="step", disable=None) as bar:
        with torch.inference_mode():
            expected = segmenter.predict_logits(images).numpy()
        bar.update()
        program = _trace(segmenter, images)
        bar.update()
        labels = {str(k): v for k, v in segmenter.id2label.items()}
        program.model.metadata_props["id2label"] = json.dumps(labels)
        with written_whole(out) as file:
            program.save(str(file), external_data=False)
        bar.update()
        difference = _difference(out, images.numpy(), expected)
        bar.update()
    if difference > _LARGEST_DIFFERENCE:
        raise FoundationError(
            f"{out} differs from the segmenter by {difference:.2g} of the largest score; don't use "
            "it, and report it with the versions of torch and onnxruntime"
        )
    return difference


def _trace(segmenter: Segmenter, images: torch.Tensor) -> Any:
    """Return torch's ONNX program of a segmenter, which is changed for it."""
    _simplify(segmenter)
    try:
        with _quiet():
            return torch.onnx.export(
                _Scores(segmenter).eval(),
                (images,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamo=True,
                verbose=False,
            )
    # torch raises whatever it meets in a network that it can't trace.
    except Exception as error:
        text = " ".join(str(error.__cause__ or error).split())[:300]
        raise FoundationError(
            f"torch can't export this {type(segmenter).__name__} to ONNX: {text}; seggen predict "
            "and the folder itself work without it"
        ) from error


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{error.name} isn't installed, which the export to ONNX needs; run: pip install onnx "
            "onnxscript onnxruntime"
        ) from None


def _simplify(segmenter: Segmenter) -> None:
    """Let transformers' networks compute in a way that torch can export."""
    network: Any = getattr(segmenter, "network", None)
    if network is None:
        return
    network.set_attn_implementation("eager")
    if "attn_mask_probs" in dict(network.named_buffers()):
        # EoMT asks these numbers which way to go. A trained network has zeros; numbers of Python
        # instead of tensors are known when the network is traced.
        num_layers = len(network.attn_mask_probs)
        del network.attn_mask_probs
        network.attn_mask_probs = [0.0] * num_layers


def _difference(file: Path, images: np.ndarray, expected: np.ndarray) -> float:
    try:
        import onnxruntime
    except ImportError:
        return float("nan")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {INPUT: images})
    return float(np.abs(scores - expected).max() / max(np.abs(expected).max(), 1e-12))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: it reports its steps and warns of what it doesn't use."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
