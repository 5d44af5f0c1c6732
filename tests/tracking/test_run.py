import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from seggen_core.errors import ArtefactError
from seggen_core.tracking.log import (
    Artifact,
    End,
    Input,
    Metrics,
    Start,
    Tags,
    read_chunk,
    run_files,
)
from seggen_core.tracking.run import flatten_params

ROOT = Path(__file__).parents[2]


def events_of(paths, kind):
    (path,) = run_files(paths.metrics_log)
    chunk = read_chunk(path)
    assert chunk.num_damaged == 0
    return [event for event in chunk.events if isinstance(event, kind)]


def test_everything_that_a_stage_reports_is_on_disk(project, tracked, monkeypatch):
    md5 = "0123456789abcdef0123456789abcdef"
    (project.root / "dvc.lock").write_text(
        f"stages:\n  captions:\n    outs:\n    - path: data/captions\n      md5: {md5}.dir\n"
        "  masksyn@car:\n    deps:\n    - path: data/captions\n"
        "      md5: ffffffffffffffffffffffffffffffff.dir\n"
    )
    project.captions.parent.mkdir(parents=True)
    project.captions.write_bytes(b"table")
    loose = project.root / "loose.csv"
    loose.write_text("a")
    picture = project.root / "preview.png"
    picture.write_bytes(b"png")
    monkeypatch.setenv("DAGSTER_RUN_ID", "d-1")
    monkeypatch.setenv("DVC_EXP_NAME", "lined-acid")
    monkeypatch.setenv("MLFLOW_RUN_ID", "somebody-elses")
    monkeypatch.chdir(project.root)

    with tracked("masksyn", item="car", sampling={"steps": 20}, root=None) as run:
        assert "MLFLOW_RUN_ID" not in os.environ
        run.log_metrics({"val/miou": 1}, step=2)
        run.log_input(name="captions", path=project.captions)
        run.log_input(name="loose", path=loose)
        run.log_artifact(picture)
        picture.unlink()
        run.set_tags({"quality@5": "high"})
    assert os.environ["MLFLOW_RUN_ID"] == "somebody-elses"

    (start,) = events_of(project, Start)
    assert (start.name, start.stage, start.item) == ("masksyn@car", "masksyn", "car")
    assert start.experiment == "seggen/tiny/stages"
    assert start.params == {"sampling.steps": "20", "root": "None"}
    assert start.tags["dvc.stage"] == "masksyn@car" and start.tags["seggen.stage"] == "masksyn"
    assert start.tags["seggen.item"] == "car" and start.tags["seggen.device"] == "auto"
    assert start.tags["dagster/run_id"] == "d-1" and start.tags["dvc.exp"] == "lined-acid"
    assert start.tags["dvc.dep.data/captions"] == f"{md5}.dir"
    assert [e.metrics for e in events_of(project, Metrics)] == [{"val/miou": 1.0}]
    digests = {e.name: (e.path, e.digest, e.digest_from) for e in events_of(project, Input)}
    assert digests == {
        "captions": ("data/captions", f"{md5}.dir", "dvc"),
        "loose": ("loose.csv", "0cc175b9c0f1b6a831c399e269772661", "content"),
    }
    assert [e.tags for e in events_of(project, Tags)] == [
        {"dvc.dep.data/captions": f"{md5}.dir"},
        {"quality_5": "high"},
    ]
    (artifact,) = events_of(project, Artifact)
    assert (project.metrics_log / "artifacts" / artifact.file).read_bytes() == b"png"
    assert [e.status for e in events_of(project, End)] == ["FINISHED"]


