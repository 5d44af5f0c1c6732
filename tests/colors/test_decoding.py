import numpy as np
import pytest

from seggen_core.colors.decoding import color_table, nearest_ids, palette_distances
from seggen_core.colors.palette import class_palette


def brute_force(pixels: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    squared = ((pixels[..., None, :].astype(np.int64) - palette.astype(np.int64)) ** 2).sum(-1)
    return squared.argmin(-1), np.sqrt(squared.min(-1))  # argmin takes the first of equals


def random_palette(num_colors: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_colors, 3), dtype=np.uint8)


PALETTES = {
    "one colour": class_palette(1),
    "two": class_palette(2),
    "corners": class_palette(8),
    "150 classes": class_palette(150),
    "255 classes": class_palette(255),
    "256 at random": random_palette(256, 0),
    "crowded": random_palette(200, 1) // 16 + 100,  # many nearest colours in few cells
    "greys": np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[:, None], 3, axis=1),
    "doubled": np.concatenate([class_palette(20), class_palette(20)[::-1]]),
    # Planes halfway between colours run through whole numbers: every second colour of the cube
    # ties.
    "many ties": np.stack(np.meshgrid(*[np.arange(0, 256, 50)] * 3), axis=-1)
    .reshape(-1, 3)
    .astype(np.uint8),
}


@pytest.mark.parametrize("name", PALETTES)
def test_every_pixel_is_brute_force_nearest(name: str) -> None:
    palette, rng = PALETTES[name], np.random.default_rng(0)
    near = palette[rng.integers(0, len(palette), 4_000)] + np.round(rng.normal(0, 8, (4_000, 3)))
    pixels = np.concatenate(
        [rng.integers(0, 256, (4_000, 3)), np.clip(near, 0, 255), palette]
    ).astype(np.uint8)
    ids, distance = brute_force(pixels, palette)
    nearest = nearest_ids(pixels, palette=palette)
    assert nearest.dtype == np.uint8 and (nearest == ids).all()
    distances = palette_distances(pixels, palette=palette, ids=nearest)
    assert distances.dtype == np.float32 and np.allclose(distances, distance, rtol=1e-6)


@pytest.mark.parametrize("name", ["corners", "many ties", "crowded"])
def test_all_colours_of_the_cube_where_cells_meet(name: str) -> None:
    """Planes of colours right at and beside the cells' faces, whole: the bounds are tight there."""
    palette = PALETTES[name]
    g, b = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    for r in (7, 128):
        plane = np.stack([np.full_like(g, r), g, b], axis=-1).astype(np.uint8)
        axes = [
            (plane[..., a, None].astype(np.int64) - palette[:, a].astype(np.int64)) ** 2
            for a in range(3)
        ]
        assert (nearest_ids(plane, palette=palette) == sum(axes).argmin(-1)).all()


def test_a_cell_has_a_block_exactly_where_it_has_two_owners() -> None:
    table = color_table(class_palette(19))
    blocks = (table.cells & 1).astype(bool)
    owners = [len(np.unique(table.ids[(c >> 1) : (c >> 1) + 512])) for c in table.cells[blocks]]
    assert min(owners) >= 2
    assert len(table.ids) == 256 + 512 * blocks.sum() and 0 < blocks.sum() < 8192
    assert (
        color_table(class_palette(8)).cells & 1
    ).sum() == 0  # corners: their planes run between cells


def test_shapes_and_layouts() -> None:
    palette, pixels = (
        class_palette(21),
        np.random.default_rng(0).integers(0, 256, (2, 7, 300, 3), dtype=np.uint8),
    )
    whole = nearest_ids(pixels, palette=palette)
    assert whole.shape == (2, 7, 300)
    assert (
        nearest_ids(pixels.transpose(0, 2, 1, 3), palette=palette) == whole.transpose(0, 2, 1)
    ).all()
    assert (nearest_ids(pixels[..., ::-1], palette=palette[:, ::-1]) == whole).all()
    assert nearest_ids(pixels[:, :0], palette=palette).shape == (2, 0, 300)
    assert palette_distances(pixels[:, :0], palette=palette, ids=whole[:, :0]).shape == (2, 0, 300)


def test_maps_larger_than_a_chunk() -> None:
    palette, pixels = (
        class_palette(12),
        np.random.default_rng(0).integers(0, 256, (33_001, 3), dtype=np.uint8),
    )
    ids, distance = brute_force(pixels, palette)
    nearest = nearest_ids(pixels, palette=palette)
    assert (nearest == ids).all()
    assert np.allclose(palette_distances(pixels, palette=palette, ids=nearest), distance)


def test_a_table_is_made_once_per_palette() -> None:
    assert color_table(class_palette(30)) is color_table(class_palette(30).copy())
    assert color_table(class_palette(30)) is not color_table(class_palette(31))


@pytest.mark.parametrize(
    "palette",
    [np.zeros((0, 3), np.uint8), np.zeros((257, 3), np.uint8), np.zeros((4, 4), np.uint8)],
)
def test_a_palette_has_1_to_256_colours_of_three_channels(palette: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \[1 to 256, 3\]"):
        color_table(palette)
