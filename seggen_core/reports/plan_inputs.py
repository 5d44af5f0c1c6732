"""The inputs of a plan: sizes of the dataset, the kind of foundation, and the parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from seggen_core.config import PretrainConfig, SegGenConfig
from seggen_core.config.words import WORDS
from seggen_core.datasets.arm_tasks import source_faults
from seggen_core.datasets.class_names import class_name_faults
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS
from seggen_core.datasets.subset import subset_faults
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.project.artefacts import is_there, read_artefact
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.weights import read_json_object
from seggen_core.store.format import MANIFEST, read_manifest

PUBLISHED_SIZES = {
    "ade20k": (20_210, 2_000),
    "camvid": (367, 101),
    "cityscapes": (2_975, 500),
    "coco_instance": (117_266, 4_952),
    "coco_panoptic": (118_287, 5_000),
    "coco_stuff": (118_287, 5_000),
    "voc2012": (1_464, 1_449),
}
"""Train and val samples of the datasets as published, for a plan without the files."""

_EXAMPLE = {"train": 270, "val": 27, "test": 30}
_SBD_TRAIN = 10_582
_ATTENTION = {"embedded": (2, (2, 4)), "sd": (8, (1, 2, 4, 8)), "sdxl": (8, (2, 4))}
"""Image pixels per latent, and latents per value of attention, along a side."""
_PNG_SHARE = 0.6
"""Bytes of a PNG photograph per byte of pixels; measured on CamVid at 64 to 480 px: 0.5 to 0.7."""


@dataclass(frozen=True)
class Workload:
    """The work of a run, and the time of one call of each network.

    Attributes:
        config: the project's parameters.
        rates: throughputs of one device (`plan.load_rates`).
        counts: samples of each split.
        num_sources: real samples that MaskSyn and ImgSyn start from.
        network: the foundation's rates.
        family: of the foundation: "sdxl", "sd" or "embedded".
    """

    config: SegGenConfig
    rates: Mapping[str, Any]
    counts: Mapping[str, int]
    num_sources: int
    network: Mapping[str, Any]
    family: str = "sd"

    @cached_property
    def methods(self) -> set[str]:
        """The synthetic methods and mask recipes that arms read or `methods` names.

        The method of a recipe is among them, since it runs first.
        """
        read = {m for variant in self.config.variants.values() for m in variant.methods}
        named = read | set(self.config.methods)
        recipes = self.config.mask_recipe
        return named | {recipes[name].method for name in named if name in recipes}

    @property
    def basis(self) -> str:
        """Whether the foundation's rates were "measured" or are "assumed"."""
        foundation = self.config.foundation
        pretraining = foundation.pretrain if foundation.mode == "pretrain" else None
        if pretraining is not None and pretraining.unet_channels != PretrainConfig().unet_channels:
            return "assumed"  # the embedded UNet's rates are for its own channels
        return self.network.get("basis", self.rates["basis"])

    @property
    def unet_s(self) -> float:
        """Seconds of one forward pass of the UNet for one image."""
        return self.network["unet_s"] * self._pixels_of(self.network)

    @property
    def vae_s(self) -> float:
        """Seconds of one pass of the autoencoder for one image."""
        return self.network["vae_s"] * self._pixels_of(self.network)

    @property
    def picture_gb(self) -> float:
        """Gigabytes of one sample on disk."""
        return 3 * self.config.dataset.image_size**2 * _PNG_SHARE / 1e9

    @property
    def self_attention_gb(self) -> float:
        """Gigabytes of one image's self-attention at all resolutions, in float16."""
        scale, reductions = _ATTENTION[self.family]
        latents = self.config.dataset.image_size // scale
        return sum(2 * (latents // r) ** 4 for r in reductions) / 1e9

    def num_samples(self, method: str) -> int:
        """Return the number of samples that a method makes.

        Raises:
            ConfigError: params.yaml has no section for it.
        """
        if method in self.config.mask_recipe:
            per_class = self.config.attention_settings(method).samples_per_class
            return len(self.config.classes) * per_class
        section = getattr(self.config, method)
        if section is None:
            raise ConfigError(
                f"{method} is among the methods or read by an arm, but params.yaml has no section "
                f"{method}"
            )
        if method in ("masksyn", "imgsyn"):
            return self.num_sources * section.samples_per_source
        return len(self.config.classes) * section.samples_per_class

    def segmenter_rates(self, model: str) -> Mapping[str, Any]:
        """Return the rates of a segmenter; one that wasn't measured is taken for a Mask2Former."""
        rates = self.rates["segmenter"]
        return rates.get(model, rates["mask2former"])

    def predict_s(self, model: str) -> float:
        """Return the seconds of one prediction of a segmenter."""
        rates = self.segmenter_rates(model)
        return rates["predict_s"] * self._pixels_of(rates)

    def read_s(self) -> float:
        """Return the seconds to read one sample, if all threads read."""
        rates = self.rates["nearest"]
        return rates["read_s"] * self._pixels_of(rates) / self.config.runtime.num_threads

    @property
    def pixel_ratio(self) -> float:
        """Pixels of an image here, relative to those of the images in the foundation's rates."""
        return self._pixels_of(self.network)

    def _pixels_of(self, rates: Mapping[str, Any]) -> float:
        """Return the ratio of the pixels of an image here to those of the images in `rates`."""
        return (self.config.dataset.image_size / rates["image_size"]) ** 2


def foundation_family(config: SegGenConfig, *, paths: ProjectPaths) -> str:
    """Return "sdxl", "sd" or "embedded", by a local folder's files or a hub repository's name."""
    if config.foundation.mode == "pretrain":
        return "embedded"
    source = str(config.foundation.source)
    folder = paths.root / source
    if not folder.is_dir():
        if source.count("/") != 1:
            raise ConfigError(
                f"foundation.source {source} is neither a folder in {paths.root} nor a hub "
                "repository (owner/name)"
            )
        return "sdxl" if "xl" in source.lower() else "sd"
    try:
        cure = "copy or download the folder again"
        index = read_json_object(folder / "model_index.json", cure=cure)
        vae = read_json_object(folder / "vae" / "config.json", cure=cure)
        if "XL" in index["_class_name"]:
            return "sdxl"
        return "sd" if len(vae["block_out_channels"]) >= 4 else "embedded"
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"foundation.source {folder} is no diffusers pipeline folder: {error!r}"
        ) from None


def count_samples(config: SegGenConfig, *, paths: ProjectPaths) -> tuple[dict[str, int], list[str]]:
    """Return the number of samples of each split, and notes on their origin and on arms.

    If the dataset can be opened, its samples are counted. Otherwise the published sizes count.

    Raises:
        ConfigError: the dataset cannot be opened and has no published size.
    """
    dataset, notes = config.dataset, []
    if dataset.name == WORDS:
        return dict.fromkeys(SPLITS, 0), ["a list of words has no real images"]
    if dataset.root is not None or dataset.name == "scenes":
        try:
            reader = open_dataset(dataset, seed=config.seed, base=paths.root)
            counts: dict[str, int] = {split: len(reader.keys(split)) for split in SPLITS}
            faults = class_name_faults(config, taxonomy=reader.taxonomy)
            faults += subset_faults(config, num_train=counts["train"])
            return counts, faults + source_faults(config, taxonomy=reader.taxonomy)
        except DatasetError as error:
            notes.append(f"published sizes are used, because the dataset can't be opened: {error}")
    if dataset.name == "folder" and dataset.root is None:  # the profiles of own data
        return _EXAMPLE, ["270 training images of your own are assumed: dataset.root is not set"]
    if dataset.name not in PUBLISHED_SIZES:
        raise ConfigError(
            f"dataset.root of {dataset.name} is not set or can't be read, and the dataset has no "
            "published size; set dataset.root"
        )
    if dataset.root is None:
        notes.append("published sizes are used: dataset.root is not set")
    train, val = PUBLISHED_SIZES[dataset.name]
    train = _SBD_TRAIN if dataset.use_sbd else train
    held = dataset.num_val or max(1, round(0.1 * train))
    remaining = train if dataset.keep_val_in_train else train - held
    train = dataset.num_train or remaining
    return {"train": train, "val": held, "test": dataset.num_test or val}, notes


def has_other_results(config: SegGenConfig, *, paths: ProjectPaths) -> bool:
    """Return whether the project holds the results of another dataset than `config` names."""
    folder = paths.real("train")
    is_made = (folder / MANIFEST).is_file()
    return is_made and read_manifest(folder).get("dataset") != config.dataset.name


def num_sources(
    config: SegGenConfig, *, paths: ProjectPaths, train: int, use_results: bool = True
) -> int:
    """Return how many real samples MaskSyn and ImgSyn start from: those of all subsets, at most.

    Args:
        config: the parameters.
        paths: the project.
        train: training samples.
        use_results: count the subsets that the project has drawn, if there are any.
    """
    if use_results and is_there(paths.subsets):
        subsets: dict[str, Sequence[str]] = read_artefact(
            paths.subsets, dict[str, list[str]], stage="dataset"
        )
        return len({key for keys in subsets.values() for key in keys})
    size = config.dataset.subset_size
    return train if size is None else min(train, size * len(config.dataset.subset_seeds))
