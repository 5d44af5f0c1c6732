"""A record is found whole or not at all: after a kill, a full disk, damage, a finished run."""

import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from seggen_core.errors import SampleStoreError, StorageError
from seggen_core.project.digests import json_digest
from seggen_core.store import cache as cache_module
from seggen_core.store.cache import RecordCache, count_added
from seggen_core.store.format import encode_sample
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from seggen_core.store.records import MAGIC, Record, scan_records

NUM_RECORDS = 12


def digest_of(index: int | str) -> str:
    return json_digest(["test", index], length=32)


def make_record(index: int) -> Record:
    """Records with no member, an empty one, and one whose bytes look like a record's header."""
    rng = np.random.default_rng(index)
    members = {f"member{m}": rng.bytes(int(rng.integers(0, 5000))) for m in range(index % 4)}
    if index % 4 == 3:
        members |= {"tricky": b"x" + MAGIC + bytes(40), "empty": b""}
    return Record({"status": "accepted", "größe": index / 7}, members)


def write_records(folder: Path, *, pause: float = 0, linger: float = 0) -> None:
    """Make what isn't in the cache yet."""
    with RecordCache(folder) as cache:
        for index in range(NUM_RECORDS):
            if cache.find(digest_of(index)) is None:
                cache.add(digest_of(index), make_record(index))
                time.sleep(pause)
                if index % 2:
                    cache.commit()
        time.sleep(linger)


def cached_numbers(folder: Path) -> list[int]:
    """Return which records are found; each one that is has to be whole."""
    with RecordCache(folder) as cache:
        numbers = []
        for index in range(NUM_RECORDS):
            record = cache.find(digest_of(index))
            if record is not None:
                assert record == make_record(index)
                assert cache.info(digest_of(index)) == record.info
                numbers.append(index)
            assert (digest_of(index) in cache) == (record is not None)
    return numbers


def run_python(*arguments: str | Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=environment, stderr=subprocess.PIPE, text=True
    )


def segment_of(folder: Path) -> Path:
    return sorted(folder.glob("records-*"))[-1]


# Finding


def test_a_record_is_found_by_its_digest_in_any_later_run(tmp_path: Path) -> None:
    assert cached_numbers(tmp_path / "new") == []
    order = list(range(NUM_RECORDS))
    random.Random(0).shuffle(order)
    for part in (order[:5], order[5:]):
        with RecordCache(tmp_path / "cache") as cache:
            for index in part:
                cache.add(digest_of(index), make_record(index))
                assert cache.find(digest_of(index)) == make_record(index)
    assert cached_numbers(tmp_path / "cache") == list(range(NUM_RECORDS))
    assert count_added(tmp_path / "cache") == NUM_RECORDS
    with RecordCache(tmp_path / "cache") as cache:
        assert digest_of("other") not in cache
        assert cache.find(digest_of("other")) is cache.info(digest_of("other")) is None


def test_a_later_record_replaces_an_earlier_one(tmp_path: Path) -> None:
    for value in (1, 2, 3):
        with RecordCache(tmp_path) as cache:
            cache.add(digest_of(0), Record({"value": value}, {"a": bytes(value)}))
    with RecordCache(tmp_path) as cache:
        assert cache.find(digest_of(0)) == Record({"value": 3}, {"a": bytes(3)})


def test_files_of_records_are_of_limited_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_SEGMENT_BYTES", 6000)
    write_records(tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.glob("records-*")]
    assert len(sizes) > 3 and max(sizes) <= 6000 + 15_000
    assert cached_numbers(tmp_path) == list(range(NUM_RECORDS))


def test_an_error_in_the_work_keeps_what_was_added(tmp_path: Path) -> None:
    def work() -> None:
        with RecordCache(tmp_path) as cache:
            cache.add(digest_of(0), make_record(0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert cached_numbers(tmp_path) == [0]


# Kills, damage, full disks


@pytest.mark.parametrize("num_whole", [0, 2, 5, 9])
def test_kill_9_loses_no_committed_record(tmp_path: Path, num_whole: int) -> None:
    child = run_python(__file__, tmp_path, "--linger=60")  # it can't end first
    try:
        while count_added(tmp_path) < num_whole or not (tmp_path / "lock").exists():
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.03))  # anywhere in the work on a record
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert len(cached_numbers(tmp_path)) >= num_whole
    write_records(tmp_path)
    assert cached_numbers(tmp_path) == list(range(NUM_RECORDS))


def test_a_file_torn_at_any_byte_keeps_the_records_before_it(tmp_path: Path) -> None:
    write_records(tmp_path / "whole")
    data = segment_of(tmp_path / "whole").read_bytes()
    offsets = [offset for _, offset in scan_records(segment_of(tmp_path / "whole")).offsets]
    cuts = {0, 1, 39, 40, 41, len(data) - 1, len(data), *offsets[:4], *(o + 60 for o in offsets)}
    for cut in sorted(cuts):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "records-00000").write_bytes(data[:cut] + b"\xff" * (cut % 3))
        ends = [*offsets[1:], len(data)]
        whole = [index for index in range(NUM_RECORDS) if ends[index] <= cut]
        assert cached_numbers(folder) == whole, f"torn at {cut}"
        write_records(folder)
        assert cached_numbers(folder) == list(range(NUM_RECORDS))


