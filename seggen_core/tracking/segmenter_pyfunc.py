"""The code of the models in MLflow's registry: a segmenter without seggen.

MLflow copies this file into each logged model and runs the copy when the model is loaded ("models
from code"), with `seggen_core/segmentation/query_inference.py` beside it. So the file imports
nothing of seggen and unpickles nothing: it builds the network from config.json and reads
model.safetensors. Its networks are those of `seggen_core.segmentation`; a test compares their
predictions.

    model = mlflow.pyfunc.load_model("models:/seggen-scenes@best")
    ids = model.predict(images)  # uint8 [B, H, W, 3] to uint8 [B, H, W]
    classes = model.unwrap_python_model().classes  # [{"train_id": 0, "name": "sky", ...}, ...]

What `predict` returns depends on the task of the model (`SegmenterModel.predict`).
"""

import json
from importlib import import_module
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


_VOID = 255 << 16
"""Segment id of pixels that belong to no segment."""


class SegmenterModel(PythonModel):
    """Predicts the class of each pixel, segments or instances.

    Attributes:
        classes: rows with train_id, name and is_thing.
        task: "semantic", "panoptic" or "instance".
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read the network and the classes from the model's artifacts."""
        folder = Path(context.artifacts["segmenter"])
        self.classes = _read(folder / "classes.json")
        config = _read(folder / "config.json")
        about = _read(folder / "task.json") if (folder / "task.json").is_file() else {}
        self.task, self._limits = about.get("task", "semantic"), about.get("postprocess", {})
        self._things = np.array([row["is_thing"] for row in about.get("classes", self.classes)])
        self._queries = self._scores = self._outputs = None
        if config["model_type"] == "seggen_detectron2":
            self.task = config["task"]
            self._outputs = _load_detectron2(folder)
        elif config["model_type"] in _QUERIES:
            self._queries = _QUERIES[config["model_type"]](folder)
        else:
            self._scores = _load_hrnet(folder, config=config)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 (MLflow's signature)
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> Any:
        """Predict images.

        Args:
            context: not used.
            model_input: RGB images, uint8 [B, H, W, 3].
            params: not used.

        Returns:
            "semantic": train ids, uint8 [B, H, W].
            "panoptic": segment ids, int32 [B, H, W]: train id * 65536 + number of the thing in its
            image, 0 for stuff. The train id is 255 where there is no segment.
            "instance": a pandas table with a row for each instance: image (its place in the
            batch), train_id, score, height, width, and counts, COCO's run lengths of the mask
            (`pycocotools.mask.decode({"size": [height, width], "counts": counts})`).
        """
        import torch

        predicted = []
        with torch.inference_mode():
            for start in range(0, len(model_input), BATCH_SIZE):
                batch = torch.from_numpy(model_input[start : start + BATCH_SIZE])
                predicted += self._predict(batch.permute(0, 3, 1, 2).float() / 255)
        if self.task == "instance":
            return _table(predicted)
        return np.stack(predicted)

    def _predict(self, images: Any) -> list[Any]:
        """Return what is predicted of images in [0, 1], float32 [B, 3, H, W], one by one."""
        import torch

        if self._scores is not None:
            scores = self._scores(_normalized(images))
            return list(scores.argmax(1).to(torch.uint8).numpy())
        if self._outputs is not None:
            return [_DETECTRON2[self.task](output) for output in self._outputs(images)]
        assert self._queries is not None
        classes, masks = self._queries(images)
        if self.task == "semantic":
            weights = classes.softmax(-1)[..., :-1]
            scores = torch.einsum("bqc,bqhw->bchw", weights, masks.sigmoid())
            return list(scores.argmax(1).to(torch.uint8).numpy())
        # Beside this file in a logged model (MLflow's `code_paths`).
        inference = import_module("query_inference")
        limits, predicted = self._limits, []
        for one, query_masks in zip(classes, masks, strict=True):
            shared = {"masks": query_masks, "things": self._things}
            if self.task == "instance":
                num_instances = limits["num_instances"]
                predicted.append(
                    inference.best_instances(one, **shared, num_instances=num_instances)
                )
                continue
            ids, numbers = inference.panoptic_maps(
                one,
                **shared,
                object_mask_threshold=limits["object_mask_threshold"],
                overlap_threshold=limits["overlap_threshold"],
            )
            segments = ids.astype(np.int32) << 16 | numbers
            predicted.append(np.where(segments >> 16 == 255, np.int32(_VOID), segments))
        return predicted


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _normalized(images: Any) -> Any:
    mean, std = (images.new_tensor(v)[None, :, None, None] for v in (_MEAN, _STD))
    return (images - mean) / std


def _table(predicted: list[Any]) -> Any:
    """Return the instances of images as a pandas table."""
    import pandas as pd
    from pycocotools import mask as coco_mask

    columns = ["image", "train_id", "score", "height", "width", "counts"]
    rows = []
    for image, (masks, train_ids, scores) in enumerate(predicted):
        for mask, train_id, score in zip(masks, train_ids, scores, strict=True):
            runs = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii")
            rows.append((image, int(train_id), float(score), *mask.shape, runs))
    return pd.DataFrame(rows, columns=columns)


def _load_mask2former(folder: Path) -> Any:
    """Return a function from images in [0, 1] to logits of classes and masks."""
    from torch.nn import functional as F
    from transformers import Mask2FormerForUniversalSegmentation

    network = Mask2FormerForUniversalSegmentation.from_pretrained(
        folder, use_safetensors=True, local_files_only=True
    ).eval()

    def queries(images: Any) -> Any:
        height, width = images.shape[-2:]
        beside = (0, -width % _DIVISOR, 0, -height % _DIVISOR)
        padded = F.pad(_normalized(images), beside)
        output = network(pixel_values=padded)
        masks = _resized(output.masks_queries_logits, tuple(padded.shape[-2:]))
        return output.class_queries_logits, masks[..., :height, :width]

    return queries


def _load_eomt(folder: Path) -> Any:
    """Return a function from images in [0, 1] to logits of classes and masks."""
    from torch.nn import functional as F
    from transformers import EomtForUniversalSegmentation

    network = EomtForUniversalSegmentation.from_pretrained(
        folder, use_safetensors=True, local_files_only=True
    ).eval()
    side: Any = network.config.image_size

    def queries(images: Any) -> Any:
        size = tuple(images.shape[-2:])
        scale = side / max(size)
        height, width = (max(1, round(length * scale)) for length in size)
        if size != (height, width):
            images = F.interpolate(
                images,
                size=(height, width),
                mode="bilinear",
                align_corners=False,
                antialias=scale < 1,
            )
        padded = F.pad(images, (0, side - width, 0, side - height), value=0.5)
        output = network(pixel_values=_normalized(padded))
        masks = _resized(output.masks_queries_logits, (side, side))
        return output.class_queries_logits, _resized(masks[..., :height, :width], size)

    return queries


_QUERIES = {"mask2former": _load_mask2former, "eomt": _load_eomt}


def _load_detectron2(folder: Path) -> Any:
    """Return a function from images in [0, 1] to what a model of detectron2 gives of each."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from safetensors.torch import load_file

    config = get_cfg()
    config.merge_from_file(str(folder / "config.yaml"), allow_unsafe=False)
    config.MODEL.DEVICE = "cpu"
    network = build_model(config)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    network.eval()

    def outputs(images: Any) -> Any:
        pictures = images * 255
        if config.INPUT.FORMAT == "BGR":
            pictures = pictures.flip(1)
        height, width = images.shape[-2:]
        return network([{"image": p, "height": height, "width": width} for p in pictures])

    return outputs


def _detectron2_classes(output: Any) -> np.ndarray:
    """Return train ids, uint8 [H, W]."""
    ids: np.ndarray = output["sem_seg"].argmax(0).numpy().astype(np.uint8)
    return ids


def _detectron2_segments(output: Any) -> np.ndarray:
    """Return segment ids, int32 [H, W]; stuff has its train id plus 1 in detectron2."""
    numbers, infos = output["panoptic_seg"]
    codes = np.full(int(numbers.max()) + 1, _VOID, np.int32)
    for info in infos:
        train_id = info["category_id"] - (not info["isthing"])
        codes[info["id"]] = train_id << 16 | (info["id"] if info["isthing"] else 0)
    return codes[numbers.numpy()]


def _detectron2_instances(output: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return masks, train ids and scores."""
    instances = output["instances"]
    masks, train_ids, scores = (
        field.numpy() for field in (instances.pred_masks, instances.pred_classes, instances.scores)
    )
    return masks.astype(bool), train_ids, scores


_DETECTRON2 = {
    "semantic": _detectron2_classes,
    "panoptic": _detectron2_segments,
    "instance": _detectron2_instances,
}


def _resized(masks: Any, size: tuple[int, ...]) -> Any:
    """Return mask logits [B, Q, h, w] at another size, bilinear."""
    from torch.nn import functional as F

    if tuple(masks.shape[-2:]) == size:
        return masks
    return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)


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
