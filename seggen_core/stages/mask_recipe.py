"""Stage `mask_recipe`: other masks of the images of SeeDiff or DiffuMask, for all classes.

The method makes the masks of all recipes while it samples; this stage makes stores of them, and
samples only what isn't there (`synthesis.mask_recipes`).
"""

from seggen_core.config import SegGenConfig
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage
from seggen_core.synthesis.diffumask import DiffuMask
from seggen_core.synthesis.mask_recipes import make_mask_recipe
from seggen_core.synthesis.seediff import SeeDiff


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/synthetic/<item>, a folder of class partitions as those of the method.

    Raises:
        ConfigError: there is no such mask recipe.
        SegGenError: as `make_mask_recipe`.
    """
    if item not in config.mask_recipe:
        known = ", ".join(config.mask_recipe) or "none"
        raise ConfigError(f"there is no mask recipe {item!r} in params.yaml; it has: {known}")
    params = config.mask_recipe[item].model_dump(mode="json")
    with open_stage("mask_recipe", item=item, config=config, paths=paths, params=params) as stage:
        make_mask_recipe(stage, {"seediff": SeeDiff, "diffumask": DiffuMask})
