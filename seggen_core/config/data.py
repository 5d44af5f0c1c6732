"""Sections on the dataset, the captions and the machine."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from seggen_core.config.base import (
    NOTHING_TO_WATCH,
    NumSamples,
    Probability,
    Section,
    Seed,
    Size,
    TrackedPath,
)
from seggen_core.config.storage import ImageStorageConfig

ColorMapKind = Literal["semantic", "panoptic"]
"""What colour maps show: classes alone, or segments with outlines."""
Split = Literal["train", "val", "test"]


class RuntimeConfig(Section):
    """Device, threads and tracking. DVC ignores them: they change only speed and rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto" takes CUDA if torch sees a CUDA device."""
    num_threads: int = Field(1, ge=1, le=4096)
    """CPU threads of one stage."""
    tracking_uri: str | None = None
    """MLflow server or database that `seggen track` sends to; None is sqlite in the project folder.
    MLFLOW_TRACKING_URI overrides it. "disk" sends nothing. Stages write to .seggen/metrics in every
    case.
    """


ClassMasks = Literal["{class}/{name}", "{name}/{class}", "{name}_{class}"]
"""Names of masks of one class each, below the folder of the masks."""


class SplitFiles(Section):
    """Places of one split's files, relative to the dataset's root; None is the published place."""

    images: str | None = None
    """Folder of the images."""
    masks: str | None = None
    """Folder of the masks."""
    instances: str | None = None
    """Folder of the instance maps."""
    annotations: str | None = None
    """COCO's JSON file."""
    keys: str | None = None
    """List of the samples to take, one name a line."""
    image_ending: str | None = None
    """What follows a sample's name in the names of images, before the suffix ("_sat")."""
    mask_ending: str | None = None
    """Likewise of masks ("_mask"); for "folder", None finds the ending that the masks share."""
    instances_ending: str | None = None
    """Likewise of instance maps."""


Channel = Annotated[int, Field(ge=0, le=255)]


class ColumnNames(Section):
    """Columns of a dataset of the Hugging Face Hub; None finds a column by its usual names."""

    image: str | None = None
    """Pictures: "image", "pixel_values"."""
    mask: str | None = None
    """Masks of ids: "mask", "label", "annotation"."""
    instances: str | None = None
    """Maps of instances, if there are any: "instances"."""
    key: str | None = None
    """Names of the samples: "key", "id", "file_name"; else the names of the images' files."""


class ListedClassConfig(Section):
    """One row of a class list."""

    id: Annotated[int, Field(ge=0, lt=1 << 16)]
    """The id in the masks."""
    name: str
    """The class, as it is written into prompts."""
    is_thing: bool | None = None
    """Whether its objects can be counted."""
    color: tuple[Channel, Channel, Channel] | None = None
    """(r, g, b), for masks that hold colours."""
    ignore: bool = False
    """The id belongs to no class."""
    synonyms: tuple[str, ...] = ()
    """For "words": what else prompts call it."""


