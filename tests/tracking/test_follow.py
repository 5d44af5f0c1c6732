import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from seggen_core.cli import main
from seggen_core.config import RuntimeConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking import follow
from seggen_core.tracking.follow import Follower, mlflow_run_id, replay
from seggen_core.tracking.log import run_files
from seggen_core.tracking.target import resolve_target
from tests.tracking.conftest import runs_in

ROOT = Path(__file__).parents[2]
PROJECT_STORE = RuntimeConfig()


def wait_until(holds, *, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it doesn't come about"
        time.sleep(0.05)


def report_everything(run, root, *, num_steps=3):
    """Report an event of every kind, two of them artifacts."""
    for name in ("a.png", "b.csv"):
        (root / name).write_text(name)
    for step in range(num_steps):
        run.log_metrics({"train/loss": 1.0 / (step + 1), "nan": float("nan")}, step=step)
    run.log_input(name="table", path=root / "b.csv")
    run.log_artifact(root / "a.png")
    run.log_artifact(root / "b.csv")
    run.set_tags({"quality": "high"})


def assert_everything_is_there_once(paths, uri=None, *, num_steps=3, status="FINISHED"):
    client, (run,) = runs_in(paths, uri)
    assert run.info.run_name == "masksyn@car" and run.info.status == status
    assert run.data.params == {"num_steps": str(num_steps)}
    assert run.data.tags["quality"] == "high" and run.data.tags["dvc.stage"] == "masksyn@car"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(i, 1.0 / (i + 1)) for i in range(num_steps)]
    nan = client.get_metric_history(run.info.run_id, "nan")
    assert [m.step for m in nan] == list(range(num_steps)) and str(nan[0].value) == "nan"
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "table" and dataset.tags[0].value == "content"
    assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["a.png", "b.csv"]
    return run


def test_everything_reaches_mlflow_and_a_second_replay_sends_nothing(prepared, tracked):
    with tracked("masksyn", item="car", num_steps=3) as run:
        report_everything(run, prepared.root)
    first, second = replay(prepared, PROJECT_STORE), replay(prepared, PROJECT_STORE)
    assert (first.num_runs, first.num_events, first.problems) == (1, 9, {})
    assert (second.num_runs, second.num_events, second.problems) == (0, 0, {})
    run = assert_everything_is_there_once(prepared)
    stored = sorted(p.name for p in (prepared.root / "mlruns").rglob("*") if p.is_file())
    assert stored == ["a.png", "b.csv"]
    (path,) = run_files(prepared.metrics_log)
    lines = path.read_text().splitlines()
    assert f'"time":{run.info.start_time},' in lines[0]
    assert f'"time":{run.info.end_time},' in lines[-1]
    assert mlflow_run_id(prepared, "masksyn@car") == run.info.run_id
    assert mlflow_run_id(prepared, "masksyn@bus") is None


POINTS = ["find_or_create", "send", "upload", "note"]


