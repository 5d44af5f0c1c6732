"""Files between stages: read with their types, or refused with what brings them back."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from seggen_core.errors import ArtefactError
from seggen_core.project.artefacts import read_artefact, read_table
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arms import TrainedArm
from seggen_core.taxonomy import Taxonomy

CURE = r"run: dvc checkout --force data/real/taxonomy\.json, or dvc repro -f -s dataset"
SUBSETS = dict[str, list[str]]
WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "EOF"),
    "half": (b'{"0": ["a"', "EOF"),
    "garbage": (bytes(range(256)), "Invalid JSON"),
    "garbage behind it": (b'{"0": ["a"]} x', "trailing characters"),
    "another type": (b"[]", "object"),
    "another type inside": (b'{"0": ["a", 3]}', r"0\.1: Input should be a valid string"),
    "too deep": (b"[" * 100_000, "recursion limit"),
    "a number of 5,000 digits": (b"9" * 5000, "JSON|object"),
    "not UTF-8": (b'{"0": ["\xff"]}', "Invalid JSON"),
}


@pytest.mark.parametrize("content, words", WRONG.values(), ids=WRONG)
def test_json_of_another_type_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "data" / "real" / "taxonomy.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match=f"(?s){words}.*{CURE}") as caught:
        read_artefact(path, SUBSETS, stage="dataset")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    make: dict[str, Callable[[Path], Any]] = {
        "fifo": os.mkfifo,
        "folder": Path.mkdir,
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "loop": lambda path: path.symlink_to(path.name),
    }
    for name, make_it in make.items():
        make_it(tmp_path / name)
        with pytest.raises(ArtefactError, match="is damaged"):
            read_artefact(tmp_path / name, SUBSETS, stage="dataset")
        with pytest.raises(ArtefactError, match="is damaged"):
            read_table(tmp_path / name, text_columns=["a"], stage="captions")
    with pytest.raises(FileNotFoundError):
        read_artefact(tmp_path / "nothing", SUBSETS, stage="dataset")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda frame: frame.drop(columns="caption"), "no column 'caption'"),
        (lambda frame: frame.assign(caption=[1, 2]), "holds int64, not text"),
        (lambda frame: frame.assign(caption=["a", None]), "has empty places"),
    ],
    ids=["missing", "numbers", "empty"],
)
def test_a_table_with_other_columns(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    frame = pd.DataFrame({"sample_key": ["x", "y"], "caption": ["a", "b"]})
    path = tmp_path / "captions.parquet"
    columns = ["sample_key", "caption"]
    frame.to_parquet(path)
    assert read_table(path, text_columns=columns, stage="captions").equals(frame)
    change(frame).to_parquet(path)
    with pytest.raises(ArtefactError, match=f"{words}.*dvc repro -f -s captions"):
        read_table(path, text_columns=columns, stage="captions")


def test_a_flipped_bit_anywhere_is_said_or_harmless(tmp_path: Path) -> None:
    """Its footer has no checksum, and holds notes of pandas, too."""
    path = tmp_path / "captions.parquet"
    frame = pd.DataFrame({"sample_key": ["x", "y"], "caption": ["a", "b"]})
    frame.to_parquet(path)
    sound, num_refused = path.read_bytes(), 0
    for position in range(len(sound)):
        data = bytearray(sound)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        try:
            read_table(path, text_columns=["sample_key", "caption"], stage="captions")
        except ArtefactError:
            num_refused += 1
    assert num_refused > len(sound) // 10


def test_what_a_stage_reads_of_another_names_the_stage(tmp_path: Path) -> None:
    paths = ProjectPaths(tmp_path)
    paths.taxonomy.parent.mkdir(parents=True)
    paths.taxonomy.write_text('[{"train_id": 1, "name": "sky", "is_thing": false}]')
    with pytest.raises(ArtefactError, match=f"train ids must be 0.*{CURE}"):
        Taxonomy.read(paths.taxonomy)
    metrics = paths.checkpoint("arm") / "metrics.json"
    metrics.parent.mkdir(parents=True)
    for text in ('{"model": "vgg", "seeds": {"0": {}}}', '{"model": "hrnet", "seeds": {}}', "{}"):
        metrics.write_text(text)
        with pytest.raises(ArtefactError, match="dvc repro -f -s train_seg@arm"):
            TrainedArm.read(paths, variant="arm")
