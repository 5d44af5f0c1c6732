"""Arrays of ids: from those in a dataset's files to train ids and numbered instances."""

from collections.abc import Iterable, Mapping

import numpy as np

from seggen_core.datasets.class_table import ClassTable
from seggen_core.datasets.decode import Picture
from seggen_core.datasets.sample import CHECK, RgbEncoding, check_labelled
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass

MIN_PURITY = 0.9
"""Least share of the instances' pixels that have their instance's most frequent class."""

_MAX_NAMED = 5
_NUM_IDS = 1 << 16
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def id_table(train_ids: Mapping[int, int]) -> np.ndarray:
    """Return int16 [65536]: the train id of every id in a file, -1 where the id is not allowed."""
    table = np.full(_NUM_IDS, -1, np.int16)
    table[list(train_ids)] = list(train_ids.values())
    return table


def to_train_ids(ids: np.ndarray, *, table: np.ndarray, path: Picture, allowed: str) -> np.ndarray:
    """Map the ids of a file to train ids.

    Args:
        ids: uint8 or uint16 [H, W], as in the file.
        table: int16 [65536] of `id_table`.
        path: the file, named in errors.
        allowed: the allowed ids in words (`ClassTable.allowed`).

    Returns:
        uint8 [H, W], train ids or IGNORE_INDEX.

    Raises:
        DatasetError: an id isn't allowed, or every pixel is to be ignored.
    """
    mapped = table[ids]
    if mapped.min() < 0:
        values, counts = np.unique(ids[mapped < 0], return_counts=True)
        foreign = ", ".join(
            f"{v} ({n} pixels)" for v, n in zip(values[:_MAX_NAMED], counts, strict=False)
        )
        raise DatasetError(f"{path} has label {foreign}; {allowed} {CHECK}")
    segmentation_map = mapped.astype(np.uint8)
    check_labelled(segmentation_map, where=str(path))
    return segmentation_map


def ids_of_colors(
    colors: np.ndarray, *, table: ClassTable, path: Picture
) -> tuple[np.ndarray, RgbEncoding]:
    """Turn an RGB mask into the ids of its classes.

    Colours are matched exactly: a colour that no class has is an error. A mask with R = G = B
    everywhere holds ids, unless its colours are those of the classes.

    Args:
        colors: uint8 [H, W, 3].
        table: classes, perhaps with colours of their own.
        path: the file, named in errors.

    Returns:
        uint16 [H, W], and what the file was taken to hold.
    """
    is_grey = (colors[..., :1] == colors[..., 1:]).all()
    if not table.has_own_colors:
        if is_grey:
            return colors[..., 0].astype(np.uint16), "ids"
        raise DatasetError(
            f"{path} is an RGB mask with colours, but not every row of the class list has a "
            f"colour; expected ids, or a colour for every class {CHECK}"
        )
    packed = (colors.astype(np.int32) << [16, 8, 0]).sum(-1, dtype=np.int32)
    file_ids = {
        (r << 16) | (g << 8) | b: file_id for file_id, (r, g, b) in table.colors_by_id().items()
    }
    values = np.array(sorted(file_ids), np.int32)
    rows = np.searchsorted(values, packed).clip(max=len(values) - 1)
    foreign = packed[values[rows] != packed]
    if foreign.size and is_grey:
        return colors[..., 0].astype(np.uint16), "ids"
    if foreign.size:
        value = int(foreign[0])
        color = (value >> 16, value >> 8 & 255, value & 255)
        raise DatasetError(
            f"{path} has colour {color} in {foreign.size} pixel(s), which no class of the class "
            "list has; expected exact colours (a mask saved as JPEG or resized has others), or "
            f"ids {CHECK}"
        )
    return np.array([file_ids[int(v)] for v in values], np.uint16)[rows], "colours"


def ids_of_bits(bits: np.ndarray, *, table: ClassTable) -> np.ndarray:
    """Turn a mask of 1 bit, bool [H, W], into ids, uint8 [H, W].

    White is 1, or 255 if the class list has 255 and not 1.
    """
    listed = table.names_by_id()
    white = IGNORE_INDEX if IGNORE_INDEX in listed and 1 not in listed else 1
    return np.where(bits, np.uint8(white), np.uint8(0))


def colors_in_file(ids: np.ndarray, palette: np.ndarray | None) -> dict[int, tuple[int, int, int]]:
    """Return the colour that a mask's file gives each id in it.

    A palette of greys (i, i, i) says nothing.

    Args:
        ids: uint8 [H, W], indexes of the palette.
        palette: uint8 [num_colors, 3]; None where the file has none.
    """
    if palette is None or (palette == np.arange(len(palette))[:, None]).all():
        return {}
    rows = palette.tolist()
    return {i: tuple(rows[i]) for i in sorted_unique(ids).tolist() if i < len(rows)}


