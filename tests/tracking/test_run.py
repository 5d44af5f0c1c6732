import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from seggen_core.config import RuntimeConfig
from seggen_core.errors import SegGenError
from seggen_core.tracking import replay, run, track_stage
from seggen_core.tracking.metrics_log import read_log
from seggen_core.tracking.target import import_mlflow_store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def tracked(paths, uri=None, *, stage="text2mask", item=None, **params):
    return track_stage(
        stage, item=item, params=params, runtime=RuntimeConfig(tracking_uri=uri), paths=paths
    )


def runs_in(paths, uri=None, experiment="seggen/tiny"):
    import_mlflow_store()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri or f"sqlite:///{paths.root}/mlflow.db")
    found = client.get_experiment_by_name(experiment)
    return client, client.search_runs([found.experiment_id]) if found else []


def test_everything_that_a_stage_reports_reaches_mlflow(prepared, monkeypatch):
    md5 = "0123456789abcdef0123456789abcdef"
    (prepared.root / "dvc.lock").write_text(
        f"stages:\n  captions:\n    outs:\n    - path: data/captions\n      md5: {md5}.dir\n"
        "  masksyn@car:\n    deps:\n    - path: data/captions\n      md5: ffffffffffffffffffffffffffffffff.dir\n"
    )
    prepared.captions.parent.mkdir(parents=True)
    prepared.captions.write_bytes(b"table")
    loose = prepared.root / "loose.csv"
    loose.write_text("a")
    picture = prepared.root / "preview.png"
    picture.write_bytes(b"png")
    monkeypatch.setenv("DAGSTER_RUN_ID", "d-1")
    monkeypatch.setenv("MLFLOW_RUN_ID", "somebody-elses")
    monkeypatch.chdir(prepared.root)

    params = {
        "sampling": {"num_inference_steps": 20, "kwargs": {}},
        "prompts": ("a", "b"),
        "root": None,
    }
    with tracked(prepared, stage="masksyn", item="car", **params) as tracked_run:
        assert "MLFLOW_RUN_ID" not in os.environ
        for step in range(3):
            tracked_run.log_metrics({"train/loss": 1.0 / (step + 1)}, step=step)
        tracked_run.log_metrics({"val/miou": float("nan")}, step=2)
        tracked_run.log_input(name="captions", path=prepared.captions)
        tracked_run.log_input(name="loose", path=loose)
        tracked_run.log_artifact(picture)
        picture.unlink()
        tracked_run.set_tags({"quality@5": "high"})
    assert os.environ["MLFLOW_RUN_ID"] == "somebody-elses"

    client, (found,) = runs_in(prepared)
    assert found.info.run_name == "masksyn@car" and found.info.status == "FINISHED"
    assert found.data.params == {
        "sampling.num_inference_steps": "20",
        "prompts": '["a", "b"]',
        "root": "None",
    }
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert str(found.data.metrics["val/miou"]) == "nan"
    tags = found.data.tags
    assert (
        tags["dvc.stage"] == "masksyn@car"
        and tags["seggen.stage"] == "masksyn"
        and tags["seggen.item"] == "car"
    )
    assert (
        tags["dvc.dep.data/captions"]
        == tags["dvc.dep.data/captions/captions.parquet"]
        == f"{md5}.dir"
    )
    assert tags["dagster/run_id"] == "d-1" and tags["quality_5"] == "high"
    digests = {
        i.dataset.name: (i.dataset.digest, i.tags[0].value) for i in found.inputs.dataset_inputs
    }
    assert digests == {
        "captions": (f"{md5}.dir", "dvc"),
        "loose": ("0cc175b9c0f1b6a831c399e269772661", "content"),
    }
    assert [a.path for a in client.list_artifacts(found.info.run_id)] == ["preview.png"]
    (stored,) = (prepared.root / "mlruns").rglob("preview.png")
    assert stored.read_bytes() == b"png"
    assert not list(prepared.metrics_log.rglob("*.png")), (
        "a delivered picture needn't be kept twice"
    )


