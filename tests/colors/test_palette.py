import numpy as np
import pytest

from seggen_core.colors.palette import CORNERS, IGNORE_COLOR, class_palette
from tools.pack_palettes import _farthest_points, separate_colors, smallest_distance

HELD = np.array([*CORNERS, IGNORE_COLOR])


@pytest.fixture(scope="module")
def greedy() -> np.ndarray:
    """255 colours by farthest-point sampling; the first n are its palette of n."""
    return np.concatenate(
        [HELD[:-1], _farthest_points(247, held=HELD.astype(float), root=np.eye(3))]
    )


def test_every_shipped_palette_begins_with_the_corners_and_is_further_apart_than_a_greedy_one(
    greedy: np.ndarray,
) -> None:
    for num_classes in range(1, 256):
        palette = class_palette(num_classes)
        assert palette.shape == (num_classes, 3) and palette.dtype == np.uint8
        assert (palette[:8] == np.array(CORNERS)[:num_classes]).all()
        if num_classes > 8:
            ours, theirs = (
                smallest_distance(np.concatenate([p, HELD[-1:]]))
                for p in (palette, greedy[:num_classes])
            )
            assert ours > theirs, num_classes


@pytest.mark.parametrize(
    "num_classes, gain", [(80, 1.25), (133, 1.25), (150, 1.25), (171, 1.2), (255, 1.25)]
)
def test_large_palettes_gain_a_fifth_and_more(
    num_classes: int, gain: float, greedy: np.ndarray
) -> None:
    assert smallest_distance(class_palette(num_classes)) > gain * smallest_distance(
        greedy[:num_classes]
    )


def test_the_search_finds_the_ninth_colour_where_it_must_be() -> None:
    separated = separate_colors(9)
    assert (separated[:8] == CORNERS).all()
    # On a face, 142.7 from two corners and from grey: the best there is (127.5^2 + z^2 = 127.5^2 +
    # (127.5 - z)^2).
    assert smallest_distance(np.concatenate([separated, HELD[-1:]])) == pytest.approx(
        np.hypot(127, 64), abs=1
    )


def test_a_metric_moves_colours_apart_along_the_noise() -> None:
    noise = np.array(
        [[400.0, 300, 300], [300, 400, 300], [300, 300, 400]]
    )  # brightness suffers, hue doesn't
    metric = np.linalg.inv(noise)
    plain, aware = (
        separate_colors(30, num_steps=200),
        separate_colors(30, metric=metric, num_steps=200),
    )
    assert smallest_distance(aware, metric=metric) > 1.1 * smallest_distance(plain, metric=metric)
    assert smallest_distance(plain) > smallest_distance(aware)
    assert (aware == separate_colors(30, metric=metric, num_steps=200)).all()


def test_distance_is_in_standard_deviations_of_the_noise() -> None:
    colors = np.array([[0, 0, 0], [10, 0, 0], [0, 40, 0]], np.uint8)
    assert smallest_distance(colors) == 10
    assert smallest_distance(colors, metric=np.diag([1 / 4, 1 / 400, 1])) == pytest.approx(2)
