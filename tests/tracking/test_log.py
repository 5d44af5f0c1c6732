import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seggen_core.tracking.log import (
    Artifact,
    End,
    Metrics,
    RunLog,
    Start,
    file_lock,
    is_being_written,
    read_chunk,
    run_files,
)

ROOT = Path(__file__).parents[2]
UID = "0" * 32


def start(log):
    log.append(
        Start(run=log.uid, name="x", stage="x", item=None, experiment="e", params={}, tags={})
    )


@pytest.fixture
def written(tmp_path):
    """A run that has ended, and its file."""
    log = RunLog(tmp_path, name="masksyn@car")
    start(log)
    for step in range(5):
        log.append(Metrics(step=step, metrics={"loss": 1 / (step + 1)}))
    log.append(End(status="FINISHED"))
    log.close()
    (path,) = run_files(tmp_path)
    return path


def test_values_that_json_lacks_survive(tmp_path):
    log = RunLog(tmp_path, name="x")
    log.append(Metrics(step=1, metrics={"a": math.nan, "b": -math.inf, "c": 1}))
    (path,) = run_files(tmp_path)
    json.loads(path.read_text(), parse_constant=pytest.fail)
    (event,) = read_chunk(path).events
    assert math.isnan(event.metrics["a"])
    assert event.metrics["b"] == -math.inf and event.metrics["c"] == 1.0


def test_the_newest_run_of_a_stage_comes_first(tmp_path):
    for name in ("train_seg@base", "train_seg@base_x", "train_seg@base", "seg@base", "a.b"):
        start(RunLog(tmp_path, name=name))
    files = run_files(tmp_path)
    assert len(files) == 5 and files == sorted(files, reverse=True)
    assert [f for f in files if "train_seg@base." in f.name] == run_files(
        tmp_path, "train_seg@base"
    )
    assert len(run_files(tmp_path, "a.b")) == 1
    assert run_files(tmp_path, "other") == []


def test_a_clock_that_is_set_back_makes_no_run_older_than_the_one_before(tmp_path, monkeypatch):
    logs = []
    for now in (2e9, 1e9 + 0.9996, 1e9, 2e9 - 1e-9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        logs.append(RunLog(tmp_path, name="seg"))
        start(logs[-1])
    start(RunLog(tmp_path, name="other"))
    assert [f.name.split(".")[2] for f in run_files(tmp_path, "seg")] == [
        log.uid for log in reversed(logs)
    ]
    (other,) = run_files(tmp_path, "other")
    assert other.name.startswith("20330518T033320000.")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "[1]",
        "7",
        '"start"',
        "{}",
        '{"time":1}',
        '{"event":"metrics","time":1}',
        '{"event":"metrics","time":1,"step":0,"metrics":[1]}',
        '{"event":"metrics","time":1,"step":0,"metrics":{"loss":"much"}}',
        '{"event":"metrics","time":1,"step":"now","metrics":{}}',
        '{"event":"metrics","time":1,"step":9223372036854775808,"metrics":{}}',
        '{"event":["metrics"],"time":1}',
        '{"event":"delivered","time":1}',
        '{"event":"end","time":1,"status":"WELL"}',
        '{"event":"start","time":1,"run":"../x","name":"x","experiment":"e","params":{},"tags":{}}',
        f'{{"event":"artifact","time":1,"path":"x","file":"{UID}/../../../etc/passwd"}}',
        f'{{"event":"artifact","time":1,"path":"x","file":"{UID}/.."}}',
        '{"event":"artifact","time":1,"path":"x","file":"/etc/passwd"}',
        "[" * 100_000,
        '{"event":"metrics","time":1,"step":' + "9" * 5000 + ',"metrics":{}}',
        "\0" * 100,
        "\udcff\udcfe",
    ],
)
def test_a_damaged_line_is_skipped_and_counted(written, line):
    lines = written.read_bytes().splitlines(keepends=True)
    lines.insert(3, line.encode(errors="surrogateescape") + b"\n")
    whole = read_chunk(written)
    written.write_bytes(b"".join(lines))
    chunk = read_chunk(written)
    assert chunk.events == whole.events and len(whole.events) == 7
    assert chunk.num_damaged == 1 and chunk.offset == written.stat().st_size


def test_a_file_cut_anywhere_gives_its_whole_lines(written):
    content = written.read_bytes()
    events = read_chunk(written).events
    for length in range(len(content)):
        written.write_bytes(content[:length])
        chunk = read_chunk(written)
        assert chunk.events == events[: content[:length].count(b"\n")]
        assert chunk.num_damaged == 0
        written.write_bytes(content)
        rest = read_chunk(written, chunk.offset)
        assert chunk.events + rest.events == events, "the reader goes on behind the last whole line"