def check_palette(
    palette: Mapping[int, tuple[int, int, int]], *, table: ClassTable, path: Picture, dataset: str
) -> None:
    """Compare the colours that a mask's file gives its ids with those of the classes.

    A class without a colour says nothing.

    Args:
        found: the mask's, of `colors_in_file`.
        table: the classes.
        path: the mask, named in errors.
        dataset: whose classes they are, named in errors.

    Raises:
        DatasetError: a colour differs.
    """
    colors = table.colors_by_id()
    for file_id, color in palette.items():
        if file_id in colors and color != tuple(colors[file_id]):
            raise DatasetError(
                f"{path} has a palette in which {file_id} is {color}, but {dataset} gives "
                f"{table.names_by_id().get(file_id, 'it')} (id {file_id}) the colour "
                f"{tuple(colors[file_id])}; expected the same: convert the mask to RGB if its "
                f"colours are right, or to 8-bit grey if its ids are {CHECK}"
            )


def check_not_inverted(palette: Mapping[int, tuple[int, int, int]], *, path: Picture) -> None:
    """Refuse a mask of black and white whose palette says that 0 is white.

    As 1-bit grey, which it looks like, it would hold the other ids.

    Args:
        palette: the mask's, of `colors_in_file`.
        path: the mask, named in errors.

    Raises:
        DatasetError: 0 is white, and everything else black.
    """
    others = [color for file_id, color in palette.items() if file_id != 0]
    if palette.get(0) == _WHITE and all(color == _BLACK for color in others):
        raise DatasetError(
            f"{path} has a palette in which 0 is white and nothing else is; expected 0 to be "
            f"black, as in masks of 1 bit: convert it to 8-bit grey with the ids that you mean "
            f"{CHECK}"
        )


def number_instances(ids: np.ndarray, *, path: Picture | None) -> tuple[np.ndarray, list[int]]:
    """Number instances 1, 2, ... in the order of their ids.

    Args:
        ids: integers [H, W], 0 where there is no instance.
        path: the file, named in errors.

    Returns:
        uint16 [H, W] of numbers, and the ids: instance k is the one with id ``[k - 1]``.
    """
    values = sorted_unique(ids)
    values = values[values != 0]
    if len(values) >= 1 << 16:
        raise DatasetError(f"{path} has {len(values)} instances; expected at most 65535 {CHECK}")
    numbers = np.searchsorted(values, ids) + 1
    return np.where(ids == 0, 0, numbers).astype(np.uint16), values.tolist()


def sorted_unique(ids: np.ndarray) -> np.ndarray:
    """Return the distinct values of an integer map, sorted.

    It sorts one value of each run of equal neighbours, which is ten times as fast as sorting all.
    """
    flat = ids.ravel()
    if not flat.size:
        return flat
    return np.unique(flat[np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1))])


def check_instances(
    instance_map: np.ndarray, segmentation_map: np.ndarray, *, path: Picture | None
) -> None:
    """Raise DatasetError where instances cover several classes: the maps are of different images.

    Args:
        instance_map: uint16 [H, W], 0 where there is no instance.
        segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
        path: the instance map's file, named in errors.
    """
    where = (instance_map > 0) & (segmentation_map != IGNORE_INDEX)
    pairs, counts = np.unique(
        instance_map[where].astype(np.int32) << 8 | segmentation_map[where], return_counts=True
    )
    if not counts.size:
        return
    largest = np.zeros(int(instance_map.max()) + 1, np.int64)
    np.maximum.at(largest, pairs >> 8, counts)
    share = largest.sum() / counts.sum()
    if share < MIN_PURITY:
        raise DatasetError(
            f"{path} contradicts its mask: {1 - share:.0%} of the instances' pixels have another "
            f"class than most of their instance; expected one class an instance {CHECK}"
        )


def check_stated_classes(
    stated: np.ndarray, segmentation_map: np.ndarray, *, path: Picture | None
) -> None:
    """Raise DatasetError where an instance map names other classes than its mask.

    A mask of one class alone is left to the checks of whole splits, which know whether all are so.

    Args:
        stated: integers [H, W], the train id that the instance map's file names at each pixel,
            IGNORE_INDEX of ignored classes, -1 where it names none, -2 where it has no instance.
        segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
        path: the instance map's file, named in errors.
    """
    is_labelled = segmentation_map != IGNORE_INDEX
    where = (stated != -2) & is_labelled
    if not where.any() or np.ptp(segmentation_map[is_labelled]) == 0:
        return
    share = (stated[where] != segmentation_map[where]).mean()
    if share > 1 - MIN_PURITY:
        raise DatasetError(
            f"{path} contradicts its mask: at {share:.0%} of its pixels it names another class; "
            f"expected the class that the mask has there {CHECK}"
        )


def things_only(
    instance_ids: np.ndarray, *, segmentation_map: np.ndarray, taxonomy: Iterable[SegmentationClass]
) -> np.ndarray:
    """Return `instance_ids` with 0 wherever the class is no thing."""
    is_thing = np.zeros(256, bool)
    for c in taxonomy:
        is_thing[c.train_id] = c.is_thing
    is_thing[IGNORE_INDEX] = False
    return np.where(is_thing[segmentation_map], instance_ids, 0)