def test_a_damaged_byte_costs_one_record_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_records(tmp_path / "whole")
    data = segment_of(tmp_path / "whole").read_bytes()
    offsets = [offset for _, offset in scan_records(segment_of(tmp_path / "whole")).offsets]
    for record, offset in list(enumerate(offsets))[:4]:
        end = [*offsets, len(data)][record + 1]
        for place in {offset, offset + 3, offset + 10, offset + 25, offset + 50, end - 1}:
            caplog.clear()
            folder = tmp_path / f"{place}"
            folder.mkdir()
            damaged = bytearray(data)
            damaged[place] ^= 0x10
            (folder / "records-00000").write_bytes(damaged)
            assert cached_numbers(folder) == [i for i in range(NUM_RECORDS) if i != record], place
            assert "not used" in caplog.text or "can't be used and is made again" in caplog.text
            write_records(folder)
            assert cached_numbers(folder) == list(range(NUM_RECORDS))


@pytest.mark.parametrize("content", [b"", b"no records at all" * 1000, MAGIC * 5000])
def test_a_file_of_something_else_is_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "records-00000").write_bytes(content)
    (tmp_path / "records-00001").mkdir()  # can't be read
    assert cached_numbers(tmp_path) == []
    write_records(tmp_path)
    assert cached_numbers(tmp_path) == list(range(NUM_RECORDS))


def test_two_processes_cant_open_one_cache(tmp_path: Path) -> None:
    with RecordCache(tmp_path):
        child = run_python(__file__, tmp_path)
        _, errors = child.communicate(timeout=300)
    assert child.returncode != 0
    assert f"another process is writing {tmp_path}" in errors


def test_a_full_disk_keeps_what_was_added(tmp_path: Path) -> None:
    child = run_python(__file__, tmp_path, "--file-limit=13000")
    _, errors = child.communicate(timeout=300)
    assert child.returncode == StorageError.exit_code, errors
    numbers = cached_numbers(tmp_path)
    assert 0 < len(numbers) < NUM_RECORDS
    assert f"can't write {tmp_path}: File too large. What was committed there is kept" in errors
    assert f"({len(numbers)} records of this run)" in errors
    write_records(tmp_path)  # with room again
    assert cached_numbers(tmp_path) == list(range(NUM_RECORDS))


