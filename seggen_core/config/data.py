"""Sections on where samples and captions come from, and on what machine."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from seggen_core.config.base import Positive, Probability, Section

ColorMapKind = Literal["semantic", "panoptic"]
"""What colour maps show: classes alone, or segments with outlines."""


class RuntimeConfig(Section):
    """How to compute; changes speed and rounding, never what is computed. Not tracked by DVC.

    Attributes:
        device: "auto" takes CUDA where there is one.
        num_threads: CPU threads of one stage; independent stages run side by side.
        tracking_uri: MLflow server or database; None is sqlite in the project folder. MLFLOW_TRACKING_URI overrides it.
            "disk" keeps everything in .seggen/metrics until `seggen track --replay`.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: Positive = 1
    tracking_uri: str | None = None


class DatasetConfig(Section):
    """The real dataset, and the low-data subsets the segmenter is trained on.

    Attributes:
        name: which reader.
        root: folder of the dataset on disk; the embedded scenes need none.
        splits: "published" takes the dataset's own train, val and test; "val_as_test" evaluates on its val, where test labels
            aren't to be had, and cuts the validation samples out of train.
        image_size: side in pixels of the square samples that all stages work on.
        fit: "stretch" squashes whole frames to squares, "center_crop" keeps proportions and loses the sides.
        num_train, num_val, num_test: samples per split; None takes all there are.
        color_map: how Text2Mask and Mask2Img see masks: "semantic" is classes as colours; "panoptic" outlines every segment
            (SegGen A.2), needs instances, and lets MaskSyn make them.
        max_bad: unreadable or invalid samples that may be left out of each split; they are listed in its manifest.
        subset_size: N, the number of real samples the segmenter gets (SegGen Table 4, low-data rows); None takes all.
        subset_seeds: one subset, and one training of every arm, per seed.
    """

    name: Literal["scenes", "camvid"]
    root: Path | None = None
    splits: Literal["published", "val_as_test"] = "published"
    image_size: Positive = 64
    fit: Literal["stretch", "center_crop"] = "stretch"
    color_map: ColorMapKind = "semantic"
    num_train: Positive | None = None
    num_val: Positive | None = None
    num_test: Positive | None = None
    max_bad: int = Field(0, ge=0)
    subset_size: Positive | None = None
    subset_seeds: tuple[int, ...] = (0,)


class CaptionsConfig(Section):
    """Text prompts of the real training samples.

    Attributes:
        captioner: "class_list" writes them from the mask, "blip2" from the image (SegGen 3.2), "file" reads the user's.
        model: hub repository or folder of the captioning model.
        revision: commit of `model`; required for a hub repository.
        prompt: the question put to BLIP-2.
        max_new_tokens: longest answer of BLIP-2.
        batch_size: images per call of BLIP-2.
        min_area_share: "class_list" leaves out things and stuff that cover less of the image than this.
        path: the user's table (Parquet or CSV: sample_key, caption), for "file".
    """

    captioner: Literal["class_list", "blip2", "file"] = "class_list"
    model: str = "Salesforce/blip2-flan-t5-xxl"
    revision: str | None = None
    prompt: str = "Question: What are shown in the photo? Answer:"
    max_new_tokens: Positive = 30
    batch_size: Positive = 8
    min_area_share: Probability = 0.002
    path: Path | None = None
