"""Licences of the published datasets, as far as they state one.

They are pointers for whoever exports or publishes samples, not advice. Who needs certainty reads
the terms of the dataset.
"""

from seggen_core.config import DatasetConfig

_COCO = "annotations CC BY 4.0; images under Flickr's terms of use, each with its own licence"

_LICENSES = {
    "scenes": "apache-2.0",
    "ade20k": "BSD 3-Clause for the annotations; images for non-commercial research and education",
    "cityscapes": "Cityscapes' own licence: non-commercial use, no redistribution",
    "coco_instance": _COCO,
    "coco_panoptic": _COCO,
    "coco_stuff": _COCO,
    "mapillary": "cc-by-nc-sa-4.0",
    "voc2012": "images under Flickr's terms of use",
}
"""By reader. CamVid's publishers state none, and a folder may hold anything."""


def license_of(config: DatasetConfig) -> str | None:
    """Return the licence that the user gives, else the published one; None where none is known."""
    return config.license or _LICENSES.get(config.name)
