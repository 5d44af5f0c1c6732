import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from dagster_dvc import execution
from dagster_dvc.errors import DvcServerError
from dagster_dvc.execution import DvcServer, StageResult, StageRun
from dagster_dvc.manifest import changed_stages
from tests.dagster_dvc.conftest import dvc, is_alive


def run(server: DvcServer, project: Path, name: str) -> tuple[StageResult, list[str]]:
    stage = server.run(project, name)
    lines = list(stage.lines())
    return stage.result, lines


def start_hanging(
    server: DvcServer, project: Path, name: str
) -> tuple[StageRun, threading.Thread, int]:
    """Start a stage whose command hangs; returns it, the thread that reads it and the command's process id."""
    (project / "trace" / f"{name}.hang").touch()
    stage = server.run(project, name)
    reader = threading.Thread(target=lambda: list(stage.lines()))
    reader.start()
    pid_file = project / "trace" / f"{name}.pid"
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline, "the command has not started"
        time.sleep(0.05)
    (project / "trace" / f"{name}.hang").unlink()
    return stage, reader, int(pid_file.read_text())


def change_seed(project: Path, seed: int) -> None:
    (project / "params.yaml").write_text(
        (project / "params.yaml").read_text().replace("seed: 0", f"seed: {seed}")
    )


def test_outcomes_of_a_stage(server: DvcServer, project: Path) -> None:
    result, _ = run(server, project, "masksyn@car")
    assert (result.outcome, result.ok) == ("unchanged", True)

    change_seed(project, 1)
    result, lines = run(server, project, "masksyn@car")
    assert (result.name, result.outcome, result.exit_code) == ("masksyn@car", "ran", 0)
    assert "masksyn@car says hello" in lines
    assert list(result.tail) == lines
    assert result.dvc_cpu_seconds > 0

    (project / "data" / "synthetic" / "masksyn" / "car").unlink()
    result, lines = run(server, project, "masksyn@car")
    assert (result.outcome, result.ok) == ("cached", True)
    assert "masksyn@car says hello" not in lines
    assert (project / "data" / "synthetic" / "masksyn" / "car").exists()


def test_a_failing_stage_says_why_and_can_be_repeated(server: DvcServer, project: Path) -> None:
    change_seed(project, 1)
    (project / "trace" / "masksyn@car.fail").touch()
    result, lines = run(server, project, "masksyn@car")
    assert (result.outcome, result.ok) == ("failed", False)
    assert result.exit_code not in (0, None)
    assert "the disk is full" in lines

    (project / "trace" / "masksyn@car.fail").unlink()
    result, _ = run(server, project, "masksyn@car")
    assert result.outcome == "ran"


def test_a_stage_that_does_not_exist(server: DvcServer, project: Path) -> None:
    result, lines = run(server, project, "masksyn@cat")
    assert result.outcome == "failed"
    assert any("masksyn@cat" in line for line in lines)


def test_python_in_a_command_is_this_python(server: DvcServer, project: Path) -> None:
    text = (project / "dvc.yaml").read_text()
    command = "python -c \"import os, sys; print(sys.executable, os.environ.get('SECRET'))\" && sh stage.sh ablation data/ablation.json"
    (project / "dvc.yaml").write_text(
        text.replace("sh stage.sh ablation data/ablation.json", command)
    )
    stage = server.run(project, "ablation", env={"PATH": os.environ["PATH"], "SECRET": "handed on"})
    assert f"{sys.executable} handed on" in list(stage.lines())


def test_stop_ends_the_group_and_dvc_can_go_on(server: DvcServer, project: Path) -> None:
    change_seed(project, 1)
    stage, reader, command = start_hanging(server, project, "masksyn@car")
    started = time.monotonic()
    stage.stop()
    reader.join()
    assert time.monotonic() - started < 8, "SIGINT alone should have done"
    assert (stage.result.outcome, stage.result.ok) == ("stopped", False)
    assert not is_alive(command)
    # DVC itself saw how the command ended, rather than being killed: it has let go of its locks.
    assert stage.result.exit_code not in (0, None)
    assert "masksyn@car" in changed_stages(project)
    dvc(project, "repro", "masksyn@car")
    assert "masksyn@car" not in changed_stages(project)


def test_stop_grows_harsher(
    server: DvcServer, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        execution,
        "STOP_STEPS",
        ((signal.SIGINT, 1.0), (signal.SIGTERM, 1.0), (signal.SIGKILL, 5.0)),
    )
    change_seed(project, 1)
    (project / "stage.sh").write_text("trap '' INT TERM\n" + (project / "stage.sh").read_text())
    stage, reader, command = start_hanging(server, project, "masksyn@car")
    stage.stop()
    reader.join()
    # SIGKILL reaches the members of the group one by one: DVC may live long enough to see its
    # command die, and say so.
    assert stage.result.outcome == "stopped"
    assert stage.result.exit_code != 0
    assert not is_alive(command)
    dvc(project, "repro", "masksyn@car")
    assert "masksyn@car" not in changed_stages(project)


def test_a_stage_that_is_stopped_before_its_command_starts(
    server: DvcServer, project: Path
) -> None:
    change_seed(project, 1)
    (project / "trace" / "masksyn@car.hang").touch()
    stage = server.run(project, "masksyn@car")
    reader = threading.Thread(target=lambda: list(stage.lines()))
    reader.start()
    while stage._group is None:
        time.sleep(0.001)
    stage.stop()
    reader.join()
    assert stage.result.outcome == "stopped"
    pid_file = project / "trace" / "masksyn@car.pid"
    assert not (pid_file.exists() and pid_file.read_text() and is_alive(int(pid_file.read_text())))


def test_a_command_does_not_outlive_a_dvc_that_was_killed(server: DvcServer, project: Path) -> None:
    change_seed(project, 1)
    stage, reader, command = start_hanging(server, project, "masksyn@car")
    assert stage._group is not None
    os.kill(stage._group, signal.SIGKILL)
    reader.join()
    assert (stage.result.outcome, stage.result.exit_code) == ("failed", None)
    assert not is_alive(command)


def test_stop_ends_what_the_command_left_in_its_group(server: DvcServer, project: Path) -> None:
    change_seed(project, 1)
    left = "(trap '' INT TERM; exec sleep 30) &\necho $! > trace/left\n"
    (project / "stage.sh").write_text(left + (project / "stage.sh").read_text())
    stage, reader, command = start_hanging(server, project, "masksyn@car")
    assert is_alive(int((project / "trace" / "left").read_text()))
    stage.stop()
    reader.join()
    assert stage.result.outcome == "stopped"
    assert not is_alive(command)
    assert not is_alive(int((project / "trace" / "left").read_text()))


def test_a_daemon_left_behind_does_not_hold_the_stage_up(server: DvcServer, project: Path) -> None:
    change_seed(project, 1)
    (project / "stage.sh").write_text(
        "setsid sleep 30 &\necho $! > trace/daemon\n" + (project / "stage.sh").read_text()
    )
    result, lines = run(server, project, "masksyn@car")
    daemon = int((project / "trace" / "daemon").read_text())
    assert is_alive(daemon)
    os.kill(daemon, signal.SIGKILL)
    assert result.outcome == "ran"
    assert result.seconds < 25
    assert "masksyn@car says hello" in lines


def test_a_dead_server_is_said(project: Path) -> None:
    server = DvcServer()
    server._process.kill()
    server._process.wait()
    with pytest.raises(DvcServerError, match="masksyn@car can't start"):
        server.run(project, "masksyn@car")
    server.close()
