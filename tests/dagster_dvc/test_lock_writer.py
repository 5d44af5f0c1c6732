"""Our way of writing a stage into dvc.lock against DVC's own, byte for byte."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from dvc import dvcfile

from dagster_dvc import lock_writer
from tests.dagster_dvc.conftest import dvc

STAGES: dict[str, Any] = {
    "masksyn@car": {
        "cmd": "python -m seggen_core masksyn --item car",
        "deps": [
            {"path": "data/real/train", "hash": "md5", "md5": "0123.dir", "size": 12, "nfiles": 3}
        ],
        "params": {
            "params.yaml": {
                "seed": 0,
                "masksyn": {"steps": 30, "scale": 7.5, "rate": 1e-05, "prompt": None},
            }
        },
        "outs": [
            {
                "path": "data/synthetic/masksyn/car",
                "hash": "md5",
                "md5": "4567.dir",
                "size": 1,
                "nfiles": 1,
            }
        ],
    },
    "'quoted' # name": {
        "cmd": ["first: one", "second " + "and long " * 30],
        "outs": [{"path": "été", "md5": "0o17"}],
    },
    "42": {
        "cmd": "printf 'a\n\n  b\n'",
        "params": {"params.yaml": {"on": "off", "empty": {}, "list": [], "text": "  x:\n"}},
    },
    "last": {"cmd": "true"},
}


@pytest.fixture
def modify() -> Iterator[
    tuple[Callable[..., AbstractContextManager[Any]], Callable[..., AbstractContextManager[Any]]]
]:
    """DVC's own `modify_yaml`, and ours."""
    own = dvcfile.modify_yaml
    try:
        lock_writer.install()
        yield own, dvcfile.modify_yaml
    finally:
        dvcfile.modify_yaml = own


def write(modify_yaml: Any, path: Path, stages: dict[str, Any]) -> str:
    """What `Lockfile.dump_stages` does with each stage."""
    for name, stage in stages.items():
        with modify_yaml(str(path)) as data:
            if not data:
                data.update({"schema": "2.0"})
            data["stages"] = data.get("stages", {})
            data["stages"].get(name, {})
            data["stages"].update({name: stage})
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("again", list(STAGES))
def test_the_same_bytes_as_dvcs(modify: tuple[Any, Any], tmp_path: Path, again: str) -> None:
    own, ours = modify
    paths = [tmp_path / "a" / "dvc.lock", tmp_path / "b" / "dvc.lock"]
    for path in paths:
        path.parent.mkdir()
    assert write(own, paths[0], STAGES) == write(ours, paths[1], STAGES)
    assert lock_writer.LockText.is_plain(paths[1].read_text(encoding="utf-8"))
    changed = {
        again: {"cmd": "another", "outs": [{"path": "out", "md5": "89ab"}]},
        "new": STAGES["masksyn@car"],
    }
    assert write(own, paths[0], changed) == write(ours, paths[1], changed)


def test_what_a_stage_was_is_read_as_dvc_reads_it(modify: tuple[Any, Any], tmp_path: Path) -> None:
    path = tmp_path / "dvc.lock"
    text = lock_writer.LockText(write(modify[0], path, STAGES))
    assert {name: text.get(name, None) for name in STAGES} == STAGES
    assert text.get("masksyn", {}) == {}


@pytest.mark.parametrize(
    "text",
    [
        "schema: '2.0'\nstages: {}\n",
        "schema: '2.0'\nstages:\n  a:\n    cmd: x\n# the end\n",
        "schema: '2.0'\nstages:\n  a:\n    cmd: x\n<<<<<<< HEAD\n  b:\n    cmd: y\n",
        "schema: '2.0'\nstages:\n  a:\n    cmd: x\ndatasets:\n- name: d\n",
        "schema: '2.0'\nstages:\n  a:\n    outs: &id001\n    - path: x\n  b:\n    outs: *id001\n",
        "schema: '2.0'\nstages:\n  a: {cmd: x}\n  b:\n    cmd: y\n",
        "schema: '2.0'\nstages:\n  ? a\n  : cmd: x\n",
        "schema: '2.0'\nstages:\n  a:\n    cmd: x",
    ],
)
def test_other_files_are_left_to_dvc(text: str) -> None:
    assert not lock_writer.LockText.is_plain(text)


def test_a_stage_through_dvc_changes_its_own_lines_only(project: Path, server: Any) -> None:
    before = (project / "dvc.lock").read_text().splitlines()
    (project / "params.yaml").write_text(
        (project / "params.yaml").read_text().replace("seed: 0", "seed: 1")
    )
    stage = server.run(project, "masksyn@car")
    lines = list(stage.lines())
    assert "Updating lock file 'dvc.lock'" in lines
    after = (project / "dvc.lock").read_text()
    changed = [
        (old, new) for old, new in zip(before, after.splitlines(), strict=True) if old != new
    ]
    assert changed == [("        seed: 0", "        seed: 1")]
    # And DVC's own writer has nothing to add.
    dvc(project, "commit", "--force", "masksyn@car")
    assert (project / "dvc.lock").read_text() == after