def killed_follower(paths, *, point, count, is_after):
    """Run a replay whose process is killed before or after the `count`th time at a point."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)
    from seggen_core.tracking.mlflow_store import MlflowStore

    owner, name = (follow, "_write_note") if point == "note" else (MlflowStore, point)
    real, left = getattr(owner, name), [count]

    def dying(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0 and not is_after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)
    replay(paths, PROJECT_STORE)
    os._exit(0)


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_a_follower_killed_at_any_point_sends_everything_once(
    prepared, tracked, monkeypatch, point, is_after
):
    import mlflow  # noqa: F401 (once, for all forks)

    monkeypatch.setattr("seggen_core.tracking.log.CHUNK_BYTES", 500)
    with tracked("masksyn", item="car", num_steps=20) as run:
        report_everything(run, prepared.root, num_steps=20)
    count = 1
    while killed_follower(prepared, point=point, count=count, is_after=is_after):
        # The next one goes on from the note, so the first time kills again; some get further.
        count += 1
        assert count < 50
    assert count > 1, "none was killed"
    report = replay(prepared, PROJECT_STORE)
    assert report.problems == {}
    assert_everything_is_there_once(prepared, num_steps=20)


def test_a_run_killed_outright_is_closed_without_another_run_of_its_stage(prepared, tracked):
    child = os.fork()
    if child == 0:
        with tracked() as run:
            run.log_metrics({"loss": 1})
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    replay(prepared, PROJECT_STORE)
    _, (run,) = runs_in(prepared)
    assert run.info.status == "KILLED" and run.data.metrics == {"loss": 1.0}
    (path,) = run_files(prepared.metrics_log)
    assert run.info.end_time == path.stat().st_mtime_ns // 1_000_000
    assert replay(prepared, PROJECT_STORE).num_events == 0


def test_a_running_stage_is_seen_as_it_goes_on_and_ends(prepared, tracked):
    follower = Follower(prepared, resolve_target(prepared, PROJECT_STORE))
    with tracked() as run:
        for step in range(3):
            run.log_metrics({"loss": step}, step=step)
            assert follower.send().num_events == (2 if step == 0 else 1)
            _, (stored,) = runs_in(prepared)
            assert stored.info.status == "RUNNING" and stored.data.metrics == {"loss": step}
    assert follower.send().num_events == 1
    _, (stored,) = runs_in(prepared)
    assert stored.info.status == "FINISHED"
    with tracked("mask2img"):
        assert follower.send().num_runs == 1, "a new run is seen, too"


def test_several_followers_at_once_double_nothing(prepared, tracked):
    import mlflow  # noqa: F401 (once, for all forks)

    for item in ("car", "bus", "sky", "tree"):
        with tracked("imgsyn", item=item) as run:
            run.log_metrics({"samples": 4})
    children = []
    for _ in range(4):
        if (child := os.fork()) == 0:
            os._exit(1 if replay(prepared, PROJECT_STORE).problems else 0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    client, runs = runs_in(prepared)
    assert sorted(r.info.run_name for r in runs) == [
        f"imgsyn@{i}" for i in ("bus", "car", "sky", "tree")
    ]
    assert all(len(client.get_metric_history(r.info.run_id, "samples")) == 1 for r in runs)


def test_a_copied_project_doubles_no_run(prepared, tracked, tmp_path_factory):
    with tracked("masksyn", item="car", num_steps=3) as run:
        report_everything(run, prepared.root)
    replay(prepared, PROJECT_STORE)
    copy = ProjectPaths(tmp_path_factory.mktemp("copy") / "project")
    shutil.copytree(prepared.root, copy.root)
    assert replay(copy, PROJECT_STORE).num_events == 0
    assert_everything_is_there_once(copy)
    # And where the copy sends to the first one's store, whose place its notes don't know.
    first = f"sqlite:///{prepared.root}/mlflow.db"
    assert replay(copy, RuntimeConfig(tracking_uri=first)).problems == {}
    assert_everything_is_there_once(copy, first)


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", '{"run_id": 1}', '{"run_id": "a", "offset": "x"}']
)
def test_a_lost_or_damaged_note_doubles_nothing(prepared, tracked, text):
    with tracked("masksyn", item="car", num_steps=3) as run:
        report_everything(run, prepared.root)
    replay(prepared, PROJECT_STORE)
    (note,) = (prepared.metrics_log / "sent").rglob("*.json")
    before = note.read_bytes()
    note.unlink() if text is None else note.write_text(text)
    assert replay(prepared, PROJECT_STORE).problems == {}
    assert_everything_is_there_once(prepared)
    assert note.read_bytes() == before


def test_a_second_store_and_one_that_lost_its_runs_get_all_of_them(
    prepared, tracked, empty_database
):
    with tracked("masksyn", item="car", num_steps=3) as run:
        report_everything(run, prepared.root)
    replay(prepared, PROJECT_STORE)
    shutil.copyfile(empty_database, prepared.root / "other.db")
    other = RuntimeConfig(tracking_uri="sqlite:///other.db")
    uri = f"sqlite:///{prepared.root}/other.db"
    assert replay(prepared, other).num_runs == 1
    assert_everything_is_there_once(prepared, uri)
    with closing(sqlite3.connect(prepared.root / "other.db")) as database, database:
        for table in (
            "latest_metrics",
            "metrics",
            "params",
            "tags",
            "inputs",
            "input_tags",
            "runs",
        ):
            database.execute(f"delete from {table}")
    assert replay(prepared, other).num_runs == 1
    assert_everything_is_there_once(prepared, uri)


def test_a_run_that_a_user_has_deleted_does_not_come_back(prepared, tracked):
    with tracked() as run:
        run.log_metrics({"loss": 1})
    replay(prepared, PROJECT_STORE)
    client, (stored,) = runs_in(prepared)
    client.delete_run(stored.info.run_id)
    for _ in range(2):
        report = replay(prepared, PROJECT_STORE)
        assert (report.num_events, report.problems) == (0, {})
        shutil.rmtree(prepared.metrics_log / "sent")
    assert runs_in(prepared)[1] == []


def test_an_artifact_that_fails_holds_nothing_up_and_is_sent_later(prepared, tracked):
    (prepared.root / "mlruns").write_text("a file where the folder should be")
    with tracked("masksyn", item="car", num_steps=3) as run:
        report_everything(run, prepared.root)
    with tracked("text2mask"):
        pass
    report = replay(prepared, PROJECT_STORE)
    assert list(report.problems) == [run_files(prepared.metrics_log, "masksyn@car")[0].stem]
    assert "mlruns" in str(report)
    _, runs = runs_in(prepared)
    assert [(r.info.run_name, r.info.status) for r in runs] == [
        ("text2mask", "FINISHED"),
        ("masksyn@car", "FINISHED"),
    ]
    (prepared.root / "mlruns").unlink()
    assert replay(prepared, PROJECT_STORE).problems == {}
    client, runs = runs_in(prepared)
    assert [a.path for a in client.list_artifacts(runs[1].info.run_id)] == ["a.png", "b.csv"]
    assert len(client.get_metric_history(runs[1].info.run_id, "train/loss")) == 3


def test_an_artifact_whose_copy_is_gone_is_said_and_left_out(prepared, tracked, caplog):
    with tracked("masksyn", item="car", num_steps=3) as run:
        report_everything(run, prepared.root)
    (copy,) = (prepared.metrics_log / "artifacts").rglob("a.png")
    copy.unlink()
    assert replay(prepared, PROJECT_STORE).problems == {}
    assert "a.png is gone" in caplog.text
    client, (stored,) = runs_in(prepared)
    assert [a.path for a in client.list_artifacts(stored.info.run_id)] == ["b.csv"]


def test_a_damaged_line_costs_that_line_and_a_file_without_a_start_its_run(prepared, tracked):
    for stage in ("text2mask", "mask2img"):
        with tracked(stage) as run:
            run.log_metrics({"loss": 1}, step=1)
            run.log_metrics({"loss": 2}, step=2)
    (path,) = run_files(prepared.metrics_log, "text2mask")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], '{"event":"metrics"}\n', "x\n", *lines[2:]]))
    (path,) = run_files(prepared.metrics_log, "mask2img")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    (prepared.metrics_log / "runs" / "empty.jsonl").touch()
    report = replay(prepared, PROJECT_STORE)
    assert (report.num_runs, report.num_damaged, report.problems) == (1, 3, {})
    assert "left out 3 damaged lines" in str(report)
    client, (stored,) = runs_in(prepared)
    assert [m.step for m in client.get_metric_history(stored.info.run_id, "loss")] == [2]


def test_the_address_disk_sends_nothing_and_says_so(project, tracked, monkeypatch, capsys):
    with tracked():
        pass
    shutil.copyfile(ROOT / "params.yaml", project.root / "params.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "disk")
    for arguments in (["track"], ["track", "--replay"]):
        assert main(["--params", str(project.root / "params.yaml"), *arguments]) == 2
        assert "sends nothing" in capsys.readouterr().err
    assert not (project.root / "mlflow.db").exists()


@pytest.fixture
def started(project):
    """Starts `seggen track --follow` in a process of its own."""
    shutil.copyfile(ROOT / "params.yaml", project.root / "params.yaml")
    processes = []

    def start(uri=None):
        env = os.environ | ({"MLFLOW_TRACKING_URI": uri} if uri else {})
        command = [
            sys.executable,
            "-m",
            "seggen_core",
            "--params",
            str(project.root / "params.yaml"),
        ]
        process = subprocess.Popen(
            [*command, "track", "--follow"], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_the_command_follows_until_it_is_told_to_end(prepared, tracked, started):
    process = started()
    with tracked() as run:
        run.log_metrics({"loss": 1}, step=1)
        wait_until(lambda: runs_in(prepared, experiment="seggen/scenes/stages")[1])
        _, (stored,) = runs_in(prepared, experiment="seggen/scenes/stages")
        assert stored.info.status == "RUNNING"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    _, (stored,) = runs_in(prepared, experiment="seggen/scenes/stages")
    assert stored.info.status == "FINISHED", "the last pass sends what came meanwhile"


def test_a_server_that_is_down_is_said_once_and_gets_everything_when_it_is_back(
    project, tracked, started, tracking_server
):
    tracking_server.kill()
    process = started(tracking_server.uri.replace("//", "//user:s3cret@"))
    with tracked("masksyn", item="car", num_steps=3) as run:
        report_everything(run, project.root)
    said = process.stderr.readline()
    assert "Connection refused" in said and "//***@127.0.0.1" in said
    tracking_server.start()
    uri, experiment = tracking_server.uri, "seggen/scenes/stages"
    wait_until(
        lambda: [r for r in runs_in(project, uri, experiment)[1] if r.info.status == "FINISHED"]
    )
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")
    assert len(runs_in(project, uri, experiment)[1]) == 1


def test_a_server_that_dies_midway_gets_everything_once(
    project, tracked, tracking_server, monkeypatch
):
    monkeypatch.setattr(follow, "RETRY_SECONDS", 0.0)
    uri = tracking_server.uri
    follower = Follower(project, resolve_target(project, RuntimeConfig(tracking_uri=uri)))
    with tracked("masksyn", item="car", num_steps=3) as run:
        assert follower.send().problems == {}
        tracking_server.kill()
        report_everything(run, project.root)
        (reason,) = follower.send().problems.values()
        assert "refused" in reason
    assert follower.send().problems
    tracking_server.start()
    assert follower.send().problems == {}
    assert_everything_is_there_once(project, uri)
