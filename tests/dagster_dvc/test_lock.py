"""dvc.lock as data."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dagster_dvc.errors import DvcProjectError
from dagster_dvc.lock import LockedOut, _cut_out, parse_lock, read_lock
from dagster_dvc.repro import main
from dagster_dvc.status import changed_stages

TEXT = """schema: '2.0'
stages:
  dataset:
    cmd: sh stage.sh dataset
    deps:
    - path: stage.sh
      hash: md5
      md5: a123
      size: 5
    params:
      params.yaml:
        dataset.image_size: 64
        seed: 0
    outs:
    - path: data/real
      hash: md5
      md5: abcd.dir
      size: 7
      nfiles: 2
  masksyn@car:
    cmd:
    - first
    - second
    outs:
    - path: data/synthetic/car
      hash: md5
      md5: ef01
      size: 3
"""


def test_stages_as_dvc_recorded_them() -> None:
    lock = parse_lock(TEXT, where="dvc.lock")
    assert list(lock) == ["dataset", "masksyn@car"]
    assert lock["dataset"].deps == {"stage.sh": "a123"}
    assert lock["dataset"].params == {"params.yaml": {"dataset.image_size": 64, "seed": 0}}
    assert lock["dataset"].outs == {"data/real": LockedOut("abcd.dir", size=7, num_files=2)}
    assert lock["masksyn@car"].cmd == ("first", "second")


@pytest.mark.parametrize(
    "names", [{"dataset"}, {"masksyn@car"}, {"dataset", "masksyn@car"}, {"absent"}]
)
def test_a_part_reads_as_it_does_in_the_whole(names: set[str]) -> None:
    whole = parse_lock(TEXT, where="dvc.lock")
    part = parse_lock(_cut_out(TEXT, names), where="dvc.lock")
    assert part == {name: stage for name, stage in whole.items() if name in names}


@pytest.mark.parametrize(
    "text",
    [
        "stages: [1",
        "stages: {a: {outs: []}}",
        "- a",
        TEXT[: TEXT.index("      md5: a123")],
        "a:\tb",
    ],
)
def test_a_damaged_file_is_named_with_the_cure(text: str) -> None:
    with pytest.raises(DvcProjectError, match=r"dvc\.lock is damaged or cut off.* delete it"):
        parse_lock(text, where="dvc.lock")


@pytest.mark.parametrize("text", ["", "\n", " "])
def test_an_empty_file_is_named_with_the_cure(text: str) -> None:
    with pytest.raises(DvcProjectError, match=r"dvc\.lock is empty.* delete it"):
        parse_lock(text, where="dvc.lock")


def test_a_record_has_a_digest_of_all_that_it_holds() -> None:
    digests = {
        parse_lock(text, where="dvc.lock")["dataset"].digest
        for text in (TEXT, TEXT.replace("a123", "b"), TEXT.replace("seed: 0", "seed: 1"))
    }
    assert len(digests) == 3


def test_a_lock_that_was_cut_anywhere_is_read_or_named_and_the_cure_works(project: Path) -> None:
    """DVC writes dvc.lock in place. DVC reads what is left of it, or one message says why."""
    text = (project / "dvc.lock").read_text()
    messages = set()
    for offset in range(0, len(text), len(text) // 23):
        (project / "dvc.lock").write_text(text[:offset])
        try:
            changed_stages(project)
        except DvcProjectError as error:
            messages.add(str(error).partition("else delete it. Then run again")[1])
    assert messages == {"else delete it. Then run again"}
    (project / "dvc.lock").unlink()
    assert main(["--cd", str(project)]) == 0
    assert read_lock(project) == parse_lock(text, where="dvc.lock")


@pytest.mark.parametrize("put", [os.mkfifo, lambda lock: lock.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_not_read(tmp_path: Path, put: Callable[[Path], None]) -> None:
    (tmp_path / ".dvc").mkdir()
    put(tmp_path / "dvc.lock")
    with pytest.raises(DvcProjectError, match=r"dvc\.lock is no regular file; delete it"):
        read_lock(tmp_path)
