"""One run of `seggen predict`: a trained segmenter on pictures and videos."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from seggen_core.colors.class_colors import read_class_colors
from seggen_core.colors.palette import class_palette
from seggen_core.config import MultiScaleConfig, RuntimeConfig
from seggen_core.errors import DatasetError
from seggen_core.project.digests import content_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.segmentation.input_size import InputSize
from seggen_core.segmentation.models import load_segmenter
from seggen_core.segmentation.pictures import Picture, find_pictures, read_frames, read_image
from seggen_core.segmentation.predict import predict_image
from seggen_core.segmentation.prediction_folder import PredictionFolder
from seggen_core.segmentation.segmenter import CONFIG_FILE, WEIGHTS_FILE, Segmenter
from seggen_core.taxonomy import Taxonomy


@dataclass(frozen=True)
class PredictionJob:
    """What to predict.

    Attributes:
        sources: images, folders and videos.
        model: folder of a trained segmenter.
        out: the folder to fill.
        multi_scale: predict at several scales and mirrored, and average.
        every: of a video, each so many-th frame.
        with_overlays: write overlays, too.
        device: as `runtime.device`.
    """

    sources: Sequence[Path]
    model: Path
    out: Path
    multi_scale: bool = False
    every: int = 1
    with_overlays: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"


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
        ConfigError: there is no picture, or the folder holds predictions of another model.
        FoundationError: the model can't be loaded.
        StorageError: the disk is full or not writable.
    """
    pictures = find_pictures(job.sources)
    runtime = RuntimeConfig(device=job.device, num_threads=len(os.sched_getaffinity(0)))
    limit_threads(runtime)
    segmenter = load_segmenter(job.model).to(pick_device(runtime))
    size = InputSize.read(job.model)
    views = MultiScaleConfig() if job.multi_scale else None
    target = PredictionFolder(
        job.out,
        id2label=segmenter.id2label,
        palette=_palette(segmenter, paths),
        identity={
            "model": [content_digest(job.model / name) for name in (CONFIG_FILE, WEIGHTS_FILE)],
            "size": [size.square, size.short_side, size.max_side],
            "multi_scale": None if views is None else views.model_dump(mode="json"),
        },
        with_overlays=job.with_overlays,
    )
    result = PredictionResult()
    for picture in tqdm(pictures, desc="predict", unit="picture", disable=None):
        try:
            for name, image in _images(picture, target, every=job.every, result=result):
                predicted = predict_image(
                    segmenter,
                    image,
                    prepared=size.resize(image),
                    protocol=size.protocol(views),
                )
                target.add(name, image=image, predicted=predicted)
                result.num_new += 1
        except DatasetError as error:
            result.faults.append(str(error))
    target.record(result.names)
    return result


def _images(
    picture: Picture, target: PredictionFolder, *, every: int, result: PredictionResult
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and images that are not predicted yet; note the names of all."""
    if not picture.is_video:
        if not target.has(picture.name):
            yield picture.name, read_image(picture.path)
        result.names.append(picture.name)
        return
    for number, frame in read_frames(picture.path, every=every):
        name = f"{picture.name}/frame_{number:06d}"
        if not target.has(name):
            yield name, frame
        result.names.append(name)


def _palette(segmenter: Segmenter, paths: ProjectPaths) -> np.ndarray:
    """Return the project's colours if its classes are the model's, else those of any dataset."""
    labels = [segmenter.id2label[k] for k in range(segmenter.num_classes)]
    if paths.taxonomy.is_file() and [c.name for c in Taxonomy.read(paths.taxonomy)] == labels:
        return read_class_colors(paths.taxonomy)
    return class_palette(segmenter.num_classes)
