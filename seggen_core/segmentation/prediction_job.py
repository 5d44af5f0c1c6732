"""One run of `seggen predict`: a trained segmenter on pictures and videos."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from seggen_core.colors.class_colors import read_class_colors
from seggen_core.colors.palette import class_palette
from seggen_core.config import MultiScaleConfig, RuntimeConfig
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.project.digests import content_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.segmentation.input_size import InputSize
from seggen_core.segmentation.model_task import TASK_FILE, ModelTask
from seggen_core.segmentation.models import load_segmenter
from seggen_core.segmentation.pictures import (
    Picture,
    count_frames,
    find_pictures,
    read_frames,
    read_image,
)
from seggen_core.segmentation.predict import predict_image
from seggen_core.segmentation.predict_segments import predict_sample
from seggen_core.segmentation.prediction_folder import PredictionFolder
from seggen_core.segmentation.segment_folder import SegmentFolder
from seggen_core.segmentation.segmenter import CONFIG_FILE, WEIGHTS_FILE, Segmenter
from seggen_core.taxonomy import Taxonomy

MAX_PIXELS = 2_000_000
"""Segments of larger pictures are decided at a smaller size, and enlarged: a hundred masks of a
photograph take gigabytes, and networks see smaller pictures anyway.
"""


@dataclass(frozen=True)
class PredictionJob:
    """What to predict."""

    sources: Sequence[Path]
    """Images, folders and videos."""
    model: Path
    """Folder of a trained segmenter."""
    out: Path
    """The folder to fill."""
    multi_scale: bool = False
    """Predict at several scales and mirrored, and average."""
    every: int = 1
    """Of a video, each so many-th frame."""
    with_overlays: bool = True
    """Write overlays, too."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """As `runtime.device`."""
    task: ModelTask | None = None
    """What the model is for, if it finds segments and its folder doesn't say so."""


@dataclass
class PredictionResult:
    """What a run did.

    Attributes:
        names: of all pictures that are predicted now.
        num_new: pictures that this run predicted.
        faults: why others are not.
    """

    names: list[str] = field(default_factory=list)
    num_new: int = 0
    faults: list[str] = field(default_factory=list)


def run_predictions(job: PredictionJob, *, paths: ProjectPaths) -> PredictionResult:
    """Predict pictures; those that the folder holds already are left as they are.

    A picture that can't be read is a fault of the result, and the others go on.

    Args:
        job: what to do.
        paths: of the project, whose colours are taken if it has the model's classes.

    Raises:
        ConfigError: there is no picture, the folder holds predictions of another model, or
            `multi_scale` is asked of a model that finds segments.
        FoundationError: the model can't be loaded.
        StorageError: the disk is full or not writable.
    """
    pictures = find_pictures(job.sources)
    runtime = RuntimeConfig(device=job.device, num_threads=len(os.sched_getaffinity(0)))
    limit_threads(runtime)
    segmenter = load_segmenter(job.model).to(pick_device(runtime))
    task = ModelTask.read(job.model) or job.task
    if task is None:
        target, predict = _classes_target(job, segmenter, paths)
    else:
        target, predict = _segments_target(job, segmenter, paths, task=task)
    result = PredictionResult()
    for picture in tqdm(pictures, desc="predict", unit="picture", disable=None):
        try:
            for name, image in _images(picture, target, every=job.every, result=result):
                predict(name, image)
                result.num_new += 1
        except DatasetError as error:
            result.faults.append(str(error))
    target.record(result.names)
    return result


_Predict = Callable[[str, np.ndarray], None]
"""Predicts an image, uint8 [H, W, 3], and writes the prediction under a name."""


def _classes_target(
    job: PredictionJob, segmenter: Segmenter, paths: ProjectPaths
) -> tuple[PredictionFolder, _Predict]:
    """Return the folder of a model that gives every pixel a class, and how it is filled."""
    size = InputSize.read(job.model)
    views = MultiScaleConfig() if job.multi_scale else None
    target = PredictionFolder(
        job.out,
        id2label=segmenter.id2label,
        palette=_palette(segmenter, paths),
        identity={
            **_identity(job, size),
            "multi_scale": None if views is None else views.model_dump(mode="json"),
        },
        with_overlays=job.with_overlays,
    )

    def predict(name: str, image: np.ndarray) -> None:
        predicted = predict_image(
            segmenter, image, prepared=size.resize(image), protocol=size.protocol(views)
        )
        target.add(name, image=image, predicted=predicted)

    return target, predict


def _segments_target(
    job: PredictionJob, segmenter: Segmenter, paths: ProjectPaths, *, task: ModelTask
) -> tuple[PredictionFolder, _Predict]:
    """Return the folder of a model that finds segments, and how it is filled."""
    if job.multi_scale:
        raise ConfigError(
            f"--multi-scale averages the classes of pixels, and the model in {job.model} finds "
            f"segments (task {task.task}): it is predicted at one scale"
        )
    if task.taxonomy.id2label != segmenter.id2label:
        raise ConfigError(
            f"{job.model} has other classes in {CONFIG_FILE} than in {TASK_FILE}; copy the model's "
            "folder again"
        )
    size = InputSize.read(job.model)
    how = task.segment_task(size.protocol())
    target = SegmentFolder(
        job.out,
        task=task,
        palette=_palette(segmenter, paths),
        identity={
            **_identity(job, size),
            "task": task.task,
            "things": how.things.tolist(),
            "postprocess": task.postprocess.model_dump(mode="json"),
        },
        with_overlays=job.with_overlays,
    )

    def predict(name: str, image: np.ndarray) -> None:
        predicted = predict_sample(
            segmenter, image=size.resize(image), task=how, size=_limited(image.shape[:2])
        )
        target.add_segments(name, image=image, predicted=predicted)

    return target, predict


def _identity(job: PredictionJob, size: InputSize) -> dict[str, Any]:
    """Return what every prediction depends on, JSON-ready."""
    return {
        "model": [content_digest(job.model / name) for name in (CONFIG_FILE, WEIGHTS_FILE)],
        "size": [size.square, size.short_side, size.max_side],
    }


def _limited(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size that segments are decided at: that of the picture, or a smaller one."""
    factor = (MAX_PIXELS / (size[0] * size[1])) ** 0.5
    if factor >= 1:
        return size
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def _images(
    picture: Picture, target: PredictionFolder, *, every: int, result: PredictionResult
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and images that are not predicted yet; note the names of all."""
    if not picture.is_video:
        if not target.has(picture.name):
            yield picture.name, read_image(picture.path)
        result.names.append(picture.name)
        return
    frames = tqdm(
        read_frames(picture.path, every=every),
        desc=picture.name,
        total=count_frames(picture.path, every=every),
        unit="frame",
        leave=False,
        disable=None,
    )
    for index, frame in frames:
        name = f"{picture.name}/frame_{index:06d}"
        if not target.has(name):
            yield name, frame
        result.names.append(name)


def _palette(segmenter: Segmenter, paths: ProjectPaths) -> np.ndarray:
    """Return the project's colours if its classes are the model's, else those of any dataset."""
    labels = [segmenter.id2label[k] for k in range(segmenter.num_classes)]
    if paths.taxonomy.is_file() and [c.name for c in Taxonomy.read(paths.taxonomy)] == labels:
        return read_class_colors(paths.taxonomy)
    return class_palette(segmenter.num_classes)
