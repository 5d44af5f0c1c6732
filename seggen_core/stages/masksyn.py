"""Stage `masksyn`: new masks from captions, and images that show them (SegGen 3.3), one class partition at a time."""

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.synthesis.partition import synthesize_partition


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/synthetic/masksyn/<item>: the sample store, previews.png and metrics.json."""
    assert item is not None
    synthesize_partition(config, paths=paths, method="masksyn", class_slug=item)