def test_flipped_bytes_never_raise(written):
    content = written.read_bytes()
    draw = random.Random(0)
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 20)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        written.write_bytes(damaged)
        chunk = read_chunk(written)
        assert len(chunk.events) + chunk.num_damaged == damaged.count(b"\n")


def test_a_long_log_is_read_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("seggen_core.tracking.log.CHUNK_BYTES", 200)
    log = RunLog(tmp_path, name="x")
    for step in range(50):
        log.append(Metrics(step=step, metrics={"loss": 1.0}))
    (path,) = run_files(tmp_path)
    steps, offset, num_chunks = [], 0, 0
    while (chunk := read_chunk(path, offset)).offset > offset:
        steps += [event.step for event in chunk.events]
        offset, num_chunks = chunk.offset, num_chunks + 1
    assert steps == list(range(50)) and num_chunks > 10


def test_what_a_full_disk_holds_up_is_written_once_there_is_room(tmp_path, monkeypatch, caplog):
    write, room = os.write, [100]

    def limited(descriptor, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        num_written = write(descriptor, data[: room[0]])
        room[0] -= num_written
        return num_written

    monkeypatch.setattr(os, "write", limited)
    log = RunLog(tmp_path, name="x")
    start(log)
    for step in range(3):
        log.append(Metrics(step=step, metrics={"loss": 1.0}))
    (path,) = run_files(tmp_path)
    assert read_chunk(path).events == [] and path.stat().st_size == 100
    room[0] = 10_000
    log.append(End(status="FINISHED"))
    chunk = read_chunk(path)
    kinds = [event.event for event in chunk.events]
    assert kinds == ["start", "metrics", "metrics", "metrics", "end"] and chunk.num_damaged == 0
    assert len(caplog.records) == 1 and "No space left" in caplog.text


def test_a_disk_that_stays_full_costs_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("seggen_core.tracking.log.MAX_UNWRITTEN_BYTES", 1000)
    (tmp_path / "runs").write_text("a file where the folder should be")
    log = RunLog(tmp_path, name="x")
    for step in range(100):
        log.append(Metrics(step=step, metrics={"loss": 1.0}))
    assert len(log._unwritten) < 1200


def test_a_folder_that_cannot_be_made_is_said_once_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "metrics").write_text("a file where the folder should be")
    picture = tmp_path / "a.png"
    picture.write_bytes(b"png")
    log = RunLog(tmp_path / "metrics", name="x")
    start(log)
    assert log.copy_artifact(picture) is None
    log.append(End(status="FINISHED"))
    log.close()
    assert len(caplog.records) == 1 and "metrics" in caplog.text


def test_equal_artifacts_are_kept_once(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b" / "a.png"
    second.parent.mkdir()
    for path in (first, second):
        path.write_bytes(b"png")
    files = {RunLog(tmp_path, name="x").copy_artifact(path) for path in (first, second)}
    (file,) = files
    assert [
        str(p.relative_to(tmp_path / "artifacts")) for p in tmp_path.rglob("artifacts/*/*")
    ] == [file]
    assert Artifact(path="a.png", file=file).file.endswith("/a.png")
    first.write_bytes(b"other")
    assert RunLog(tmp_path, name="x").copy_artifact(first) != file


def test_a_file_is_being_written_until_its_run_closes_it(tmp_path):
    log = RunLog(tmp_path, name="x")
    start(log)
    (path,) = run_files(tmp_path)
    assert is_being_written(path)
    log.close()
    assert not is_being_written(path)


def test_a_killed_process_leaves_no_lock_even_where_its_forked_worker_lives_on(tmp_path):
    script = f"""
import os, signal, sys, time
from pathlib import Path
from seggen_core.tracking.log import RunLog, Metrics
log = RunLog(Path({str(tmp_path)!r}), name="x")
log.append(Metrics(step=1, metrics={{}}))
if (worker := os.fork()) == 0:
    os.write(1, b"ready")
    signal.pause()
print(worker, flush=True)
signal.pause()
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    said = b""
    while b"ready" not in said or b"\n" not in said:
        said += os.read(process.stdout.fileno(), 100)
    worker = int(said.replace(b"ready", b""))
    try:
        (path,) = run_files(tmp_path)
        assert is_being_written(path)
        process.kill()
        process.wait()
        os.kill(worker, 0)
        assert not is_being_written(path)
    finally:
        os.kill(worker, signal.SIGKILL)
        process.stdout.close()


def test_a_lock_that_another_process_holds_is_waited_for_in_vain(tmp_path):
    with (
        file_lock(tmp_path / "lock", timeout=1.0),
        pytest.raises(TimeoutError, match=r"lock has been locked by another process for 0 s"),
        file_lock(tmp_path / "lock", timeout=0.2),
    ):
        pass
    with file_lock(tmp_path / "lock", timeout=0.0):
        pass
