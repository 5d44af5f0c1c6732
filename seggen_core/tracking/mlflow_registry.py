"""Logs segmenters as models of MLflow and registers them. Beside `mlflow_store`, it imports mlflow.

A logged model has the copied code of `segmenter_pyfunc`, safetensors weights, a signature, an
example and the exact versions of the packages that it needs. It holds no pickle.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import mlflow.pyfunc
import numpy as np
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model as MlflowModel
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema, TensorSpec
from PIL import Image

from seggen_core.tracking.log import Model

CODE = Path(__file__).with_name("segmenter_pyfunc.py")
"""The code that each logged model gets a copy of."""

SHARED_CODE = Path(__file__).parents[1] / "segmentation" / "query_inference.py"
"""What that code and seggen share; it lies beside it in a logged model."""

REQUIREMENTS = {
    "detectron2": ("mlflow", "numpy", "safetensors", "torch"),
    "eomt": ("mlflow", "numpy", "safetensors", "torch", "transformers"),
    "hrnet": ("mlflow", "numpy", "safetensors", "timm", "torch"),
    "mask2former": ("mlflow", "numpy", "safetensors", "scipy", "torch", "transformers"),
}
"""Packages that a model of each architecture needs, with the packages that these need."""

DETECTRON2 = (
    "detectron2 @ git+https://github.com/facebookresearch/detectron2"
    "@02b5c4e295e990042a714712c21dc79b731e8833"
)
"""It isn't on the package index; the commit is that of docs/detectron2.md."""

_OF_INSTANCES = ("pandas", "pycocotools")
"""Further packages that a model of the task "instance" needs."""

BEST, ARM = "best", "arm-"
"""The alias of the best arm's model, and the beginning of the alias of each arm's model."""

_EXAMPLE_SIDE = 64
"""Side of the example; MLflow stores it as numbers in JSON."""

_DESCRIPTION = """\
Segmenters of the ablation arms: each version is the seed of an arm with the highest validation
score (mIoU, PQ or AP, by the task). `@best` is the arm with the highest mean of it over its seeds,
and `@arm-<name>` the newest version of an arm.

```python
model = mlflow.pyfunc.load_model("models:/{name}@best")
predicted = model.predict(images)  # uint8 [B, H, W, 3]
classes = model.unwrap_python_model().classes
```

{returns}
"""

_RETURNS = {
    "semantic": "`predicted` are train ids, uint8 [B, H, W].",
    "panoptic": "`predicted` are segment ids, int32 [B, H, W]: train id * 65536 + number of the "
    "thing; the train id is 255 where there is no segment.",
    "instance": "`predicted` is a table of instances: image, train_id, score, height, width and "
    "counts (COCO's run lengths).",
}