@pytest.fixture
def default_sigterm():
    """SIGTERM as a stage's process finds it: what Dagster runs in the tests' own process leaves a handler behind."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_failing_stage_is_failed_and_a_killed_one_killed(prepared, monkeypatch, default_sigterm):
    monkeypatch.setattr(run, "FLUSH_SECONDS", 0.0)
    with pytest.raises(ValueError, match="bad mask"), tracked(prepared):
        raise ValueError("bad mask")
    with pytest.raises(KeyboardInterrupt), tracked(prepared):
        raise KeyboardInterrupt
    with pytest.raises(SystemExit), tracked(prepared):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    _, found = runs_in(prepared)
    assert [r.info.status for r in reversed(found)] == ["FAILED", "KILLED", "KILLED"]
    assert found[-1].data.tags["seggen.error"] == "ValueError: bad mask"


def test_a_stage_that_fails_early_never_imports_mlflow_and_is_replayed_later(project):
    script = f"""
import sys
from pathlib import Path
from seggen_core.config import RuntimeConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking import track_stage
try:
    paths = ProjectPaths(Path({str(project.root)!r}))
    with track_stage("dataset", item=None, params={{}}, runtime=RuntimeConfig(), paths=paths) as r:
        r.log_metrics({{"samples": 3}})
        raise RuntimeError("early")
except RuntimeError:
    pass
heavy = sorted({{"mlflow", "torch", "pandas", "matplotlib", "dvc", "dagster"}} & set(sys.modules))
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    assert not (project.root / "mlflow.db").exists()
    report = replay(project, RuntimeConfig())
    assert report.num_runs == 1
    _, (found,) = runs_in(project)
    assert found.info.status == "FAILED" and found.data.metrics == {"samples": 3.0}


def test_a_server_that_is_down_is_said_once_and_costs_nothing_but_a_replay(
    prepared, closed_port, caplog, monkeypatch
):
    import_mlflow_store()  # which isn't what is timed
    monkeypatch.setattr(run, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(run, "MAX_OVERHEAD", 1e9)
    picture = prepared.root / "a.png"
    picture.write_bytes(b"png")
    before = dict(os.environ)
    began = time.monotonic()
    with tracked(
        prepared, f"http://user:s3cret@127.0.0.1:{closed_port}", num_steps=20
    ) as tracked_run:
        for step in range(20):
            tracked_run.log_metrics({"loss": step}, step=step)
        tracked_run.log_artifact(picture)
    assert time.monotonic() - began < 10
    assert dict(os.environ) == before | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    (warning,) = caplog.records
    assert (
        f"http://***@127.0.0.1:{closed_port}" in warning.getMessage()
        and "seggen track --replay" in warning.getMessage()
    )
    log = prepared.metrics_log / "text2mask.jsonl"
    assert "s3cret" not in caplog.text + log.read_text()
    steps = [
        json.loads(line).get("step") for line in log.read_text().splitlines() if '"metrics"' in line
    ]
    assert steps == list(range(20))

    first = replay(prepared, RuntimeConfig())
    second = replay(prepared, RuntimeConfig())
    assert "sent 1 runs (23 events)" in str(first) and "had 1 already" in str(second)
    assert (first.num_runs, second.num_runs, second.num_complete) == (1, 0, 1)
    client, (found,) = runs_in(prepared)
    assert found.info.status == "FINISHED" and found.data.params == {"num_steps": "20"}
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(i, float(i)) for i in range(20)]
    logged = read_log(log)[0].events
    assert found.info.start_time == logged[0]["time"] and found.info.end_time == logged[-1]["time"]
    assert [a.path for a in client.list_artifacts(found.info.run_id)] == ["a.png"]


