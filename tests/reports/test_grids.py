import numpy as np
import pytest

from seggen_core.reports.grids import colorize, image_grid, overlay, pair_grid
from seggen_core.store.reader import Sample

PALETTE = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
RED, GREEN, GREY, WHITE = (255, 0, 0), (0, 255, 0), (128, 128, 128), (255, 255, 255)


def flat(color: tuple[int, int, int], height: int = 2, width: int = 3) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def test_colorize_paints_classes_and_ignored_pixels() -> None:
    colors = colorize(np.array([[0, 1, 255]], np.uint8), PALETTE)
    assert colors.dtype == np.uint8
    assert colors.tolist() == [[list(RED), list(GREEN), list(GREY)]]


def test_colorize_rejects_an_id_without_colour() -> None:
    with pytest.raises(ValueError, match=r"\[2, 254\].*0-1"):
        colorize(np.array([[0, 2, 254, 255]], np.uint8), PALETTE)


@pytest.mark.parametrize(
    "alpha, expected", [(0.0, [10, 200, 0]), (0.25, [58, 150, 64]), (1.0, [200, 0, 255])]
)
def test_overlay_blends(alpha: float, expected: list[int]) -> None:
    # 0.75 * (10, 200, 0) + 0.25 * (200, 0, 255) = (57.5, 150, 63.75); NumPy rounds half to even.
    blended = overlay(flat((10, 200, 0)), flat((200, 0, 255)), alpha)
    assert blended.dtype == np.uint8
    assert (blended == expected).all()


def test_overlay_rejects_other_shapes_and_alphas() -> None:
    with pytest.raises(ValueError, match=r"alpha 1\.5"):
        overlay(flat(RED), flat(RED), 1.5)
    with pytest.raises(ValueError, match="can't lay"):
        overlay(flat(RED), flat(RED, width=1), 0.5)


def test_grid_places_every_image() -> None:
    grid = np.asarray(image_grid([[flat(RED), flat(GREEN)], [flat(GREY)]], scale=2, gap=1))
    assert grid.shape == (2 * 4 + 3, 2 * 6 + 3, 3)
    assert (grid[1:5, 1:7] == RED).all()
    assert (grid[1:5, 8:14] == GREEN).all()
    assert (grid[6:10, 1:7] == GREY).all()
    assert (grid[6:10, 8:14] == WHITE).all()  # the second row is shorter
    assert (grid[[0, 5, 10]] == WHITE).all()
    assert (grid[:, [0, 7, 14]] == WHITE).all()


def test_grid_enlarges_without_blur() -> None:
    image = np.array([[RED, GREEN]], np.uint8)
    grid = np.asarray(image_grid([[image]], scale=3, gap=0))
    assert grid.tolist() == [[list(RED)] * 3 + [list(GREEN)] * 3] * 3


def test_labels_stand_left_of_their_row() -> None:
    rows = [[flat(RED, 20, 20)], [flat(RED, 20, 20)]]
    bare = image_grid(rows)
    labelled = np.asarray(image_grid(rows, labels=["truth", ""]))
    left = labelled.shape[1] - bare.width
    assert left > 0
    assert np.array_equal(labelled[:, left:], np.asarray(bare))
    assert (labelled[2:22, :left] < 128).any()
    assert (labelled[24:, :left] == WHITE).all()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [[]],
        [[flat(RED).astype(np.float32)]],
        [[np.zeros((2, 2), np.uint8)]],
    ],
)
def test_grid_rejects_what_it_cant_lay_out(rows: list[list[np.ndarray]]) -> None:
    with pytest.raises(ValueError, match="a grid needs uint8"):
        image_grid(rows)


def test_images_of_different_sizes_keep_their_aspect_in_equal_cells() -> None:
    grid = np.asarray(image_grid([[flat(RED, 300, 600), flat(RED, 40, 20)]], scale=3))
    assert grid.shape == (2 * 2 + 256, 2 * 258 + 2, 3)
    red = (grid == RED).all(-1)
    assert red[2:258, 2:258].sum() == 128 * 256 and red[66:194, 2:258].all()
    assert red[2:258, 260:516].sum() == 256 * 128 and red[2:258, 324:452].all()


def test_large_images_are_shrunk() -> None:
    assert image_grid([[flat(RED, 1024, 2048)] * 2]).size == (2 * 514 + 2, 256 + 4)


def test_grid_rejects_a_wrong_number_of_labels() -> None:
    with pytest.raises(ValueError, match="2 labels for 1 rows"):
        image_grid([[flat(RED)]], labels=["a", "b"])


def test_pair_grid_wraps_into_bands_of_three_rows() -> None:
    samples = [
        Sample(
            f"s{i}",
            flat((0, 0, 100), 4, 4),
            np.full((4, 4), i % 2, np.uint8),
            instance_map=None,
            metadata={},
        )
        for i in range(3)
    ]
    grid = np.asarray(pair_grid(samples, palette=PALETTE, num_columns=2, scale=1))
    assert grid.shape[0] == 2 + 6 * (4 + 2)
    cells = grid[:, -(2 + 2 * (4 + 2)) :]

    def cell(row: int, column: int) -> np.ndarray:
        return cells[2 + row * 6 : 6 + row * 6, 2 + column * 6 : 6 + column * 6]

    assert (cell(0, 0) == (0, 0, 100)).all()
    assert (cell(1, 0) == RED).all()
    assert (cell(1, 1) == GREEN).all()
    assert (cell(2, 1) == (0, 128, 50)).all()
    assert (cell(4, 0) == RED).all()
    assert (cell(4, 1) == WHITE).all()
