"""Settings of a project on own photos, from their number and the machine, for `seggen init`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

SEGMENTER = "facebook/mask2former-swin-tiny-ade-semantic"
"""The pretrained segmenter that is asked for if the user names none."""

_PASSES = 24
"""Passes over all views of the training samples: SegGen's 30,000 steps of 16 over 20,210 (A.4)."""
_MOST_STEPS = 30_000
_SYNTHETIC = 3000
"""Synthetic samples of a method that are aimed at; few samples get 20 each, many get one."""
_FULL_GB, _LARGE_GB = 40, 20
"""GPU memory, in GB, from which all weights of SD 2-base are trained, and from which batches are
large (docs/results.md: 37.7 GB at 16 images a step; with LoRA about 20)."""

Keys = tuple[str, ...]


def own_settings(num_train: int, *, gpu_gb: float | None) -> dict[Keys, Any]:
    """Return the keys of params.yaml that follow from the number of images and the machine.

    Args:
        num_train: training samples.
        gpu_gb: memory of the GPU; None where there is none.

    Returns:
        Values by the path of their keys; those of the profile "own" on a GPU, else of "own_cpu".
    """
    crops = 7 if num_train < 1000 else 3 if num_train < 5000 else 0
    views = num_train * (1 + crops)
    is_large = gpu_gb is not None and gpu_gb >= _LARGE_GB
    batch = 8 if gpu_gb is None or is_large else 4
    least = 900 if gpu_gb is None else 600
    steps = min(max(_PASSES * views // batch, least), _MOST_STEPS)
    if gpu_gb is None:  # days otherwise
        steps = min(steps, 3000)
    changes: dict[Keys, Any] = {}
    for stage in ("text2mask", "mask2img"):
        changes[stage, "num_steps"] = steps
        changes[stage, "batch_size"] = batch
        random_crops = {"per_sample": crops, "min_side": 0.5} if crops else None
        changes[stage, "random_crops"] = random_crops
    if gpu_gb is not None and gpu_gb >= _FULL_GB:
        changes["text2mask", "lora"] = None
        changes["text2mask", "learning_rate"] = 1e-5
    per_source = min(max(_SYNTHETIC // num_train, 1), 20)
    for method in ("masksyn", "imgsyn"):
        changes[method, "samples_per_source"] = per_source
    segmenter_batch = 8
    segmenter_steps = min(max(50 * num_train // segmenter_batch, 600), 40_000)
    if gpu_gb is None:
        segmenter_steps = min(segmenter_steps, 2000)
    common = ("train_seg", "common")
    changes[(*common, "num_steps")] = segmenter_steps
    changes[(*common, "validate_every")] = max(segmenter_steps // 5, 1)
    if gpu_gb is not None:
        changes[(*common, "checkpoint_every")] = max(segmenter_steps // 5, 1)
    changes["dataset", "subset_seeds"] = [0, 1, 2] if num_train <= 1000 else [0]
    return changes


def gpu_memory() -> float | None:
    """Return the memory of the first CUDA device in GB; None where torch sees none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / 1e9


def places_of_own_data(images: Path, masks: Path, *, paths: "ProjectPaths") -> dict[str, Any]:
    """Return the keys of the section `dataset` for a folder of images and one of masks.

    Splits are folders of the same name in both; without any, all samples are train. Where there is
    no class list in the folder that holds both, the values that the masks hold are the classes.

    Raises:
        ConfigError: the two lie in folders that have only a folder of the system in common.
        DatasetError: a folder is missing, holds no masks, or these hold no classes.
    """
    from seggen_core.datasets.annotated_files import SPLIT_NAMES
    from seggen_core.datasets.files import MASK_SUFFIXES, describe_folder, list_files
    from seggen_core.datasets.folder import CLASS_FILES
    from seggen_core.datasets.scan_masks import scan_classes
    from seggen_core.errors import ConfigError, DatasetError

    images, masks = images.resolve(), masks.resolve()
    for folder in (images, masks):
        if not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder ({describe_folder(folder)})")
    root = next(p for p in (images, *images.parents) if masks.is_relative_to(p))
    if len(root.parts) < 3 or root in (Path.home(), paths.root.resolve()):
        raise ConfigError(
            f"{images} and {masks} have only {root} in common, and DVC would watch all of it; "
            "expected both in one folder of the dataset: move them there"
        )
    where = {
        "images": images.relative_to(root).as_posix(),
        "masks": masks.relative_to(root).as_posix(),
    }
    files: dict[str, dict[str, str]] = {}
    for split, names in SPLIT_NAMES.items():
        name = next((n for n in names if (images / n).is_dir() and (masks / n).is_dir()), None)
        if name is not None:
            files[split] = {kind: f"{folder}/{name}" for kind, folder in where.items()}
    if "train" not in files:
        files = {"train": where}
    settings: dict[str, Any] = {"name": "folder", "root": root, "files": files}
    has_test, has_val = "test" in files, "val" in files
    settings["splits"] = (
        ("published" if has_val else "val_from_train")
        if has_test
        else ("val_as_test" if has_val else "all_from_train")
    )
    if not any((root / name).exists() for name in CLASS_FILES):
        listing = list_files(masks, kind="mask", suffixes=MASK_SUFFIXES, subfolders="keyed")
        found = [path for key in sorted(listing.names) for path in listing.paths(key)]
        if masks == images:  # the images lie among them
            found = [path for path in found if "mask" in path.stem]
        if not found:
            raise DatasetError(f"{masks} holds no masks; expected *.png ({describe_folder(masks)})")
        settings["class_list"] = scan_classes(found)
    return settings


def pretrained_segmenter(source: str | None) -> tuple[Mapping[Keys, Any], str]:
    """Return the keys that name a pretrained Mask2Former, and a line about it.

    Args:
        source: a folder, a repository of the Hub, or "none"; None asks the Hub for `SEGMENTER`.

    Raises:
        ConfigError: the repository that the user names can't be asked for, or has no safetensors.
    """
    from seggen_core.errors import ConfigError

    keys = ("train_seg", "mask2former", "source"), ("train_seg", "mask2former", "revision")
    if source == "none":
        return dict.fromkeys(keys), "segmenters are trained from scratch"
    if source is not None and Path(source).is_dir():
        return {keys[0]: source, keys[1]: None}, f"segmenters start from {source}"
    name = source or SEGMENTER
    try:
        commit, files = _ask_hub(name)
    except Exception as error:  # noqa: BLE001 (whatever a network and its libraries raise)
        reason = str(error).split("\n", 1)[0][:200]
        if source is not None:
            raise ConfigError(
                f"{name} is no folder, and the Hub can't be asked for its commit ({reason}); "
                "expected a folder or a repository: check the name and the network"
            ) from None
        return dict.fromkeys(keys), (
            f"segmenters are trained from scratch, since the Hub can't be asked for {name} "
            f"({reason}): run init again with a network, or name a folder by --segmenter"
        )
    if not any(file.endswith(".safetensors") for file in files):
        raise ConfigError(f"{name} has no *.safetensors; expected weights that aren't pickled")
    return {keys[0]: name, keys[1]: commit}, f"segmenters start from {name} at {commit[:7]}"


def newest_commit(name: str) -> str:
    """Return the newest commit of a repository.

    Raises:
        ConfigError: the Hub can't be asked.
    """
    from seggen_core.errors import ConfigError

    try:
        return _ask_hub(name)[0]
    except Exception as error:  # noqa: BLE001 (whatever a network and its libraries raise)
        reason = str(error).split("\n", 1)[0][:200]
        raise ConfigError(
            f"{name} is no folder, and the Hub can't be asked for its commit ({reason}); check the "
            "name and the network, or give the commit as --revision"
        ) from None


def _ask_hub(name: str) -> tuple[str, list[str]]:
    """Return the newest commit of a repository and the names of its files."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(name, timeout=10)
    assert info.sha is not None
    return info.sha, [file.rfilename for file in info.siblings or []]
