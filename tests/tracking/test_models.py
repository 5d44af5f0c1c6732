"""Models of MLflow's registry predict what seggen predicts, for each task and kind of network."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow.models import Model as MlflowModel
from PIL import Image
from pycocotools import mask as coco_mask

from seggen_core.config import PostprocessConfig, SegmenterConfig, Task
from seggen_core.segmentation.model_task import ModelTask
from seggen_core.segmentation.models import build_segmenter, save_segmenter
from seggen_core.segmentation.predict import AS_STORED, predict_maps
from seggen_core.segmentation.predict_segments import predict_sample
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import mlflow_registry
from seggen_core.tracking.log import Model
from tests.segmentation.tiny import (
    FPN,
    RCNN,
    TINY_EOMT,
    TINY_FPN,
    TINY_MASK2FORMER,
    TINY_RCNN,
)

TAXONOMY = Taxonomy.from_names(stuff=["sky", "grass"], things=["car", "bus"])
ARCHITECTURES: dict[str, dict[str, Any]] = {"eomt": TINY_EOMT, "mask2former": TINY_MASK2FORMER}
EVERY_QUERY = PostprocessConfig(object_mask_threshold=0.0, overlap_threshold=0.0, num_instances=6)


DETECTRON2: dict[Task, dict[str, Any]] = {
    "semantic": {"options": TINY_FPN},
    "panoptic": {"options": TINY_RCNN, "config": FPN, "task": "panoptic"},
    "instance": {"options": TINY_RCNN, "config": RCNN, "task": "instance"},
}


def logged(architecture: str, task: Task, *, folder: Path) -> tuple[Any, Any]:
    """Save a segmenter as MLflow does; return it, and the model that MLflow loads."""
    torch.manual_seed(1)
    config = SegmenterConfig.model_validate(
        {"model": architecture}
        | (
            {"architecture": ARCHITECTURES[architecture]}
            if architecture in ARCHITECTURES
            else DETECTRON2[task]
        )
    )
    segmenter = build_segmenter(config, id2label=TAXONOMY.id2label).eval()
    files = folder / "files"
    save_segmenter(segmenter, folder=files)
    (files / "classes.json").write_text(json.dumps(TAXONOMY.to_json()))
    if task != "semantic":
        ModelTask(task, TAXONOMY, EVERY_QUERY).write(files)
    Image.new("RGB", (8, 8)).save(files / "example.png")
    (folder / "work").mkdir()
    tree = {"name": "tiny", "architecture": architecture, "files": {}, "tags": {"task": task}}
    model = Model.model_validate(tree).model_copy(
        update={"files": {file.name: file.name for file in files.iterdir()}}
    )
    saved = folder / "saved"
    options = {"folder": files, "work": folder / "work", "saved": saved}
    mlflow_registry._save(model, MlflowModel(), **options)
    return segmenter, mlflow.pyfunc.load_model(str(saved))


@pytest.mark.parametrize(
    "architecture",
    [
        *ARCHITECTURES,
        pytest.param(
            "detectron2",
            marks=pytest.mark.skipif(
                find_spec("detectron2") is None,
                reason="detectron2 isn't on the package index: docs/detectron2.md installs it",
            ),
        ),
    ],
)
@pytest.mark.parametrize("task", ["semantic", "panoptic", "instance"])
def test_a_logged_model_predicts_what_evaluation_predicts(
    architecture: str, task: Task, tmp_path: Path
) -> None:
    segmenter, model = logged(architecture, task, folder=tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 28, 3), dtype=np.uint8)
    predicted = model.predict(images)
    assert model.unwrap_python_model().classes == TAXONOMY.to_json()
    if task == "semantic":
        np.testing.assert_array_equal(predicted, predict_maps(segmenter, images=images))
        return
    how = ModelTask(task, TAXONOMY, EVERY_QUERY).segment_task(AS_STORED)
    evaluated = [predict_sample(segmenter, image=image, task=how) for image in images]
    if task == "panoptic":
        assert predicted.dtype == np.int32
        for ids, one in zip(predicted, evaluated, strict=True):
            np.testing.assert_array_equal(ids, one["panoptic"].segment_ids())
        return
    for place, one in enumerate(evaluated):
        rows = predicted[predicted["image"] == place]
        instances = one["instances"]
        assert rows["train_id"].tolist() == instances.class_ids.tolist()
        assert rows["score"].tolist() == pytest.approx(instances.scores.tolist())
        for row, mask in zip(rows.itertuples(), instances.masks, strict=True):
            runs = {"size": [row.height, row.width], "counts": row.counts}
            np.testing.assert_array_equal(coco_mask.decode(runs), mask)
    assert "pycocotools" in (tmp_path / "saved" / "requirements.txt").read_text()


def test_a_model_of_detectron2_names_its_repository_at_the_commit_that_seggen_installs() -> None:
    listed = mlflow_registry.requirements("detectron2", task="instance")
    library = Path(mlflow_registry.__file__).parents[1] / "segmentation/detectron2_library.py"
    commit = mlflow_registry.DETECTRON2.rpartition("@")[2]
    assert listed[-1] == mlflow_registry.DETECTRON2
    assert f'COMMIT = "{commit}"' in library.read_text()