def test_the_experiment_is_that_of_the_run(project, tracked, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with tracked():
        pass
    assert events_of(project, Start)[0].experiment == "mine/stages"


@pytest.mark.parametrize("text", ["a: [", "- profile", "", "\udcff"])
def test_params_that_name_no_profile_stop_nothing(project, tracked, text):
    (project.root / "params.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with tracked():
        pass
    assert events_of(project, Start)[0].experiment == "seggen/stages"


@pytest.fixture
def default_sigterm():
    """SIGTERM as a stage's process has it; Dagster in the tests' own process leaves a handler."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "error,status",
    [(ValueError("bad mask"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (None, "KILLED")],
)
def test_a_failing_stage_is_failed_and_a_killed_one_killed(
    project, tracked, default_sigterm, error, status
):
    def fail():
        if error is None:
            signal.raise_signal(signal.SIGTERM)
        raise error

    with pytest.raises(type(error) if error else SystemExit), tracked():
        fail()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert [e.status for e in events_of(project, End)] == [status]
    tags = [e.tags for e in events_of(project, Tags)]
    assert tags == ([{"seggen.error": "ValueError: bad mask"}] if status == "FAILED" else [])


def test_a_stage_imports_nothing_that_sends(project):
    script = f"""
import sys
from pathlib import Path
from seggen_core.config import RuntimeConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking import track_stage, tracked_steps
paths = ProjectPaths(Path({str(project.root)!r}))
uri = "http://127.0.0.1:1"
runtime = RuntimeConfig(tracking_uri=uri)
with track_stage("dataset", item=None, params={{}}, runtime=runtime, paths=paths) as run:
    run.log_metrics({{"samples": 3}})
sending = {{"mlflow", "requests", "urllib3", "sqlalchemy"}} & set(sys.modules)
heavy = {{"torch", "pandas", "matplotlib", "dvc", "dagster"}} & set(sys.modules)
assert not sending | heavy, sending | heavy
assert not any(name.endswith(("tracking.follow", "tracking.target")) for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    assert not (project.root / "mlflow.db").exists()
    assert [e.status for e in events_of(project, End)] == ["FINISHED"]
    assert "127.0.0.1" not in run_files(project.metrics_log)[0].read_text()


def test_a_large_input_without_an_entry_in_the_lock_is_hashed_once(project, tracked, monkeypatch):
    monkeypatch.setattr("seggen_core.project.digests.LARGE_BYTES", 4)
    folder = project.root / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"weights")
    (folder / "config").write_bytes(b"{}")
    hashed = []
    digest = hashlib.file_digest

    def counted(handle, algorithm):
        hashed.append(Path(handle.name).name)
        return digest(handle, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    with tracked() as run:
        for _ in range(3):
            run.log_input(name="model", path=folder)
        (folder / "weights").write_bytes(b"changed!")
        run.log_input(name="model", path=folder)
    assert hashed.count("weights") == 2 and hashed.count("config") == 4
    digests = [e.digest for e in events_of(project, Input)]
    assert len(set(digests)) == 2 and len(set(digests[:3])) == 1


def test_a_name_that_is_no_unicode_stops_nothing(project, tracked):
    picture = project.root / "\udcff.png"
    picture.write_bytes(b"png")

    def fail(run):
        run.log_artifact(picture)
        run.log_input(name="picture", path=picture)
        run.set_tags({"file": "a\udcff.png"})
        raise OSError("bad \udcff.png")

    with pytest.raises(OSError, match="bad"), tracked(folder="\udcff") as run:
        fail(run)
    (artifact,) = events_of(project, Artifact)
    assert (project.metrics_log / "artifacts" / artifact.file).name == "\\udcff.png"
    assert (project.metrics_log / "artifacts" / artifact.file).read_bytes() == b"png"
    assert events_of(project, Start)[0].params == {"folder": "\\udcff"}
    assert [e.tags for e in events_of(project, Tags)] == [
        {"file": "a\\udcff.png"},
        {"seggen.error": "OSError: bad \\udcff.png"},
    ]


def test_misuse_is_said_at_once(project, tracked):
    with tracked() as run:
        with pytest.raises(AssertionError, match="iou@car"):
            run.log_metrics({"iou@car": 1.0})
        with pytest.raises(FileNotFoundError):
            run.log_artifact(project.root / "missing.png")


def test_nested_params_become_flat_names():
    params = {"sampling": {"steps": 20, "kwargs": {}}, "prompts": ("a", "b"), "root": None}
    flat = {"sampling.steps": "20", "prompts": '["a", "b"]', "root": "None"}
    assert flatten_params(params) == flat


def test_an_experiment_in_a_copy_is_recorded_in_the_project(project, monkeypatch):
    """`dvc exp run --temp` deletes the copy that it ran in, and what lies in it."""
    stage = "from pathlib import Path; from seggen_core.config import RuntimeConfig; "
    stage += "from seggen_core.project.paths import ProjectPaths; "
    stage += "from seggen_core.tracking import track_stage; paths = ProjectPaths(Path.cwd())\n"
    stage += "with track_stage('captions', item=None, params={'a': 1}, paths=paths,"
    stage += " runtime=RuntimeConfig()) as run: run.log_metrics({'x': 1.0})\n"
    stage += "Path('out').write_text('made')\n"
    (project.root / "stage.py").write_text(stage)
    (project.root / "params.yaml").write_text("profile: tiny\na: 1\n")
    (project.root / "dvc.yaml").write_text(
        f"stages:\n  captions:\n    cmd: {sys.executable} stage.py\n    params: [a]\n"
        "    outs: [out]\n"
    )
    (project.root / ".gitignore").write_text("/out\n/.seggen/\n")
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "a")
        monkeypatch.setenv(f"{name}_EMAIL", "a@example.org")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    dvc = str(Path(sys.executable).with_name("dvc"))
    for command in (
        ["git", "init", "--quiet"],
        [dvc, "init", "--quiet"],
        ["git", "add", "."],
        ["git", "commit", "--quiet", "-m", "begin"],
        [dvc, "exp", "run", "--temp", "--name", "other-a", "-S", "a=2"],
    ):
        subprocess.run(command, cwd=project.root, check=True, capture_output=True)
    assert not (project.root / "out").exists(), "the workspace is as it was"
    (start,) = events_of(project, Start)
    assert start.name == "captions (other-a)" and start.tags["dvc.exp"] == "other-a"
    assert start.experiment == "seggen/tiny/stages"
    (end,) = events_of(project, End)
    assert end.status == "FINISHED"
    assert run_files(project.metrics_log, "captions") == [], "no run of the workspace's stage"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path.name)])
def test_an_input_that_can_not_be_read_is_a_users_error(project, tracked, make):
    path = project.root / "odd"
    make(path)
    with tracked("captions") as run, pytest.raises(ArtefactError, match="run: dvc checkout"):
        run.log_input(name="odd", path=path)
