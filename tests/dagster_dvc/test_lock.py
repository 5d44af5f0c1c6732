"""dvc.lock as data."""

import pytest

from dagster_dvc.errors import DvcProjectError
from dagster_dvc.lock import LockedOut, _cut_out, parse_lock

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


@pytest.mark.parametrize("text", ["stages: [1", "stages: {a: {outs: []}}", "- a"])
def test_what_is_no_lock_file_is_said(text: str) -> None:
    with pytest.raises(DvcProjectError, match=r"dvc\.lock is no lock file"):
        parse_lock(text, where="dvc.lock")
