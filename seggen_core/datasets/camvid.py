"""CamVid (Brostow et al. 2009), in the 11-class, 480x360 layout that SegNet published.

    root/train/0001TP_006690.jpg   root/trainannot/0001TP_006690.png   and the same for val and test

Masks hold ids 0-10 and 11 for void. Things follow the convention of Cityscapes: what moves by itself is countable (car,
pedestrian, bicyclist); poles and signs are stuff. There are no instance ids.
"""

import re
from pathlib import Path

from seggen_core.config import DatasetConfig
from seggen_core.datasets.reader import FilePair, RawSample, Split, id_table, pair_files, read_pair, to_train_ids
from seggen_core.datasets.subset import hold_out, limit
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass, Taxonomy

_NAMES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
_THINGS = {"car", "pedestrian", "bicyclist"}
CAMVID_TAXONOMY = Taxonomy([SegmentationClass(i, name, name in _THINGS) for i, name in enumerate(_NAMES)])
"""The 11 classes, in the order of the files' ids."""

_VOID = 11
_TABLE = id_table({i: i for i in range(len(_NAMES))} | {_VOID: IGNORE_INDEX})

VALIDATION_SHARE = 0.1
"""Share of the training frames held out for validation where `num_val` doesn't say."""

_MAX_GAP = 60
"""Frames (2 s at 30 Hz) between two stills of one run; the training stills lie 30 apart, with breaks of 270 and more."""


class CamVidReader:
    """CamVid with its published splits, or with the val folder held out as test (`dataset.splits: val_as_test`).

    The val folder is one 7-second drive at 15 stills a second, and neighbouring stills show the same street. So where the
    validation samples have to come out of the train folder, they are whole stretches of time, the beginning or the end of
    each unbroken run of stills, and meet the training stills at one place a run.
    """

    def __init__(self, config: DatasetConfig, *, root: Path, seed: int) -> None:
        """List the folders; DatasetError where one is missing."""
        held_out = config.splits == "val_as_test"
        if not held_out and not (root / "test").is_dir():
            raise DatasetError(
                f"{root / 'test'} is missing; expected the published splits train, val and test. Without it, set dataset.splits "
                "to val_as_test: the val folder is then held out for evaluation and validation is cut from train"
            )
        folders: dict[Split, str] = (
            {"train": "train", "val": "train", "test": "val"} if held_out else {"train": "train", "val": "val", "test": "test"}
        )
        listed = {f: pair_files(root / f, mask_folder=root / f"{f}annot", root=root) for f in dict.fromkeys(folders.values())}
        keys = {split: list(listed[folder]) for split, folder in folders.items()}
        if held_out:
            count = config.num_val or max(1, round(VALIDATION_SHARE * len(keys["train"])))
            held = hold_out(_runs(keys["train"]), count=count, seed=seed)
            keys["val"] = [k for k in keys["train"] if k in held]
            keys["train"] = [k for k in keys["train"] if k not in held]
        counts: dict[Split, int | None] = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
        self._keys = {s: limit(keys[s], count=counts[s], seed=seed, split=s) for s in folders}
        self._pairs: dict[Split, dict[str, FilePair]] = {s: {k: listed[folders[s]][k] for k in self._keys[s]} for s in folders}
        self._root = root

    @property
    def taxonomy(self) -> Taxonomy:
        """The 11 classes of CamVid."""
        return CAMVID_TAXONOMY

    def keys(self, split: Split) -> list[str]:
        """Return file stems ("0001TP_006690"), sorted."""
        return list(self._keys[split])

    def read(self, split: Split, key: str) -> RawSample:
        """Decode one frame and its mask; metadata names the file and the recording."""
        if key not in self._pairs[split]:
            raise DatasetError(f"camvid has no {split} sample {key!r}; expected the stem of a file of that split")
        image_path, mask_path = self._pairs[split][key].checked()
        image, ids = read_pair(image_path, mask_path=mask_path)
        segmentation_map = to_train_ids(
            ids, table=_TABLE, path=mask_path, allowed=f"camvid allows 0-{_VOID - 1} or {_VOID} (void)"
        )
        metadata = {"file": image_path.relative_to(self._root).as_posix(), "recording": _place(key)[0]}
        return RawSample(image, segmentation_map, None, metadata)


def _place(stem: str) -> tuple[str, int]:
    """Return recording and frame number of a stem; a stem without them is a recording of its own."""
    match = re.fullmatch(r"(?P<recording>[^_]+)_\D?(?P<frame>\d+)", stem)
    return (match["recording"], int(match["frame"])) if match else (stem, 0)


def _runs(stems: list[str]) -> list[list[str]]:
    """Cut sorted stems where the recording changes or more than `_MAX_GAP` frames are left out."""
    runs: list[list[str]] = []
    last = ("", 0)
    for stem in stems:
        place = _place(stem)
        if not runs or place[0] != last[0] or place[1] - last[1] > _MAX_GAP:
            runs.append([])
        runs[-1].append(stem)
        last = place
    return runs
