import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seggen_core.colors.code import ColorCode
from seggen_core.config import RandomCrops
from seggen_core.errors import ConfigError
from seggen_core.generators.training_data import open_training_data
from seggen_core.project.paths import ProjectPaths
from seggen_core.scenes.layout import SCENES_TAXONOMY
from seggen_core.store.reader import Sample, SampleStoreWriter

IMAGE = np.zeros((16, 16, 3), np.uint8)
MASK = np.repeat([[0, 3]], 8, axis=1).repeat(16, axis=0).astype(np.uint8)
INSTANCES = np.where(MASK == 3, 1 + (np.arange(16)[:, None] >= 8), 0).astype(
    np.uint16
)  # two cars, one above the other


@pytest.fixture
def project(tmp_path: Path) -> Callable[[np.ndarray | None], ProjectPaths]:
    def make(instances: np.ndarray | None) -> ProjectPaths:
        paths = ProjectPaths(tmp_path)
        with SampleStoreWriter(paths.real("train"), num_classes=8) as writer:
            writer.add(Sample("train-00000", IMAGE, MASK, instances, {}))
            writer.finish(manifest={})
        paths.taxonomy.write_text(json.dumps(SCENES_TAXONOMY.to_json()), encoding="utf-8")
        paths.captions.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"sample_key": ["train-00000"], "caption": ["two cars under sky"]}).to_parquet(
            paths.captions
        )
        return paths

    return make


@pytest.mark.parametrize("kind", ["semantic", "panoptic"])
def test_colour_maps_show_what_is_asked_for(
    kind: str, project: Callable[[np.ndarray | None], ProjectPaths]
) -> None:
    data = open_training_data(project(INSTANCES), color_map=kind, seed=0)  # type: ignore[arg-type]
    color_map = data.read_color_map(0)
    code = ColorCode(SCENES_TAXONOMY, kind=kind)  # type: ignore[arg-type]
    assert data.captions == ["two cars under sky"]
    assert (color_map == code.encode(MASK, instance_map=INSTANCES)).all()
    between_cars = color_map[7:9, 12:]
    assert (between_cars == (255 if kind == "panoptic" else code.palette[3])).all()


def test_panoptic_colour_maps_want_instances(
    project: Callable[[np.ndarray | None], ProjectPaths],
) -> None:
    paths = project(None)
    assert open_training_data(paths, color_map="semantic", seed=0).read_color_map(0).shape == (
        16,
        16,
        3,
    )
    with pytest.raises(ConfigError, match="no instance map"):
        open_training_data(paths, color_map="panoptic", seed=0).read_color_map(0)


def test_random_crops_come_after_the_samples_and_show_image_and_mask_alike(tmp_path: Path) -> None:
    side, rng = 32, np.random.default_rng(0)
    paths = ProjectPaths(tmp_path)
    masks = rng.integers(0, 8, (2, side, side), dtype=np.uint8)
    with SampleStoreWriter(paths.real("train"), num_classes=8) as writer:
        for k, mask in enumerate(masks):
            # The image says in its colours where each pixel is.
            image = np.stack(
                [np.full_like(mask, 8 * k), *np.mgrid[:side, :side].astype(np.uint8) * 8], axis=-1
            )
            writer.add(Sample(f"train-{k:05d}", image, mask, None, {}))
        writer.finish(manifest={})
    paths.taxonomy.write_text(json.dumps(SCENES_TAXONOMY.to_json()), encoding="utf-8")
    paths.captions.parent.mkdir(parents=True)
    keys = ["train-00000", "train-00001"]
    pd.DataFrame({"sample_key": keys, "caption": ["first", "second"]}).to_parquet(paths.captions)

    data = open_training_data(
        paths, color_map="semantic", crops=RandomCrops(per_sample=3, min_side=0.5), seed=1
    )
    code = ColorCode(SCENES_TAXONOMY, kind="semantic")
    assert data.captions == ["first", "second"] * 4
    for i in range(2):
        assert (data.read_image(i) == data.store.read_image(i)).all()
        assert (data.read_color_map(i) == code.encode(masks[i], instance_map=None)).all()
    sides = set()
    for i in range(2, 8):
        image, color_map = data.read_image(i), data.read_color_map(i)
        inner = np.s_[4:-4, 4:-4]  # resampling reaches over the window's rim elsewhere
        assert (image[..., 0][inner] == 8 * (i % 2)).all()
        y, x = (np.clip(np.rint(image[..., c] / 8), 0, side - 1).astype(int) for c in (1, 2))
        shown = code.encode(masks[i % 2], instance_map=None)[y, x]
        assert (shown == color_map).all(-1)[inner].mean() > 0.8
        assert (data.read_color_map(i) == color_map).all()
        sides.add(round(float(np.ptp(image[:, side // 2, 1]) / 8)))
    assert all(side // 2 - 2 <= s < side for s in sides) and len(sides) > 2

    for missing in (8, -1):
        for reads in (data.read_image, data.read_color_map):
            with pytest.raises(IndexError, match=f"no picture {missing}: 2 samples, 3 crops"):
                reads(missing)

    again = open_training_data(
        paths, color_map="semantic", crops=RandomCrops(per_sample=3, min_side=0.5), seed=1
    )
    other = open_training_data(
        paths, color_map="semantic", crops=RandomCrops(per_sample=3, min_side=0.5), seed=2
    )
    assert (again.read_image(5) == data.read_image(5)).all() and (
        other.read_image(5) != data.read_image(5)
    ).any()


def test_crops_of_panoptic_colour_maps_crop_instances_too(
    project: Callable[[np.ndarray | None], ProjectPaths],
) -> None:
    data = open_training_data(
        project(INSTANCES), color_map="panoptic", crops=RandomCrops(per_sample=1), seed=0
    )
    assert data.captions == ["two cars under sky"] * 2
    assert (data.read_color_map(1) == 255).all(-1).any()  # the outline between the two cars


def test_pictures_of_any_size_are_squashed_to_squares(
    project: Callable[[np.ndarray | None], ProjectPaths],
) -> None:
    paths = project(INSTANCES)
    shutil.rmtree(paths.real("train"))
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, 16:] = 200
    wide = MASK.repeat(2, axis=1), INSTANCES.repeat(2, axis=1)
    with SampleStoreWriter(paths.real("train"), num_classes=8) as writer:
        writer.add(Sample("train-00000", image, *wide, {}))
        writer.finish(manifest={})
    data = open_training_data(paths, color_map="panoptic", image_size=16, seed=0)
    code = ColorCode(SCENES_TAXONOMY, kind="panoptic")
    np.testing.assert_array_equal(data.read_color_map(0), code.encode(MASK, instance_map=INSTANCES))
    np.testing.assert_allclose(data.read_image(0)[:, [0, 15]], [[[0] * 3, [200] * 3]] * 16, atol=1)
