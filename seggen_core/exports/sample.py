"""One sample on its way from a store into another format."""

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from seggen_core.store.format import MEMBERS, decode_picture
from seggen_core.store.reader import SampleStore

JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}


@dataclass(frozen=True, eq=False)
class ExportSample:
    """One sample; its pictures are as they are stored."""

    key: str
    """Names its files; letters, digits, "_" and "-", unique in the export."""
    split: str
    """"train", "val" or "test"."""
    source: str
    """Name of the source ("masksyn/car")."""
    image: bytes
    """The image's file."""
    image_suffix: str
    """"png" or "jpg"."""
    mask: bytes
    """The mask's file, a PNG of train ids or IGNORE_INDEX."""
    instances: bytes | None
    """The file of the instance map, a 16-bit PNG, 0 where there is no instance; None where
    instances are unknown."""
    segmentation_map: np.ndarray
    """The mask, uint8 [H, W]."""
    instance_map: np.ndarray | None
    """The instances, uint16 [H, W], or None."""
    metadata: dict[str, Any]
    """What the store knows about the sample."""

    @classmethod
    def read(
        cls,
        store: SampleStore,
        position: int,
        *,
        key: str,
        split: str,
        source: str,
        image_suffix: str,
    ) -> "ExportSample":
        """Read one sample; SampleStoreError where it is damaged."""
        files = {member: store.read_bytes(position, member) for member in MEMBERS}
        instances = files["instances"] or None
        return cls(
            key=key,
            split=split,
            source=source,
            image=files["image"],
            image_suffix=image_suffix,
            mask=files["mask"],
            instances=instances,
            segmentation_map=decode_picture(files["mask"], mode="L"),
            instance_map=None if instances is None else decode_picture(instances, mode="I;16"),
            metadata=json.loads(files["json"]),
        )

    @property
    def height(self) -> int:
        """Rows of the image and its masks."""
        return self.segmentation_map.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.segmentation_map.shape[1]

    def image_as(self, suffix: str | None) -> tuple[bytes, str]:
        """Return the image's file and suffix.

        Args:
            suffix: "jpg" or "png"; None takes the image as it is stored. JPEG is quality 95
                without chroma subsampling.
        """
        if suffix is None or suffix == self.image_suffix:
            return self.image, self.image_suffix
        buffer = io.BytesIO()
        options: dict[str, Any] = JPEG if suffix == "jpg" else {"format": "PNG"}
        Image.fromarray(decode_picture(self.image, mode="RGB")).save(buffer, **options)
        return buffer.getvalue(), suffix

    def metadata_json(self) -> str:
        """Return the metadata as one line of JSON."""
        return json.dumps(self.metadata, ensure_ascii=False, sort_keys=True)
