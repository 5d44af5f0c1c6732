"""`RecordCache.retain`: what is to stay stays, whatever happens, and the rest takes no space."""

from pathlib import Path

import pytest

from seggen_core.store import cache as cache_module
from seggen_core.store.cache import RecordCache
from tests.store.test_cache import (
    NUM_RECORDS,
    cached_numbers,
    digest_of,
    make_record,
    write_records,
)


def test_only_the_records_that_are_to_stay_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_SEGMENT_BYTES", 6000)
    write_records(tmp_path)
    before = sum(path.stat().st_size for path in tmp_path.glob("records-*"))
    with RecordCache(tmp_path) as cache:
        cache.retain(digest_of(index) for index in (1, 4, 7))
        assert cache.find(digest_of(4)) == make_record(4)
        assert digest_of(2) not in cache
    assert cached_numbers(tmp_path) == [1, 4, 7]
    assert sum(path.stat().st_size for path in tmp_path.glob("records-*")) < before / 2


def test_files_that_hold_nothing_else_are_left_alone(tmp_path: Path) -> None:
    write_records(tmp_path)
    files = {path: path.stat().st_ino for path in tmp_path.glob("records-*")}
    with RecordCache(tmp_path) as cache:
        cache.retain(digest_of(index) for index in range(NUM_RECORDS + 3))
    assert {path: path.stat().st_ino for path in tmp_path.glob("records-*")} == files
    with RecordCache(tmp_path) as cache:
        cache.retain([])
    assert cached_numbers(tmp_path) == [] and not list(tmp_path.glob("records-*"))


def test_a_kill_leaves_every_record_that_is_to_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_SEGMENT_BYTES", 6000)
    wanted, original, calls = [0, 3, 8, 11], Path.unlink, []
    write_records(tmp_path)

    def killed(path: Path, *, missing_ok: bool = False) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt), RecordCache(tmp_path) as cache:
            cache.retain(map(digest_of, wanted))
    assert set(wanted) <= set(cached_numbers(tmp_path))
    with RecordCache(tmp_path) as cache:
        cache.retain(map(digest_of, wanted))
    assert cached_numbers(tmp_path) == wanted