def test_a_server_that_accepts_and_never_answers_is_given_up_quickly(project, caplog, monkeypatch):
    monkeypatch.setattr(run, "FLUSH_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        began = time.monotonic()
        with tracked(project, f"http://127.0.0.1:{hanging.getsockname()[1]}") as tracked_run:
            for step in range(50):
                tracked_run.log_metrics({"loss": step}, step=step)
        assert time.monotonic() - began < 20, (
            "tried once at the start and once at the end, not at every step"
        )
    assert len(caplog.records) == 1


def test_a_server_that_dies_midway_and_comes_back_gets_everything_once(
    project, tracking_server, caplog, monkeypatch
):
    monkeypatch.setattr(run, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(run, "MAX_OVERHEAD", 1e9)
    uri = tracking_server.uri
    picture = project.root / "a.png"
    picture.write_bytes(b"png")
    with tracked(project, uri) as tracked_run:
        tracked_run.log_metrics({"loss": 0}, step=0)
        tracking_server.kill()
        tracked_run.log_metrics({"loss": 1}, step=1)
        tracked_run.log_artifact(picture)
        tracked_run.log_input(name="picture", path=picture)
    assert len(caplog.records) == 1

    tracking_server.start()
    client, (found,) = runs_in(project, uri)
    assert found.info.status == "RUNNING"
    replay(project, RuntimeConfig(tracking_uri=uri))
    client, (found,) = runs_in(project, uri)
    assert found.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(found.info.run_id, "loss")] == [0, 1]
    assert [a.path for a in client.list_artifacts(found.info.run_id)] == ["a.png"]
    assert len(found.inputs.dataset_inputs) == 1


def test_a_run_killed_outright_is_closed_by_the_next_one(prepared, monkeypatch):
    monkeypatch.setattr(run, "FLUSH_SECONDS", 0.0)
    child = os.fork()
    if child == 0:
        with tracked(prepared) as tracked_run:
            tracked_run.log_metrics({"loss": 1})
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    _, (found,) = runs_in(prepared)
    assert found.info.status == "RUNNING"
    with tracked(prepared):
        pass
    _, found = runs_in(prepared)
    assert sorted(r.info.status for r in found) == ["FINISHED", "KILLED"]


def test_the_address_disk_sends_nothing_until_replay(project, empty_database, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "disk")
    for item in ("car", "bus"):
        with tracked(project, stage="imgsyn", item=item) as tracked_run:
            tracked_run.log_metrics({"samples": 4})
    assert not (project.root / "mlflow.db").exists()
    with pytest.raises(SegGenError, match="sends nothing"):
        replay(project, RuntimeConfig())
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    shutil.copyfile(empty_database, project.root / "mlflow.db")
    assert replay(project, RuntimeConfig()).num_runs == 2
    _, found = runs_in(project)
    assert {r.info.run_name for r in found} == {"imgsyn@car", "imgsyn@bus"}


def test_replay_to_a_server_that_is_down_says_so_and_loses_nothing(
    project, closed_port, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "disk")
    with tracked(project):
        pass
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://u:pw@127.0.0.1:{closed_port}")
    before = (project.metrics_log / "text2mask.jsonl").read_text()
    with pytest.raises(SegGenError, match=rf"http://\*\*\*@127.0.0.1:{closed_port}.*refused"):
        replay(project, RuntimeConfig())
    assert (project.metrics_log / "text2mask.jsonl").read_text() == before


def test_replay_leaves_a_running_stage_alone(prepared):
    with tracked(prepared):
        report = replay(prepared, RuntimeConfig())
        assert (report.num_runs, report.num_busy) == (0, 1)
    _, found = runs_in(prepared)
    assert len(found) == 1


def test_replay_to_a_second_store_and_after_that_store_lost_its_runs(prepared, empty_database):
    with tracked(prepared) as tracked_run:
        tracked_run.log_metrics({"loss": 1})
    shutil.copyfile(empty_database, prepared.root / "other.db")
    other = RuntimeConfig(tracking_uri="sqlite:///other.db")
    assert replay(prepared, other).num_runs == 1
    with closing(sqlite3.connect(prepared.root / "other.db")) as database, database:
        for table in ("latest_metrics", "metrics", "tags", "runs"):
            database.execute(f"delete from {table}")
    assert replay(prepared, other).num_runs == 1
    _, (found,) = runs_in(prepared, f"sqlite:///{prepared.root}/other.db")
    assert found.data.metrics == {"loss": 1.0}


def test_misuse_is_told_at_once(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "disk")
    with tracked(project) as tracked_run:
        with pytest.raises(AssertionError, match="iou@car"):
            tracked_run.log_metrics({"iou@car": 1.0})
        with pytest.raises(FileNotFoundError):
            tracked_run.log_artifact(project.root / "missing.png")
