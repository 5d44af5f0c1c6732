"""How the images of a sample store are compressed."""

from typing import Annotated, Any, Literal

from pydantic import Field

from seggen_core.config.base import Section


class ImageStorageConfig(Section):
    """The part of a section that says how images are stored; masks are PNG in every case."""

    image_format: Literal["png", "jpeg"] = "png"
    """"png" is lossless; "jpeg" takes about a third of the space and of the reading time."""
    jpeg_quality: Annotated[int, Field(ge=1, le=95)] = 95
    """Quality of "jpeg", without chroma subsampling."""

    @property
    def encoding(self) -> dict[str, Any]:
        """Arguments of `SampleStoreWriter` and `encode_sample`."""
        name = {"png": "png", "jpeg": "jpg"}[self.image_format]
        return {"image_format": name, "jpeg_quality": self.jpeg_quality}

    @property
    def encoding_fields(self) -> set[str]:
        """Fields that a store's own manifest already tells."""
        return set(ImageStorageConfig.model_fields)
