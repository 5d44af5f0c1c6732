"""What seggen takes of detectron2; the only module that imports it.

Importing this module raises ConfigError, one line with what to install, where detectron2 is
missing. So it is imported by functions that need it, and by modules that are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from yaml import YAMLError

from seggen_core.config import Task
from seggen_core.errors import ConfigError
from seggen_core.taxonomy import IGNORE_INDEX

COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"
INSTALL = (
    'uv pip install --no-build-isolation --no-deps "detectron2 @ '
    f'git+https://github.com/facebookresearch/detectron2@{COMMIT}"'
)

try:
    import detectron2
    from detectron2.config import CfgNode, get_cfg
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.modeling import META_ARCH_REGISTRY, build_model
    from detectron2.structures import BitMasks, Instances
    from detectron2.utils import comm
    from detectron2.utils.events import EventStorage, get_event_storage, has_event_storage
    from detectron2.utils.file_io import PathHandler, PathManager
except ImportError as error:
    raise ConfigError(
        f"detectron2 can't be imported ({error}); it isn't on the package index, so install it "
        f"as docs/detectron2.md says: {INSTALL}"
    ) from error

__all__ = [
    "BitMasks",
    "DatasetCatalog",
    "EventStorage",
    "Instances",
    "MetadataCatalog",
    "PathHandler",
    "PathManager",
    "build_network",
    "comm",
    "find_config",
    "get_event_storage",
    "has_event_storage",
    "read_config",
]


def find_config(name: str, *, base: Path) -> Path:
    """Return the file of a configuration.

    Args:
        name: of one that detectron2 ships ("Misc/semantic_R_50_FPN_1x.yaml"), or a file.
        base: folder that relative files start from.

    Raises:
        ConfigError: there is neither.
    """
    shipped = Path(detectron2.__file__).parent / "model_zoo" / "configs" / name
    for file in (base / name, shipped):
        if file.is_file():
            return file
    raise ConfigError(
        f"train_seg.detectron2.config is {name!r}; expected a file below {base}, or one of "
        "detectron2's configurations, such as Misc/semantic_R_50_FPN_1x.yaml"
    )


def read_config(file: Path, *, options: Mapping[str, Any], num_classes: int, task: Task) -> CfgNode:
    """Return a configuration for `num_classes` classes, on the CPU.

    Heads of instances have all classes, so that they are numbered by train id; those of stuff are
    never taught. For "panoptic", the semantic head has one more: 0 is any thing, and stuff has its
    train id plus 1.

    Tags that run Python are refused; detectron2's own reader would run them.

    Args:
        file: YAML; files that it names as its base are read, too.
        options: keys of the configuration and what they are instead ("MODEL.RESNETS.DEPTH": 18).
        num_classes: C.
        task: of the arm.

    Raises:
        ConfigError: the file or an option is wrong.
    """
    config = get_cfg()
    try:
        config.merge_from_file(str(file), allow_unsafe=False)
        config.merge_from_list([part for item in options.items() for part in item])
    except (AssertionError, AttributeError, KeyError, OSError, ValueError, YAMLError) as error:
        text = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{file} with train_seg.detectron2.options is no configuration of detectron2: {text}"
        ) from error
    config.MODEL.WEIGHTS = ""  # detectron2 would unpickle them
    config.MODEL.DEVICE = "cpu"
    config.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes + (task == "panoptic")
    config.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = IGNORE_INDEX
    config.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    config.INPUT.MASK_FORMAT = "bitmask"
    return config


def build_network(config: CfgNode, *, task: Task) -> nn.Module:
    """Build what a configuration describes, with random weights.

    Raises:
        ConfigError: detectron2 can't build it, or it is for another task.
    """
    name = config.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        known = ", ".join(sorted(key for key, _ in META_ARCH_REGISTRY))
        raise ConfigError(
            f"train_seg.detectron2: MODEL.META_ARCHITECTURE is {name!r}; detectron2 has: {known}"
        )
    try:
        network = build_model(config)
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(f"train_seg.detectron2: detectron2 can't build {name}: {text}") from error
    kinds = hasattr(network, "sem_seg_head"), hasattr(network, "roi_heads")
    wanted = {"semantic": (True, False), "instance": (False, True), "panoptic": (True, True)}
    if kinds != wanted[task] or (task != "semantic" and not config.MODEL.MASK_ON):
        raise ConfigError(
            f"train_seg.detectron2: {name} is not for the task {task}; take a configuration such "
            "as Misc/semantic_R_50_FPN_1x.yaml for semantic, "
            "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml for instance, or "
            "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml for panoptic"
        )
    return network
