"""CamVid (Brostow et al. 2009), in the 11-class, 480x360 layout that SegNet published.

    root/train/0001TP_006690.jpg   root/trainannot/0001TP_006690.png   and the same for val and test

Masks hold ids 0-10 and 11 for void. Things follow the convention of Cityscapes: what moves by
itself is countable (car, pedestrian, bicyclist); poles and signs are stuff. There are no instance
ids.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader
from seggen_core.errors import DatasetError

_MAX_GAP = 60
"""Most frames (2 s at 30 Hz) between two stills of one run.

The training stills lie 30 apart, with breaks of 270 and more.
"""


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> IdMapReader:
    """List the published splits, or the val folder as the test split (`splits: val_as_test`).

    The val folder is one 7-second drive at 15 stills a second, and neighbouring stills show the
    same street. So where the validation samples have to come out of the train folder, they are
    whole stretches of time, the beginning or the end of each unbroken run of stills, and meet the
    training stills at one place a run.

    Raises:
        DatasetError: a folder is missing.
    """
    if (
        config.splits == "published"
        and not config.files.get("test")
        and not (root / "test").is_dir()
    ):
        raise DatasetError(
            f"{root / 'test'} is missing; expected the published splits train, val and test. "
            "Without it, set dataset.splits to val_as_test: the val folder is then held out for "
            "evaluation and validation is cut from train"
        )
    splits: tuple[Split, ...] = ("train", "val", "test")
    layout = {split: SplitFiles(images=split, masks=f"{split}annot") for split in splits}
    form = IdMapFormat(
        dataset="camvid", table=load_class_table("camvid"), metadata=_recording, runs=_runs
    )
    return IdMapReader(config, form=form, layout=layout, root=root, seed=seed)


def _recording(stem: str) -> dict[str, str]:
    return {"recording": _place(stem)[0]}


def _place(stem: str) -> tuple[str, int]:
    """Return recording and frame of a stem; a stem without them is a recording of its own."""
    match = re.fullmatch(r"(?P<recording>[^_]+)_\D?(?P<frame>\d+)", stem)
    return (match["recording"], int(match["frame"])) if match else (stem, 0)


def _runs(stems: Sequence[str]) -> list[list[str]]:
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
