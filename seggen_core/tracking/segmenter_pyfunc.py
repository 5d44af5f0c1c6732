"""The code of the models in MLflow's registry: a segmenter without seggen.

MLflow copies this file into each logged model and runs the copy when the model is loaded ("models
from code"). So the file imports nothing of seggen and unpickles nothing: it builds the network from
config.json and reads model.safetensors. Its networks are those of `seggen_core.segmentation`; a
test compares their predictions.

    model = mlflow.pyfunc.load_model("models:/seggen-scenes@best")
    ids = model.predict(images)  # uint8 [B, H, W, 3] to uint8 [B, H, W]
    classes = model.unwrap_python_model().classes  # [{"train_id": 0, "name": "sky", ...}, ...]
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

BATCH_SIZE = 8
"""Images of one call of the network."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DIVISOR = 32
"""Mask2Former sees images padded to a multiple of this."""
_STEM_STRIDES = {1: (1, 1), 2: (2, 1), 4: (2, 2)}


class SegmenterModel(PythonModel):
    """Predicts the class of each pixel.

    Attributes:
        classes: rows with train_id, name and is_thing.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read the network and the classes from the model's artifacts."""
        folder = Path(context.artifacts["segmenter"])
        self.classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config["model_type"] == "mask2former":
            self._scores = _load_mask2former(folder)
        else:
            self._scores = _load_hrnet(folder, config=config)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 (MLflow's signature)
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> np.ndarray:
        """Return the train id of each pixel: uint8 [B, H, W].

        Args:
            context: not used.
            model_input: RGB images, uint8 [B, H, W, 3].
            params: not used.
        """
        import torch

        predicted = []
        with torch.inference_mode():
            for start in range(0, len(model_input), BATCH_SIZE):
                batch = torch.from_numpy(model_input[start : start + BATCH_SIZE])
                images = batch.permute(0, 3, 1, 2).float() / 255
                mean, std = (images.new_tensor(v)[None, :, None, None] for v in (_MEAN, _STD))
                scores = self._scores((images - mean) / std)
                predicted.append(scores.argmax(1).to(torch.uint8).numpy())
        return np.concatenate(predicted)


def _load_mask2former(folder: Path) -> Any:
    """Return a function from normalised images to scores, both float32 [B, C, H, W]."""
    from torch import einsum
    from torch.nn import functional as F
    from transformers import Mask2FormerForUniversalSegmentation

    network = Mask2FormerForUniversalSegmentation.from_pretrained(
        folder, use_safetensors=True, local_files_only=True
    ).eval()

    def scores(images: Any) -> Any:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % _DIVISOR, 0, -height % _DIVISOR))
        output = network(pixel_values=padded)
        masks = F.interpolate(
            output.masks_queries_logits,
            size=tuple(padded.shape[-2:]),
            mode="bilinear",
            align_corners=False,
        ).sigmoid()
        classes = output.class_queries_logits.softmax(-1)[..., :-1]
        return einsum("bqc,bqhw->bchw", classes, masks)[..., :height, :width]

    return scores


def _load_hrnet(folder: Path, *, config: dict[str, Any]) -> Any:
    """Return a function from normalised images to logits, both float32 [B, C, H, W]."""
    import timm
    import torch
    from safetensors.torch import load_file
    from torch import nn
    from torch.nn import functional as F

    backbone = timm.create_model(
        config["backbone"],
        pretrained=False,
        features_only=True,
        feature_location="",
        out_indices=(1, 2, 3, 4),
        **config["backbone_kwargs"],
    )
    first, second = _STEM_STRIDES[config["stem_stride"]]
    backbone.conv1.stride, backbone.conv2.stride = (first, first), (second, second)
    width = config["head_width"]
    projections = nn.ModuleList(
        nn.Conv2d(channels, width, 1, bias=False) for channels in backbone.feature_info.channels()
    )
    network = nn.ModuleDict(
        {
            "backbone": backbone,
            "projections": projections,
            "norm": nn.BatchNorm2d(width),
            "classifier": nn.Conv2d(width, len(config["id2label"]), 1),
        }
    )
    network.load_state_dict(load_file(folder / "model.safetensors"))
    network.eval().to(memory_format=torch.channels_last)
    multiple = 8 * config["stem_stride"]

    def scores(images: Any) -> Any:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % multiple, 0, -height % multiple)).contiguous(
            memory_format=torch.channels_last
        )
        inner: list[Any] = network["backbone"](padded)
        branches = [projections[k](branch) for k, branch in enumerate(inner)]
        fused = branches[0]
        for branch in branches[1:]:
            fused = fused + F.interpolate(
                branch, size=fused.shape[-2:], mode="bilinear", align_corners=False
            )
        logits = network["classifier"](F.relu(network["norm"](fused)))
        logits = F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
        return logits[:, :, :height, :width]

    return scores


set_model(SegmenterModel())