@pytest.mark.parametrize("kib", [20, 36])
def test_a_full_file_system(tmp_path: Path, kib: int) -> None:
    """The real thing, where the machine lets us mount a small file system."""
    disk, saved = tmp_path / "disk", tmp_path / "saved"
    disk.mkdir()
    script = f"""mount -t tmpfs -o size={kib}k none "$1" || exit 77
        "$2" "$3" "$1/cache"; code=$?
        cp -r "$1/cache" "$4"; exit $code"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = ["unshare", "-rm", "sh", "-c", script, "sh", disk, sys.executable, __file__, saved]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this machine")
    child = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    if child.returncode == 77 or "unshare" in child.stderr:
        pytest.skip(f"can't mount a file system here: {child.stderr}")
    assert child.returncode == StorageError.exit_code, child.stderr
    assert "No space left on device" in child.stderr
    numbers = cached_numbers(saved)
    assert 0 < len(numbers) < NUM_RECORDS
    assert f"kept ({len(numbers)} records of this run)" in child.stderr


def test_a_folder_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"can't write .*file/cache: Not a directory"):
        RecordCache(tmp_path / "file" / "cache")


# What a finished run leaves


def publish_store(folder: Path, cache: RecordCache, numbers: list[int]) -> dict[str, str]:
    """Write a store of samples, each a record of the cache; return digests by key."""
    digests = {}
    with SampleStoreWriter(folder, num_classes=3, shard_bytes=30_000) as writer:
        for seed in numbers:
            rng = np.random.default_rng(seed)
            instances = rng.integers(0, 9, (40, 48), np.uint16) if seed % 2 else None
            image = rng.integers(0, 256, (40, 48, 3), np.uint8)
            mask = rng.integers(0, 3, (40, 48), np.uint8)
            sample = Sample(f"s{seed}", image, mask, instances, {"seed": seed})
            encoded = encode_sample(sample, num_classes=3)
            digest = digests[sample.key] = digest_of(sample.key)
            if digest not in cache:
                cache.add(digest, Record({"counts": encoded.columns}, encoded.members))
            record = cache.find(digest)
            assert record is not None and record.members == encoded.members
            writer.append(encoded)
        writer.finish(manifest={})
    return digests


def test_what_was_published_is_found_and_takes_no_space(tmp_path: Path) -> None:
    with RecordCache(tmp_path / "cache") as cache:
        digests = publish_store(tmp_path / "out", cache, list(range(6)))
        cache.add(digest_of("rejected"), Record({"status": "no_seeds"}))
        cache.add(digest_of("forgotten"), Record({}))
        cache.keep(tmp_path / "out", digests=digests, others=[digest_of("rejected")])
        before = {d: cache.find(d) for d in digests.values()}
    shutil.rmtree(tmp_path / "out")  # as DVC does before it runs a stage
    assert count_added(tmp_path / "cache") == 0
    shards = list((tmp_path / "cache").rglob("*.tar"))
    assert len(shards) > 1
    with RecordCache(tmp_path / "cache") as cache:
        for digest, record in before.items():
            assert record is not None and cache.find(digest) == record
            assert cache.info(digest) == record.info
        assert cache.find(digest_of("rejected")) == Record({"status": "no_seeds"})
        assert digest_of("forgotten") not in cache
        # The next run publishes other samples, some of them taken over.
        digests = publish_store(tmp_path / "out", cache, [4, 7, 5])
        assert count_added(tmp_path / "cache") == 1
        cache.keep(tmp_path / "out", digests=digests)
        assert digest_of("s7") in cache and digest_of("s0") not in cache
    assert SampleStore(tmp_path / "out").keys() == ["s4", "s7", "s5"]
    for shard in (tmp_path / "cache").rglob("*.tar"):
        assert shard.samefile(tmp_path / "out" / shard.name)


def test_a_kill_while_it_is_kept_leaves_one_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop `keep` at every step that changes the folder."""
    folder = tmp_path / "cache"
    with RecordCache(folder) as cache:
        digests = publish_store(tmp_path / "first", cache, [0, 1, 2])
        cache.keep(tmp_path / "first", digests=digests)
    saved = Path(shutil.copytree(folder, tmp_path / "saved"))
    step, finished = 0, False
    while not finished:
        shutil.rmtree(folder)
        shutil.copytree(saved, folder)
        shutil.rmtree(tmp_path / "second", ignore_errors=True)
        calls = 0

        def count(
            original: object, patch: pytest.MonkeyPatch = monkeypatch, last: int = step
        ) -> object:
            def counted(*args: object, **kwargs: object) -> object:
                nonlocal calls
                if calls == last:
                    raise KeyboardInterrupt
                calls += 1
                return original(*args, **kwargs)

            return counted

        with RecordCache(folder) as cache:
            digests = publish_store(tmp_path / "second", cache, [1, 2, 3])
            with monkeypatch.context() as patch:
                patch.setattr(os, "link", count(os.link))
                patch.setattr(os, "fsync", count(os.fsync))
                patch.setattr(shutil, "rmtree", count(shutil.rmtree))
                for name in ("mkdir", "replace", "unlink"):
                    patch.setattr(Path, name, count(getattr(Path, name)))
                try:
                    cache.keep(tmp_path / "second", digests=digests)
                    finished = True
                except KeyboardInterrupt:
                    step += 1
        with RecordCache(folder) as cache:
            for key in ("s1", "s2", "s3"):
                assert cache.find(digests[key]) is not None, (step, key)
    assert step > 6
    assert not list(folder.glob("records-*"))


def test_a_damaged_or_missing_published_shard_costs_its_own_samples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RecordCache(tmp_path / "cache") as cache:
        digests = publish_store(tmp_path / "out", cache, list(range(6)))
        cache.keep(tmp_path / "out", digests=digests)
    row = SampleStore(tmp_path / "out").index.iloc[1]
    shards = sorted((tmp_path / "cache").rglob("*.tar"))
    data = bytearray(shards[0].read_bytes())
    data[int(row["mask_offset"]) + 9] ^= 1
    shards[0].unlink()  # a link: the published file stays whole
    shards[0].write_bytes(data)
    lost = SampleStore(tmp_path / "out").index.query(f"shard == '{shards[-1].name}'")["key"]
    shards[-1].unlink()
    with RecordCache(tmp_path / "cache") as cache, caplog.at_level(logging.WARNING):
        missing = [key for key, digest in digests.items() if cache.find(digest) is None]
    assert missing == ["s1", *lost]
    assert "can't be used and is made again: the" in caplog.text


def test_without_hard_links_the_shards_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    with RecordCache(tmp_path / "cache") as cache:
        digests = publish_store(tmp_path / "out", cache, [0, 1])
        cache.keep(tmp_path / "out", digests=digests)
    shutil.rmtree(tmp_path / "out")
    with RecordCache(tmp_path / "cache") as cache:
        assert all(cache.find(digest) is not None for digest in digests.values())


if __name__ == "__main__":  # the child process of the tests above: fill the cache slowly
    options = dict(argument.removeprefix("--").split("=") for argument in sys.argv[2:])
    if "file-limit" in options:
        limit = int(options["file-limit"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write_records(Path(sys.argv[1]), pause=0.02, linger=float(options.get("linger", "0")))
    except (SampleStoreError, StorageError) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
