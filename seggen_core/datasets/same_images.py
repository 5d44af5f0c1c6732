"""Which samples of two real splits show the same image.

Training images may be stored smaller (`dataset.max_size`) or as JPEG, while other splits keep their
images as published. So an image is compared in the form that the training store would hold.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from seggen_core.datasets.fit import limited_size, resize_image
from seggen_core.store.format import decode_picture, encode_image
from seggen_core.store.reader import SampleStore


def image_digests(store: SampleStore, *, like: SampleStore | None = None) -> Iterator[str]:
    """Yield a digest of the pixels of each image, in the store's order.

    Args:
        store: the images.
        like: a store of the same dataset. Images of `store` are brought to the form that it holds
            them in; None takes them as they are.
    """
    form = _form(store if like is None else like)
    is_in_form = form == _form(store)
    for position in range(len(store)):
        image = store.read_image(position)
        if not is_in_form:
            image = _in_form(image, form)
        yield hashlib.blake2b(
            f"{image.shape}".encode() + np.ascontiguousarray(image).data, digest_size=16
        ).hexdigest()


def holds_changed_images(store: SampleStore) -> bool:
    """Return whether images of the store differ from those of the dataset's files."""
    return any(value is not None for value in _form(store).values())


def _form(store: SampleStore) -> dict[str, Any]:
    return {name: store.manifest.get(name) for name in ("max_size", "jpeg_quality")}


def _in_form(image: np.ndarray, form: dict[str, Any]) -> np.ndarray:
    height, width = image.shape[:2]
    size = limited_size((width, height), form["max_size"])
    if size != (width, height):
        image = resize_image(image, size)
    if form["jpeg_quality"] is not None:
        data = encode_image(image, image_format="jpg", jpeg_quality=form["jpeg_quality"])
        image = decode_picture(data, mode="RGB")
    return image
