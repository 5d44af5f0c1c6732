import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from seggen_core.project.digests import content_digest, dvc_digest
from seggen_core.tracking.dvc_lineage import DvcLock, git_tags, read_dvc_lock

A, B, C = (hashlib.md5(name.encode()).hexdigest() for name in "abc")
LOCK = f"""\
schema: '2.0'
stages:
  dataset:
    cmd: python -m seggen_core dataset
    deps:
    - path: seggen_core/stages/dataset.py
      hash: md5
      md5: {C}
    outs:
    - path: data/real
      hash: md5
      md5: {A}.dir
  masksyn@car:
    cmd: python -m seggen_core masksyn --item car
    deps:
    - path: data/real
      md5: {C}.dir
    outs:
    - path: data/synthetic/masksyn/car
      md5: {B}.dir
  masksyn@bus:
    outs:
    - path: data/synthetic/masksyn/bus
      md5: {C}.dir
"""


def test_outputs_at_above_and_below_a_path_have_the_md5s_of_dvc(tmp_path):
    (tmp_path / "dvc.lock").write_text(LOCK)
    lock = read_dvc_lock(tmp_path / "dvc.lock")
    assert lock.find("data/real") == lock.find("data/real/train") == {"data/real": f"{A}.dir"}
    assert lock.find("data/synthetic/masksyn") == {
        "data/synthetic/masksyn/bus": f"{C}.dir",
        "data/synthetic/masksyn/car": f"{B}.dir",
    }
    assert lock.find("data/realistic") == lock.find("seggen_core/stages/dataset.py") == {}


def test_dependencies_take_the_hash_that_the_producing_stage_recorded(tmp_path):
    (tmp_path / "dvc.lock").write_text(LOCK)
    lock = read_dvc_lock(tmp_path / "dvc.lock")
    assert lock.current_dependencies("masksyn@car") == {"data/real": f"{A}.dir"}
    assert lock.current_dependencies("dataset") == {"seggen_core/stages/dataset.py": C}
    assert lock.current_dependencies("captions") == {}


def test_a_lock_cut_anywhere_gives_whole_hashes_or_none(tmp_path):
    path = tmp_path / "dvc.lock"
    whole = {f"{A}.dir", f"{B}.dir", f"{C}.dir", C}
    for length in range(0, len(LOCK), 7):
        path.write_text(LOCK[:length])
        lock = read_dvc_lock(path, attempts=1)
        hashes = set(lock.outputs.values()).union(
            *(deps.values() for deps in lock.dependencies.values())
        )
        assert hashes <= whole
    assert read_dvc_lock(tmp_path / "missing.lock").outputs == {}


def test_content_digest_sees_bytes_names_and_a_stores_manifest(tmp_path):
    file = tmp_path / "captions.parquet"
    file.write_bytes(b"caption")
    assert content_digest(file) == hashlib.md5(b"caption").hexdigest()

    store = tmp_path / "store"
    store.mkdir()
    (store / "manifest.json").write_text("{}")
    (store / "shard-00000.tar").write_bytes(b"0" * 100)
    before = content_digest(store)
    (store / "shard-00000.tar").write_bytes(b"1" * 100)
    assert content_digest(store) == before, "the manifest stands for the shards, which may be huge"
    (store / "manifest.json").write_text('{"samples": 1}')
    assert content_digest(store) != before

    before = content_digest(tmp_path)
    file.rename(tmp_path / "renamed.parquet")
    assert content_digest(tmp_path) != before
    with pytest.raises(FileNotFoundError):
        content_digest(tmp_path / "missing")


def test_git_tags_name_the_commit_and_say_whether_the_code_differs(tmp_path):
    assert git_tags(tmp_path) == {}

    def git(*arguments):
        command = [
            "git",
            "-C",
            str(tmp_path),
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            *arguments,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    for name in ("dvc.lock", "code.py"):
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-qm", "x")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "dvc.lock").write_text("2")
    assert git_tags(tmp_path) == {"mlflow.source.git.commit": commit, "git.dirty": "false"}
    (tmp_path / "code.py").write_text("2")
    assert git_tags(tmp_path)["git.dirty"] == "true"


def test_digests_of_files_and_folders_are_those_of_dvc(tmp_path):
    from dvc.repo import Repo

    (tmp_path / "out" / "sub").mkdir(parents=True)
    for name, content in (("b", b"2"), ("a", b"1"), ("sub/\u00fc.txt", b""), ("sub.txt", b"x")):
        (tmp_path / "out" / name).write_bytes(content)
    (tmp_path / "file").write_bytes(b"content")
    Repo.init(str(tmp_path), no_scm=True).close()
    with Repo(str(tmp_path)) as repo:
        for name in ("out", "file"):
            (stage,) = repo.add(str(tmp_path / name))
            assert dvc_digest(tmp_path / name) == stage.outs[0].hash_info.value


@pytest.mark.parametrize("put", [os.mkfifo, lambda lock: lock.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file_is_not_read(tmp_path, put):
    put(tmp_path / "dvc.lock")
    assert read_dvc_lock(tmp_path / "dvc.lock", attempts=1) == DvcLock({}, {})
