"""The segmentation models by name: how they are built, saved and loaded.

A saved model is a folder with config.json and model.safetensors. Those of Mask2Former
and EoMT are transformers folders, which its ``from_pretrained`` loads; HRNet's holds timm's
parameter names below ``backbone.``. One of detectron2 has its config.yaml beside them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from seggen_core.config import SegmenterConfig
from seggen_core.errors import FoundationError
from seggen_core.project.weights import (
    check_floats,
    check_weights,
    read_headers,
    read_json_object,
    weight_files,
)
from seggen_core.segmentation.segmenter import CONFIG_FILE, Segmenter, segmenter_cure

if TYPE_CHECKING:
    from seggen_core.segmentation.detectron2_segmenter import Detectron2Segmenter
    from seggen_core.segmentation.eomt import EomtSegmenter
    from seggen_core.segmentation.hrnet import HRNetSegmenter
    from seggen_core.segmentation.mask2former import Mask2FormerSegmenter


def _model_class(
    model: str,
) -> (
    "type[HRNetSegmenter] | type[Mask2FormerSegmenter] | type[EomtSegmenter] "
    "| type[Detectron2Segmenter]"
):
    """Return the class of a model; each is imported when it is first used."""
    if model == "hrnet":
        from seggen_core.segmentation.hrnet import HRNetSegmenter

        return HRNetSegmenter
    if model == "eomt":
        from seggen_core.segmentation.eomt import EomtSegmenter

        return EomtSegmenter
    if model == "detectron2":
        from seggen_core.segmentation.detectron2_segmenter import Detectron2Segmenter

        return Detectron2Segmenter
    assert model == "mask2former", model
    from seggen_core.segmentation.mask2former import Mask2FormerSegmenter

    return Mask2FormerSegmenter


def build_segmenter(
    config: SegmenterConfig, *, id2label: Mapping[int, str], base: Path = Path()
) -> Segmenter:
    """Build the model that `config` describes.

    Weights are random (torch's global generator) or pretrained.

    Args:
        config: of the arm (`TrainSegConfig.for_arm`).
        id2label: class names by train id, 0 to num_classes - 1 (`Taxonomy.id2label`).
        base: folder that relative paths to pretrained weights start from.

    Raises:
        ConfigError: the architecture's settings are wrong.
        FoundationError: pretrained weights are missing, aren't safetensors, or don't fit.
    """
    assert sorted(id2label) == list(range(len(id2label))), id2label
    return _model_class(config.model).build(config, id2label=id2label, base=base)


def save_segmenter(segmenter: Segmenter, *, folder: Path) -> None:
    """Create `folder` and write a model to it."""
    folder.mkdir(parents=True, exist_ok=True)
    segmenter.save(folder)


def load_segmenter(folder: Path) -> Segmenter:
    """Load what `save_segmenter` wrote, in evaluation mode.

    Raises:
        FoundationError: `folder` holds no segmenter, or a damaged one.
    """
    cure = segmenter_cure(folder)
    config = read_json_object(folder / CONFIG_FILE, cure=cure)
    models = {
        "mask2former": "mask2former",
        "eomt": "eomt",
        "seggen_hrnet": "hrnet",
        "seggen_detectron2": "detectron2",
    }
    model_type = config.get("model_type")
    if model_type not in models:
        raise FoundationError(
            f"{folder / CONFIG_FILE} has model_type {str(model_type)[:60]!r}; expected "
            f"one of {', '.join(models)}: {cure}"
        )
    part = f"the segmenter in {folder}"
    files = weight_files(folder, name="model", part=part, cure=cure)
    stored = read_headers(files, part=part, cure=cure)
    kind = _model_class(models[model_type])
    try:
        segmenter = kind.load(folder)
    except FoundationError:
        raise
    # A damaged folder: the libraries raise whatever they meet in it.
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise FoundationError(f"{part} can't be loaded: {text}: {cure}") from error
    if models[model_type] == "hrnet":
        check_weights(stored, segmenter.state_dict(), part=part, cure=cure)
    else:  # transformers translates the names in the file, and `load` asks it what was missing
        check_floats(stored, part=part, cure=cure)
    return segmenter.eval()
