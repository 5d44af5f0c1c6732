import numpy as np
import pytest

from seggen_core.colors.decoding import nearest_ids
from seggen_core.colors.palette import class_palette
from seggen_core.colors.semantic import mask_to_color
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

GREY = np.array([128, 128, 128])


def distances(palette: np.ndarray) -> np.ndarray:
    colours = palette.astype(np.int64)
    return np.sqrt(((colours[:, None] - colours[None]) ** 2).sum(-1)) + np.diag(
        [np.inf] * len(colours)
    )


@pytest.mark.parametrize(
    "num_classes, smallest",
    [(2, 255), (8, 255), (12, 141), (19, 130), (21, 128), (150, 58), (255, 46)],
)
def test_colours_are_far_apart_and_far_from_ignored_grey(num_classes: int, smallest: float) -> None:
    palette = class_palette(num_classes)
    assert palette.shape == (num_classes, 3) and palette.dtype == np.uint8
    assert distances(palette).min() >= smallest
    assert np.sqrt(((palette - GREY) ** 2).sum(-1)).min() >= smallest / 2


@pytest.mark.parametrize("num_classes", [0, 256])
def test_a_palette_has_1_to_255_colours(num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"got {num_classes}"):
        class_palette(num_classes)


def test_ignored_pixels_are_grey() -> None:
    color = mask_to_color(np.array([[0, IGNORE_INDEX]], np.uint8), palette=class_palette(3))
    assert color.tolist() == [[[0, 0, 255], [128, 128, 128]]]


def test_an_unknown_id_is_an_error() -> None:
    with pytest.raises(DatasetError, match=r"ids \[3, 254\]; expected 0-2 or 255"):
        mask_to_color(np.array([[0, 3, 254, 255]], np.uint8), palette=class_palette(3))


def test_a_blend_along_an_edge_of_the_cube_passes_near_no_third_colour() -> None:
    palette = class_palette(8)
    edges = [(a, b) for a in range(8) for b in range(8) if (palette[a] != palette[b]).sum() == 1]
    assert len(edges) == 24
    for a, b in edges:
        blends = np.array(
            [
                [
                    np.round(palette[a] * share + palette[b] * (1.0 - share))
                    for share in np.linspace(0, 1, 9)
                ]
            ]
        )
        assert set(np.unique(nearest_ids(blends.astype(np.uint8), palette=palette))) == {a, b}
