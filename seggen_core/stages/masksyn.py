"""Stage `masksyn`: new masks from captions, and images that show them (SegGen 3.3).

It makes one class partition.
"""

from functools import partial

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage
from seggen_core.synthesis.partition import make_partition
from seggen_core.synthesis.seggen_methods import MaskSyn
from seggen_core.synthesis.seggen_partition import synthesize_partition


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/synthetic/masksyn/<item>: the sample store, previews.png and metrics.json."""
    with open_stage("masksyn", item=item, config=config, paths=paths) as stage:
        make_partition(stage, partial(synthesize_partition, MaskSyn, stage))
