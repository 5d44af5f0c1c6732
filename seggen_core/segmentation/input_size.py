"""At which size a segmenter sees images, as it lies beside its weights.

preprocessor_config.json is that of transformers' image processors. So `AutoImageProcessor`
and `pipeline("image-segmentation")` prepare images as the training did, and `seggen predict` reads
the same file.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.config import MultiScaleConfig
from seggen_core.datasets.fit import resize_image
from seggen_core.errors import FoundationError
from seggen_core.project.weights import read_json_object
from seggen_core.segmentation.predict import TestProtocol
from seggen_core.segmentation.segmenter import CONFIG_FILE, MEAN, STD
from seggen_core.taxonomy import IGNORE_INDEX

PREPROCESSOR_FILE = "preprocessor_config.json"
_SECTION = "seggen_input"
"""What `seggen predict` reads of it; transformers doesn't use it."""
_NO_LIMIT = 1 << 16
"""`longest_edge` where there is none: transformers wants a number beside the shortest edge."""
_BILINEAR = 2
"""Pillow's number of the filter."""


@dataclass(frozen=True)
class InputSize:
    """How an image is brought to the size that a segmenter is applied at.

    Attributes:
        square: side that the whole frame is squashed to; None keeps the aspect.
        short_side: short side in pixels; None keeps the image's own.
        max_side: largest long side in pixels; None sets no limit.
    """

    square: int | None = None
    short_side: int | None = None
    max_side: int | None = None

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Return an image, uint8 [H, W, 3], squashed if the training saw squashed ones."""
        size = (self.square, self.square)
        if self.square is None or image.shape[:2] == size:
            return image
        return resize_image(image, (self.square, self.square))

    def protocol(self, multi_scale: MultiScaleConfig | None = None) -> TestProtocol:
        """Return what follows `resize`."""
        return TestProtocol(self.short_side, self.max_side, multi_scale)

    def write(self, folder: Path) -> None:
        """Write preprocessor_config.json."""
        size: dict[str, int] = {"shortest_edge": 800, "longest_edge": 1333}  # not used
        if self.square is not None:
            size = {"height": self.square, "width": self.square}
        elif self.short_side is not None:
            size = {"shortest_edge": self.short_side, "longest_edge": self.max_side or _NO_LIMIT}
        tree: dict[str, Any] = {
            "image_processor_type": "Mask2FormerImageProcessor",
            _SECTION: {
                "square": self.square,
                "short_side": self.short_side,
                "max_side": self.max_side,
            },
            "do_resize": self.square is not None or self.short_side is not None,
            "size": size,
            "size_divisor": 0,
            "resample": _BILINEAR,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(MEAN),
            "image_std": list(STD),
            "ignore_index": IGNORE_INDEX,
            "do_reduce_labels": False,
        }
        config = read_json_object(folder / CONFIG_FILE, cure="train the arm again")
        if config.get("model_type") == "eomt":  # the network takes squares of one size
            side = config.get("image_size")
            tree |= {
                "image_processor_type": "EomtImageProcessor",
                "do_resize": True,
                "do_pad": True,
                "do_split_image": False,
                "size": {"shortest_edge": side, "longest_edge": side},
                "ignore_index": None,
            }
            del tree["size_divisor"], tree["do_reduce_labels"]
        (folder / PREPROCESSOR_FILE).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "InputSize":
        """Read preprocessor_config.json; a model of an earlier seggen has none, and keeps sizes.

        Raises:
            FoundationError: the file is damaged.
        """
        file = folder / PREPROCESSOR_FILE
        if not file.exists():
            return cls()
        cure = "copy the model's folder again"
        sizes = read_json_object(file, cure=cure).get(_SECTION)
        names = [field.name for field in fields(cls)]
        if (
            not isinstance(sizes, dict)
            or sorted(sizes) != sorted(names)
            or not all(v is None or (type(v) is int and 0 < v <= _NO_LIMIT) for v in sizes.values())
        ):
            raise FoundationError(
                f"{file} has {_SECTION} {str(sizes)[:80]}; expected sizes in pixels, or null, of "
                f"{', '.join(names)}: {cure}"
            )
        return cls(**sizes)
