"""Which code the synthetic samples depend on."""

import hashlib
import inspect
from importlib import import_module
from importlib.metadata import version

_MODULES = (
    "seggen_core.attention.affinity_net",
    "seggen_core.attention.capture",
    "seggen_core.attention.dataset_diffusion",
    "seggen_core.attention.diffumask",
    "seggen_core.attention.masks",
    "seggen_core.attention.mean_attention",
    "seggen_core.attention.pamr",
    "seggen_core.attention.seediff",
    "seggen_core.colors.code",
    "seggen_core.colors.panoptic",
    "seggen_core.colors.semantic",
    "seggen_core.generators.foundation",
    "seggen_core.generators.sampling",
    "seggen_core.project.rng",
    "seggen_core.store.format",
    "seggen_core.synthesis.from_attention",
    "seggen_core.synthesis.mask_quality",
    "seggen_core.synthesis.seggen",
)


def code_digest() -> str:
    """Return a digest of the sources of those modules, and of torch's and diffusers' versions."""
    digest = hashlib.sha256()
    for name in _MODULES:
        digest.update(inspect.getsource(import_module(name)).encode())
    for package in ("torch", "diffusers"):
        digest.update(f"{package} {version(package)}\n".encode())
    return digest.hexdigest()[:32]
