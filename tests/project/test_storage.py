"""A disk that is full or not writable, behind the errors of every library that writes."""

import errno
import os
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seggen_core.captions.table import write_caption_table
from seggen_core.errors import ConfigError, DatasetError, StorageError
from seggen_core.project.publish import publish
from seggen_core.project.storage import (
    disk_errors,
    find_disk_error,
    save_png_whole,
    storage_errors,
    write_text_whole,
    written_whole,
)


def save_picture(path: Path) -> None:
    save_png_whole(path, Image.new("L", (2, 2)))


@pytest.mark.parametrize("place", ["file/x", "file/a/b/x"])
@pytest.mark.parametrize("write", [lambda path: write_text_whole(path, "x"), save_picture])
def test_a_file_in_the_place_of_a_folder_is_named(
    tmp_path: Path, write: Callable[[Path], None], place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="file is a file; expected a folder"):
        write(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


NOISE = np.random.default_rng(0).random(20_000)


@contextmanager
def file_limit(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow past some bytes; Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_numpy(folder: Path) -> None:
    NOISE.tofile(folder / "x")


def write_safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": NOISE}, folder / "x")


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    words = {f"word{i}": i for i in range(1000)}
    Tokenizer(models.WordLevel(words, unk_token="word0")).save(str(folder / "x"))


def write_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": NOISE}), folder / "x")


def write_csv(folder: Path) -> None:
    import pandas as pd

    pd.DataFrame({"x": NOISE}).to_csv(folder / "x")


def write_picture(folder: Path) -> None:
    from PIL import Image

    Image.fromarray(NOISE.view(np.uint8).reshape(400, 400)).save(folder / "x.png")


def write_text(folder: Path) -> None:
    (folder / "x").write_text("x" * 100_000)


def copy_folder(folder: Path) -> None:
    (folder / "from").mkdir()
    with file_limit(resource.RLIM_INFINITY):
        write_text(folder / "from")
    shutil.copytree(folder / "from", folder / "to")


WRITERS = [
    write_numpy,
    write_safetensors,
    write_tokenizer,
    write_parquet,
    write_csv,
    write_picture,
    write_text,
    copy_folder,
]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_found_behind_every_library(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    with (
        file_limit(1000),
        pytest.raises(StorageError, match=r"can't .*What was finished before is intact") as caught,
        disk_errors(tmp_path),
    ):
        write(tmp_path)
    assert caught.value.exit_code == 3


def test_a_full_database_is_found() -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table t (x blob)")
        connection.execute("pragma max_page_count = 3")
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("insert into t values (zeroblob(100000))")
    disk_error = find_disk_error(caught.value)
    assert disk_error is not None and disk_error.errno == errno.ENOSPC


def raise_chain(*errors: Exception, explicit: bool) -> None:
    try:
        if len(errors) > 1:
            raise_chain(*errors[1:], explicit=explicit)
    except Exception as inner:
        if explicit:
            raise errors[0] from inner
        raise errors[0]  # noqa: B904 (an implicit chain is what is tested)
    raise errors[0]


@pytest.mark.parametrize(
    "errors, explicit, code",
    [
        ([OSError(errno.EROFS, "read-only", "/a/b")], True, errno.EROFS),
        ([PermissionError(errno.EACCES, "denied", "/a/b")], True, errno.EACCES),
        ([OSError(errno.EIO, "broken", "/a/b")], True, errno.EIO),
        ([RuntimeError("worker died"), OSError(errno.ENOSPC, "full", "/a/b")], True, errno.ENOSPC),
        ([RuntimeError("worker died"), OSError(errno.ENOSPC, "full", "/a/b")], False, errno.ENOSPC),
        ([DatasetError("bad"), OSError(errno.EDQUOT, "quota", "/a/b")], True, errno.EDQUOT),
        # What was handled is not why something else went wrong.
        ([KeyError("x"), PermissionError(errno.EACCES, "denied", "/a/b")], False, None),
        ([FileNotFoundError(errno.ENOENT, "gone", "/a/b")], True, None),
        ([ValueError("2 requested and 1 written")], True, None),
        ([ValueError("[Errno 2] No such file")], True, None),
    ],
)
def test_which_chains_are_the_disks(
    errors: list[Exception], explicit: bool, code: int | None
) -> None:
    with pytest.raises(type(errors[0])) as caught:
        raise_chain(*errors, explicit=explicit)
    disk_error = find_disk_error(caught.value)
    assert (None if disk_error is None else disk_error.errno) == code
    if disk_error is not None:
        assert disk_error.filename == "/a/b"


def test_a_name_without_its_folder_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"can't write below {tmp_path}"), disk_errors(tmp_path):
        raise OSError(errno.EROFS, "read-only", "x.parquet")


def test_an_error_of_another_kind_passes(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="x"), disk_errors(tmp_path):
        raise KeyError("x")
    with pytest.raises(KeyError, match="x"), storage_errors(tmp_path, remains="All."):
        raise KeyError("x")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_that_was_there_survives_a_full_disk(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"edits{suffix}"
    write_caption_table(path, {"a": "a red car"})
    before = path.read_bytes()
    many = {f"sample-{i}": str(x) for i, x in enumerate(NOISE[:2000])}
    with file_limit(500), pytest.raises(StorageError, match=rf"can't write {path}: File too large"):
        write_caption_table(path, many)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    write_caption_table(path, many)
    assert path.read_bytes() != before


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("before")
    (tmp_path / "link").symlink_to("target")
    with written_whole(tmp_path / "link") as file:
        file.write_text("after")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "after"
    with written_whole(Path("/dev/null")) as file:
        file.write_text("gone")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    "place, advice",
    [
        ("missing/x.csv", "in a folder that exists"),
        ("file/x.csv", "in a folder that exists"),
        ("folder", "not a folder"),
    ],
)
def test_a_place_that_can_not_be_is_said(tmp_path: Path, place: str, advice: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    path = tmp_path / place
    with (
        pytest.raises(StorageError, match=rf"can't write {path}: .*{advice}"),
        written_whole(path) as file,
    ):
        file.write_text("x")


# Finished results at their places


def test_results_on_another_disk_are_moved_there_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def replace_on_one_disk(source: Path, target: Path) -> Path:
        if source.parent != target.parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", replace_on_one_disk)
    scratch, out = tmp_path / "scratch" / "new", tmp_path / "data" / "out"
    for text in ("one", "two"):
        scratch.mkdir(parents=True)
        (scratch / "file").write_text(text * 1000)
        assert publish(scratch, out) == out
        assert (out / "file").read_text() == text * 1000 and not scratch.exists()
    scratch.mkdir()
    (scratch / "file").write_text("three" * 1000)
    (out.parent / ".out.unfinished").mkdir()  # of a run that was killed
    with file_limit(100), pytest.raises(OSError, match="File too large"):
        publish(scratch, out)
    assert sorted(p.name for p in out.parent.iterdir()) == []
    publish(scratch, out)
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    report = tmp_path / "scratch" / "report.json"
    report.write_text("{}")
    publish(report, out.parent / "report.json")
    assert (out.parent / "report.json").read_text() == "{}" and not report.exists()


def test_a_file_where_the_folder_belongs_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    (tmp_path / "finished").mkdir()
    publish(tmp_path / "finished", tmp_path / "out")
    assert (tmp_path / "out").is_dir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "finished").mkdir()
    publish(tmp_path / "finished", tmp_path / "link")
    assert not (tmp_path / "link").is_symlink() and (tmp_path / "elsewhere").is_dir()