class ModelRegistry:
    """The registered models of a store."""

    def __init__(self, client: MlflowClient, *, uri: str) -> None:
        """Use the store of `client`, at `uri`."""
        self._client, self._uri = client, uri

    def find(self, name: str, *, run_id: str) -> str | None:
        """Return the version of the model that a run registered."""
        versions = self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        return next((str(v.version) for v in versions), None)

    def log(self, run_id: str, model: Model, *, folder: Path) -> str:
        """Log a run's segmenter as a model of the run, unless it has one; return its id.

        Args:
            run_id: the run of the arm.
            model: the segmenter.
            folder: holds the copies that `model` names.
        """
        run = self._client.get_run(run_id)
        if run.outputs is not None and run.outputs.model_outputs:
            return str(run.outputs.model_outputs[0].model_id)
        logged = self._client.create_logged_model(
            run.info.experiment_id,
            name=model.tags.get("arm", model.name),
            source_run_id=run_id,
            tags=model.tags,
            params={"architecture": model.architecture, "seed": model.tags.get("seed", "")},
            model_type="segmenter",
        )
        with TemporaryDirectory() as work:
            saved = Path(work, "model")
            description = MlflowModel(run_id=run_id, model_id=logged.model_id)
            _save(model, description, folder=folder, work=Path(work), saved=saved)
            self._client.log_model_artifacts(logged.model_id, str(saved))
        self._client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        return str(logged.model_id)

    def register(
        self, run_id: str, model: Model, *, model_id: str, experiment: str | None, description: str
    ) -> str:
        """Register a logged model as a new version; return the version.

        Args:
            run_id: the run of the arm.
            model: the segmenter.
            model_id: what `log` returned.
            experiment: DVC's name of the experiment that made it. Such a version gets no alias.
            description: of the version.
        """
        with suppress(MlflowException):  # it is there already
            self._client.create_registered_model(
                model.name,
                description=_DESCRIPTION.format(name=model.name, returns=_RETURNS[_task(model)]),
            )
        tags = model.tags | ({"dvc.exp": experiment} if experiment else {})
        with _default_store(self._uri):  # MLflow looks for the logged model in this one
            registered = self._client.create_model_version(
                model.name,
                source=f"models:/{model_id}",
                run_id=run_id,
                tags=tags,
                description=description,
                model_id=model_id,
            )
        if experiment is None:
            self._client.set_registered_model_alias(
                model.name, f"{ARM}{model.tags['arm']}", str(registered.version)
            )
            self._choose_best(model.name)
        return str(registered.version)

    def _choose_best(self, name: str) -> None:
        """Give the alias to the arm whose newest version has the highest validation score."""
        aliases = self._client.get_registered_model(name).aliases
        newest = [
            self._client.get_model_version(name, model_version)
            for alias, model_version in aliases.items()
            if alias.startswith(ARM)
        ]
        best = max(newest, key=_validation_score)
        self._client.set_registered_model_alias(name, BEST, str(best.version))


@contextmanager
def _default_store(uri: str) -> Iterator[None]:
    """Let MLflow's own calls use the store at `uri` for a while."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def _validation_score(registered: ModelVersion) -> float:
    # All versions of a model are of one task.
    return next((float(registered.tags[n]) for n in _VALIDATION if n in registered.tags), 0.0)


_VALIDATION = ("val_miou", "val_pq", "val_ap")


def _task(model: Model) -> str:
    return model.tags.get("task", "semantic")


def _save(model: Model, description: MlflowModel, *, folder: Path, work: Path, saved: Path) -> None:
    """Write the folder of a logged model.

    Args:
        model: the segmenter.
        description: MLflow's description of the logged model, which is completed.
        folder: holds the copies that `model` names.
        work: an empty folder.
        saved: the folder to make.
    """
    segmenter = work / "segmenter"
    segmenter.mkdir()
    for name, file in model.files.items():
        shutil.copyfile(folder / file, segmenter / name)
    image = Image.open(segmenter / "example.png").convert("RGB")
    side = _EXAMPLE_SIDE
    pixels = np.asarray(image.crop((0, 0, min(side, image.width), min(side, image.height))))
    byte = np.dtype(np.uint8)
    arguments: dict[str, Any] = {
        "mlflow_model": description,
        "python_model": str(CODE),
        "code_paths": [str(SHARED_CODE)],
        "artifacts": {"segmenter": str(segmenter)},
        "signature": ModelSignature(
            inputs=Schema([TensorSpec(byte, (-1, -1, -1, 3))]), outputs=_outputs(_task(model))
        ),
        "input_example": pixels[None],
        "pip_requirements": requirements(model.architecture, task=_task(model)),
        "metadata": dict(model.tags),
    }
    mlflow.pyfunc.save_model(str(saved), **arguments)


def _outputs(task: str) -> Schema:
    """Return the schema of what a model of a task predicts."""
    if task == "instance":
        names = {"image": "long", "train_id": "long", "score": "double"}
        names |= {"height": "long", "width": "long", "counts": "string"}
        return Schema([ColSpec(kind, name) for name, kind in names.items()])
    kind = np.dtype(np.uint8 if task == "semantic" else np.int32)
    return Schema([TensorSpec(kind, (-1, -1, -1))])


def requirements(architecture: str, *, task: str = "semantic") -> list[str]:
    """Return the packages that a model needs, with the versions of this environment."""
    names = REQUIREMENTS[architecture] + (_OF_INSTANCES if task == "instance" else ())
    listed = [f"{name}=={version(name).partition('+')[0]}" for name in names]
    return [*listed, DETECTRON2] if architecture == "detectron2" else listed