class DatasetConfig(ImageStorageConfig):
    """The real dataset and its low-data subsets (docs/datasets.md: what each reader expects).

    `image_format` is that of training images. Validation and test images are PNG in every case.
    """

    name: Literal[
        "scenes",
        "ade20k",
        "camvid",
        "cityscapes",
        "coco_instance",
        "coco_panoptic",
        "coco_stuff",
        "cvat",
        "folder",
        "huggingface",
        "label_studio",
        "labelme",
        "mapillary",
        "voc",
        "voc2012",
        "words",
        "yolo",
    ]
    """Name of the reader; "words" is a list of classes without real images."""
    root: Path | None = None
    """Folder of the dataset on disk, relative to the project's; the embedded scenes need none."""
    reads: Annotated[Path | None, TrackedPath] = None
    """The folder that DVC watches for changed files: the same as `root`, or data/code/none.json
    where there is no root. For "words", the same as `classes_file`, or data/code/none.json.
    """
    files: dict[Split, SplitFiles] = Field(default_factory=dict)
    """Places of the files of each published split, for datasets whose files were moved."""
    license: str | None = None
    """Licence of the images and masks ("cc-by-4.0"), for manifests and dataset cards; None is what
    is known of the published dataset. It is part of the stores: a change makes every stage run
    again, so set it first.
    """
    classes_file: str | None = None
    """The class list, relative to `root`, for every dataset with classes of the user's own; it has
    to agree with what the files themselves list. For "words" relative to the project's folder.
    """
    class_list: tuple[ListedClassConfig, ...] = ()
    """For "folder": the class list itself, where there is no file of it. If there is one, the two
    have to agree. For "words", it takes the place of a file.
    """
    background: str | None = None
    """For "coco_instance" and annotation tools' shapes: name of a class for the pixels that nothing
    covers. For "folder" with masks of one file a class: the listed class of the pixels that no mask
    covers. None ignores them. For "words": a class that is added to the list, for what no word
    covers (`seediff.ignore_background: false`).
    """
    class_masks: ClassMasks | None = None
    """For "folder": how masks are called if each class has a file of its own; None finds it from
    the names.
    """
    class_overlaps: Literal["refuse", "later"] = "refuse"
    """What such masks of one image mean where they overlap: "later" gives the pixel to the class
    that stands later in the class list.
    """
    crowds: Literal["ignore", "instances"] | None = None
    """For "coco_instance": what annotations with iscrowd are. None ignores them as COCO does, and
    refuses a file with classes of its own in which more than a tenth are such.
    """
    boxes: Literal["areas", "ignore"] | None = None
    """For annotation tools' shapes ("cvat", "labelme", "label_studio", "yolo"): what upright
    rectangles are. None paints them like other shapes, and refuses files in which more than a tenth
    are such, because boxes around objects are no masks.
    """
    columns: ColumnNames = ColumnNames()
    """For "huggingface": names of the columns."""
    use_sbd: bool = False
    """Train on VOC 2012's 10,582 images with SBD masks ("trainaug") instead of VOC's 1,464."""
    splits: Literal["published", "val_as_test", "val_from_train", "all_from_train"] = "published"
    """"published" takes the dataset's own train, val and test, and of "folder" takes a split that
    isn't there out of train; "val_as_test" evaluates on its val,
    where test labels aren't to be had, and takes the validation samples out of train, as
    "val_from_train" does where there is no val but a test split; "all_from_train" takes both out of
    train.
    """
    keep_val_in_train: bool = False
    """Where they come out of train, the validation samples are trained on too, so that train is the
    whole published split. Nothing selects a model by them, but their scores then say how well a
    model fits, not how well it generalises.
    """
    image_size: Size = 64
    """Side in pixels of the squares that generators draw, and of stored samples under "stretch" and
    "center_crop"; diffusion pipelines make multiples of 8.
    """
    fit: Literal["native", "stretch", "center_crop"] = "stretch"
    """Size and aspect of the stored samples. "native" keeps both, so that scores compare with
    published ones; it needs `train_seg.common.resize` "short_side" or "scale_jitter". "stretch"
    squashes whole frames to squares, "center_crop" keeps proportions and loses the sides.
    """
    max_size: Size | None = None
    """Under "native", the largest side of training samples in pixels: larger ones are shrunk at
    their aspect. Validation and test samples keep their size, because scores are computed on their
    labels as published. None shrinks none.
    """
    color_map: ColorMapKind = "semantic"
    """How Text2Mask and Mask2Img see masks: "semantic" is classes as colours; "panoptic" outlines
    every segment (SegGen A.2), needs instances, and lets MaskSyn make them.
    """
    num_train: NumSamples | None = None
    """Number of training samples; None takes all."""
    num_val: NumSamples | None = None
    """Number of validation samples; None takes all."""
    num_test: NumSamples | None = None
    """Number of test samples; None takes all."""
    max_bad: int = Field(0, ge=0, le=1 << 22)
    """Unreadable or invalid samples that may be left out of each split; they are listed in its
    manifest.
    """
    max_unlisted_share: Probability | None = None
    """Largest share of a split's pixels that may be ignored though nothing in its files says so;
    None is the reader's own (0.1 for "folder", 0.25 for most published ones).
    """
    subset_size: NumSamples | None = None
    """N, the number of real samples the segmenter gets (SegGen Table 4, low-data rows); None takes
    all.
    """
    subset_seeds: tuple[Seed, ...] = (0,)
    """One subset, and one training of every arm, per seed."""

    @model_validator(mode="after")
    def _check(self) -> "DatasetConfig":
        if self.max_size is not None and self.fit != "native":
            raise ValueError(
                f"dataset.max_size limits samples that keep their size, but dataset.fit is "
                f"{self.fit!r}; set fit: native, or leave max_size out"
            )
        watched = self.root or NOTHING_TO_WATCH
        if self.name == "words":
            watched = Path(self.classes_file) if self.classes_file else NOTHING_TO_WATCH
            if self.reads not in (None, watched):
                raise ValueError(
                    f"dataset.reads is {str(self.reads)!r}; expected reads: {watched}, so that DVC "
                    "notices when the list of words changes"
                )
        if self.reads not in (None, watched):
            raise ValueError(
                f"dataset.reads is {str(self.reads)!r}, but dataset.root is "
                f"{'not set' if self.root is None else repr(str(self.root))}; expected "
                f"reads: {watched}, so that DVC notices when files of the dataset change"
            )
        return self


class CaptionsConfig(Section):
    """Captions of the real training samples; they are the prompts of training and sampling."""

    captioner: Literal["class_list", "blip2", "blip", "florence2", "file"] = "class_list"
    """"class_list" writes captions from the masks; "blip2" (SegGen 3.2), "blip" and "florence2"
    write them from the images; "file" reads the user's captions.
    """
    reads: Annotated[Path | None, TrackedPath] = None
    """The file that DVC watches: for "file" the user's table of captions (Parquet or CSV with
    sample_key, the stem of the image's file, and caption), for the other captioners
    data/code/none.json.
    """
    edits: Annotated[Path | None, TrackedPath] = None
    """Table of edited captions, keyed like `reads`. Edits change only sampling, not training. So
    only the samples with an edited caption are made again.
    """
    model: str | None = None
    """Hub repository or folder of the captioning model; None is the captioner's default."""
    revision: str | None = None
    """Commit of `model`; required for a hub repository."""
    prompt: str | None = None
    """Prompt of the captioning model; None is its default (for BLIP-2: SegGen's question)."""
    max_new_tokens: Size = 30
    """Longest answer of the captioning model, in tokens."""
    batch_size: Size = 8
    """Images per call of the captioning model."""
    min_area_share: Probability = 0.002
    """"class_list" leaves out things and stuff that cover a smaller share of the image."""
