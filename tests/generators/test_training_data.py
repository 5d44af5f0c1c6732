from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seggen_core.color_code import ColorCode
from seggen_core.datasets.scene_layout import SCENES_TAXONOMY
from seggen_core.errors import ConfigError
from seggen_core.generators.training_data import open_training_data
from seggen_core.paths import ProjectPaths
from seggen_core.synthesis.sample_store import Sample, SampleStoreWriter

IMAGE = np.zeros((16, 16, 3), np.uint8)
MASK = np.repeat([[0, 3]], 8, axis=1).repeat(16, axis=0).astype(np.uint8)
INSTANCES = np.where(MASK == 3, 1 + (np.arange(16)[:, None] >= 8), 0).astype(np.uint16)  # two cars, one above the other


@pytest.fixture
def project(tmp_path: Path) -> Callable[[np.ndarray | None], ProjectPaths]:
    def make(instances: np.ndarray | None) -> ProjectPaths:
        import json

        paths = ProjectPaths(tmp_path)
        with SampleStoreWriter(paths.real("train"), num_classes=8) as writer:
            writer.add(Sample("train-00000", IMAGE, MASK, instances, {}))
            writer.finish(manifest={})
        paths.taxonomy.write_text(json.dumps(SCENES_TAXONOMY.to_json()), encoding="utf-8")
        paths.captions.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"sample_key": ["train-00000"], "caption": ["two cars under sky"]}).to_parquet(paths.captions)
        return paths

    return make


@pytest.mark.parametrize("kind", ["semantic", "panoptic"])
def test_colour_maps_show_what_is_asked_for(kind: str, project: Callable[[np.ndarray | None], ProjectPaths]) -> None:
    data = open_training_data(project(INSTANCES), color_map=kind)  # type: ignore[arg-type]
    color_map = data.read_color_map(0)
    code = ColorCode(SCENES_TAXONOMY, kind=kind)  # type: ignore[arg-type]
    assert data.captions == ["two cars under sky"]
    assert (color_map == code.encode(MASK, instance_map=INSTANCES)).all()
    between_cars = color_map[7:9, 12:]
    assert (between_cars == (255 if kind == "panoptic" else code.palette[3])).all()


def test_panoptic_colour_maps_want_instances(project: Callable[[np.ndarray | None], ProjectPaths]) -> None:
    paths = project(None)
    assert open_training_data(paths, color_map="semantic").read_color_map(0).shape == (16, 16, 3)
    with pytest.raises(ConfigError, match="no instance map"):
        open_training_data(paths, color_map="panoptic").read_color_map(0)
