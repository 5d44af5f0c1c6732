"""Sections on where samples and captions come from, and on what machine."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from seggen_core.config.base import Positive, Probability, Section

ColorMapKind = Literal["semantic", "panoptic"]
"""What colour maps show: classes alone, or segments with outlines."""
Split = Literal["train", "val", "test"]


class RuntimeConfig(Section):
    """How to compute; changes speed and rounding, never what is computed. Not tracked by DVC.

    Attributes:
        device: "auto" takes CUDA where there is one.
        num_threads: CPU threads of one stage; independent stages run side by side.
        tracking_uri: MLflow server or database; None is sqlite in the project folder.
            MLFLOW_TRACKING_URI overrides it. "disk" keeps everything in .seggen/metrics until
            `seggen track --replay`.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: Positive = 1
    tracking_uri: str | None = None


class SplitFiles(Section):
    """Where the files of one split are, relative to the dataset's root; what isn't given stays as the dataset publishes it.

    Attributes:
        images: folder of the images.
        masks: folder of the masks.
        instances: folder of the instance maps.
        annotations: COCO's JSON file.
        keys: list of the samples to take, one name a line.
    """

    images: str | None = None
    masks: str | None = None
    instances: str | None = None
    annotations: str | None = None
    keys: str | None = None


class DatasetConfig(Section):
    """The real dataset, and the low-data subsets the segmenter is trained on (docs/datasets.md says what each reader expects).

    Attributes:
        name: which reader.
        root: folder of the dataset on disk, relative to the project's; the embedded scenes need
            none.
        files: where the files of a split are, for datasets that don't lie as they were published;
            of the published splits.
        classes_file: the class list, JSON or CSV, relative to `root`; for "folder" and "mapillary".
        use_sbd: train on VOC 2012's 10,582 images with the SBD masks ("trainaug") instead of its
            own 1,464.
        splits: "published" takes the dataset's own train, val and test; "val_as_test" evaluates on
            its val, where test labels aren't to be had, and takes the validation samples out of
            train.
        keep_val_in_train: with "val_as_test", the validation samples are trained on too, so that
            train is the whole published split. Nothing selects a model by them, but their scores
            then say how well a model fits, not how well it generalises.
        image_size: side in pixels of the square samples that all stages work on.
        fit: "stretch" squashes whole frames to squares, "center_crop" keeps proportions and loses
            the sides.
        num_train, num_val, num_test: samples per split; None takes all there are.
        color_map: how Text2Mask and Mask2Img see masks: "semantic" is classes as colours;
            "panoptic" outlines every segment (SegGen A.2), needs instances, and lets MaskSyn make
            them.
        max_bad: unreadable or invalid samples that may be left out of each split; they are listed
            in its manifest.
        subset_size: N, the number of real samples the segmenter gets (SegGen Table 4, low-data
            rows); None takes all.
        subset_seeds: one subset, and one training of every arm, per seed.
    """

    name: Literal[
        "scenes",
        "ade20k",
        "camvid",
        "cityscapes",
        "coco_instance",
        "coco_panoptic",
        "coco_stuff",
        "folder",
        "mapillary",
        "voc2012",
    ]
    root: Path | None = None
    files: dict[Split, SplitFiles] = Field(default_factory=dict)
    classes_file: str | None = None
    use_sbd: bool = False
    splits: Literal["published", "val_as_test"] = "published"
    keep_val_in_train: bool = False
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
        captioner: "class_list" writes them from the mask; "blip2" (SegGen 3.2), "blip" and
            "florence2" from the image; "file" reads the user's.
        reads: the file that the captions come from, beside the samples; DVC tracks it. For "file",
            the user's table (Parquet or CSV: sample_key, caption); for the others the captioner's
            own module.
        edits: table of captions that replace those made, for sampling alone: generators go on being
            trained on the others, so that an edit makes exactly the synthetic samples anew whose
            prompt it is.
        model: hub repository or folder of the captioning model; None is the captioner's own.
        revision: commit of `model`; required for a hub repository.
        prompt: what the model is asked; None is the captioner's own (SegGen's question for BLIP-2).
        max_new_tokens: longest answer of a model.
        batch_size: images per call of a model.
        min_area_share: "class_list" leaves out things and stuff that cover less of the image than
            this.
    """

    captioner: Literal["class_list", "blip2", "blip", "florence2", "file"] = "class_list"
    reads: Path | None = None
    edits: Path | None = None
    model: str | None = None
    revision: str | None = None
    prompt: str | None = None
    max_new_tokens: Positive = 30
    batch_size: Positive = 8
    min_area_share: Probability = 0.002
