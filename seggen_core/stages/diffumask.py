"""Stage `diffumask`: images of one class with masks from cross-attention alone.

Thresholds and filter are learned from the class itself. Masks of the mask recipes are made
meanwhile, and kept for the stage `mask_recipe`.
"""

from seggen_core.config import SegGenConfig
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage
from seggen_core.synthesis.diffumask import DiffuMask
from seggen_core.synthesis.mask_recipes import make_attention_partition


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/synthetic/diffumask/<item>.

    That is the sample store, attempts.jsonl, previews.png and metrics.json.

    Raises:
        ConfigError: params.yaml has no section `diffumask`.
        SegGenError: as `make_attention_partition`.
    """
    if config.diffumask is None:
        raise ConfigError(
            "params.yaml has no section 'diffumask', which this stage needs; "
            "its keys are in seggen_core/config"
        )
    with open_stage("diffumask", item=item, config=config, paths=paths) as stage:
        make_attention_partition(stage, DiffuMask)
