"""Settings of a project on own photos, from their number and the machine, for `seggen init`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

OWN_DATA_READERS = ("cvat", "folder", "huggingface", "label_studio", "labelme", "voc", "yolo")
"""Readers of the user's own data, which start from the profiles own or own_cpu."""

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


def is_own_data(settings: Mapping[str, Any], *, paths: "ProjectPaths") -> bool:
    """Whether the data are the user's: by their format, or by classes of their own in COCO's."""
    from seggen_core.commands.init_splits import COCO_FORMATS, checked, has_own_classes
    from seggen_core.config.params_file import parse_params, read_params_text
    from seggen_core.project.shipped import profile_file

    name = settings["name"]
    if name in OWN_DATA_READERS or name not in COCO_FORMATS:
        return name in OWN_DATA_READERS
    source = profile_file(name, root=paths.root)
    tree = parse_params(read_params_text(source), name=str(source))
    checked(tree | {"dataset": dict(settings)}, source=source)
    return has_own_classes(tree, settings, source=source, paths=paths)


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


def pretrained_segmenter(source: str | None) -> tuple[Mapping[Keys, Any], str]:
    """Return the keys that name a pretrained Mask2Former, and a line about it.

    Args:
        source: a folder, a repository of the Hub, or "none"; None asks the Hub for `SEGMENTER`.

    Raises:
        ConfigError: the repository that the user names can't be asked for, or has no safetensors.
    """
    from seggen_core.commands.hub import HubError, newest_files
    from seggen_core.errors import ConfigError

    keys = ("train_seg", "mask2former", "source"), ("train_seg", "mask2former", "revision")
    if source == "none":
        return dict.fromkeys(keys), "segmenters are trained from scratch"
    if source is not None and Path(source).is_dir():
        return {keys[0]: source, keys[1]: None}, f"segmenters start from {source}"
    name = source or SEGMENTER
    try:
        commit, files = newest_files(name)
    except HubError as reason:
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
