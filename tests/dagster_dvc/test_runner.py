"""Single stages through the runner: outcomes, stopping, and other processes at the same files."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dagster_dvc import process as process_module
from dagster_dvc.busy import hold_dvc_lock
from dagster_dvc.errors import DvcBusyError, DvcProjectError
from dagster_dvc.graph import StageNode
from dagster_dvc.runner import Runner, StageRun, single_stage
from dagster_dvc.status import changed_stages
from tests.dagster_dvc.conftest import dvc, edit, is_alive, run_stage, wait_for_file


def change_seed(project: Path, seed: int) -> None:
    edit(project / "params.yaml", "seed: 0", f"seed: {seed}")


@pytest.fixture
def hanging(project: Path) -> Iterator[tuple[Runner, Generator[StageRun | None], int]]:
    """masksyn@car, whose command hangs: the runner, what it yields, and the command's process."""
    change_seed(project, 1)
    runner, runs, command = start_hanging(project)
    yield runner, runs, command
    runs.close()


def start_hanging(project: Path) -> tuple[Runner, Generator[StageRun | None], int]:
    (project / "trace" / "masksyn@car.hang").touch()
    runner = Runner(project)
    runs = runner.run(single_stage(project, "masksyn@car"))
    assert next(runs) is None
    command = int(wait_for_file(project / "trace" / "masksyn@car.pid"))
    (project / "trace" / "masksyn@car.hang").unlink()
    return runner, runs, command


def interrupted(runner: Runner, runs: Generator[StageRun | None]) -> StageRun:
    """Close the runs, as Ctrl-C does, and return the one that was ended."""
    (run,) = runner.running.values()
    runs.close()
    return run


def test_outcomes_of_a_stage(project: Path) -> None:
    result, _ = run_stage(project, "masksyn@car")
    assert (result.outcome, result.ok, result.changed_outs) == ("unchanged", True, ())

    change_seed(project, 1)
    result, lines = run_stage(project, "masksyn@car")
    assert (result.name, result.outcome, result.exit_code) == ("masksyn@car", "ran", 0)
    assert result.changed_outs == ()  # what it writes doesn't depend on the seed
    assert "masksyn@car says hello" in lines
    assert list(result.tail) == lines
    assert result.dvc_cpu_seconds > 0
    assert result.command_cpu_seconds is not None and result.command_cpu_seconds > 0

    (project / "data" / "synthetic" / "masksyn" / "car").unlink()
    result, lines = run_stage(project, "masksyn@car")
    assert (result.outcome, result.ok) == ("restored", True)
    assert "masksyn@car says hello" not in lines
    assert (project / "data" / "synthetic" / "masksyn" / "car").exists()

    # A record that is another one, of a run that DVC has in its cache.
    edit(project / "params.yaml", "seed: 1", "seed: 0")
    result, _ = run_stage(project, "masksyn@car")
    assert result.outcome == "restored"

    edit(project / "stage.sh", 'echo "{}"', 'echo "{$name}"')
    result, _ = run_stage(project, "masksyn@car")
    assert (result.outcome, result.changed_outs) == ("ran", ("data/synthetic/masksyn/car",))


def test_a_failing_stage_says_why_and_can_be_repeated(project: Path) -> None:
    change_seed(project, 1)
    (project / "trace" / "masksyn@car.fail").touch()
    result, lines = run_stage(project, "masksyn@car")
    assert (result.outcome, result.ok) == ("failed", False)
    assert result.exit_code > 0
    assert "the disk is full" in lines

    (project / "trace" / "masksyn@car.fail").unlink()
    assert run_stage(project, "masksyn@car")[0].outcome == "ran"


def test_python_in_a_command_is_this_python(project: Path) -> None:
    printed = "import os, sys; print(sys.executable, os.environ.get('SECRET'))"
    edit(
        project / "dvc.yaml",
        "cmd: sh stage.sh ablation",
        f'cmd: python -c "{printed}" && sh stage.sh ablation',
    )
    env = {"PATH": os.environ["PATH"], "SECRET": "handed on"}
    _, lines = run_stage(project, "ablation", env=env)
    assert f"{sys.executable} handed on" in lines


def test_a_file_of_the_project_does_not_stand_for_a_module(project: Path) -> None:
    (project / "dvc.py").write_text("raise SystemExit('not DVC')\n")
    assert run_stage(project, "masksyn@car")[0].outcome == "unchanged"


def test_stop_ends_the_group_and_dvc_can_go_on(
    hanging: tuple[Runner, Generator[StageRun | None], int],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # SIGINT alone ends it, however long that takes on a busy machine.
    monkeypatch.setattr(process_module, "STOP_STEPS", ((signal.SIGINT, 300.0),))
    runner, runs, command = hanging
    run = interrupted(runner, runs)
    assert run.result is not None
    assert (run.result.outcome, run.result.ok) == ("cancelled", False)
    assert not is_alive(command)
    # DVC itself saw how the command ended, rather than being killed: it has let go of its locks.
    assert run.result.exit_code > 0
    assert "masksyn@car" in changed_stages(project)
    dvc(project, "repro", "masksyn@car")
    assert "masksyn@car" not in changed_stages(project)


def test_stop_grows_harsher(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ((signal.SIGINT, 0.5), (signal.SIGTERM, 0.5), (signal.SIGKILL, 30.0))
    monkeypatch.setattr(process_module, "STOP_STEPS", steps)
    change_seed(project, 1)
    (project / "stage.sh").write_text("trap '' INT TERM\n" + (project / "stage.sh").read_text())
    runner, runs, command = start_hanging(project)
    run = interrupted(runner, runs)
    assert run.result is not None and run.result.outcome == "cancelled"
    assert not is_alive(command)
    dvc(project, "repro", "masksyn@car")
    assert "masksyn@car" not in changed_stages(project)


def test_a_stage_that_is_stopped_before_its_command_starts(project: Path) -> None:
    change_seed(project, 1)
    (project / "trace" / "masksyn@car.hang").touch()
    runner = Runner(project)
    runs = runner.run(single_stage(project, "masksyn@car"))
    next(runs)
    run = interrupted(runner, runs)
    assert run.result is not None and run.result.outcome == "cancelled"
    pid = project / "trace" / "masksyn@car.pid"
    assert not (pid.exists() and pid.read_text() and is_alive(int(pid.read_text())))


def test_a_command_does_not_outlive_a_dvc_that_was_killed(
    hanging: tuple[Runner, Generator[StageRun | None], int],
) -> None:
    runner, runs, command = hanging
    (run,) = runner.running.values()
    os.kill(run.process.pid, signal.SIGKILL)
    ended = next(run for run in runs if run is not None)
    assert ended.result is not None
    assert (ended.result.outcome, ended.result.exit_code) == ("failed", -signal.SIGKILL)
    assert not is_alive(command)


def test_stop_ends_what_the_command_left_in_its_group(project: Path) -> None:
    change_seed(project, 1)
    left = "(trap '' INT TERM; exec sleep 600) &\necho $! > trace/left\n"
    (project / "stage.sh").write_text(left + (project / "stage.sh").read_text())
    runner, runs, command = start_hanging(project)
    assert is_alive(int((project / "trace" / "left").read_text()))
    (run,) = runner.running.values()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_module, "STOP_STEPS", ((signal.SIGINT, 0.5), (signal.SIGKILL, 30.0)))
        runs.close()
    assert run.result is not None and run.result.outcome == "cancelled"
    assert not is_alive(command)
    assert not is_alive(int((project / "trace" / "left").read_text()))


def test_a_daemon_left_behind_does_not_hold_the_stage_up(project: Path) -> None:
    change_seed(project, 1)
    (project / "stage.sh").write_text(
        "setsid sleep 600 &\necho $! > trace/daemon\n" + (project / "stage.sh").read_text()
    )
    result, lines = run_stage(project, "masksyn@car")
    daemon = int((project / "trace" / "daemon").read_text())
    assert is_alive(daemon)
    os.kill(daemon, signal.SIGKILL)
    assert result.outcome == "ran"
    assert "masksyn@car says hello" in lines


def test_an_interrupted_dvc_is_not_in_the_middle_of_writing_dvc_lock(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends the signal holds DVC's lock then; DVC writes dvc.lock only while it holds it."""
    held: list[bool] = []
    send = process_module.DvcProcess.signal

    def signal_and_look(self: process_module.DvcProcess, signum: signal.Signals) -> None:
        try:
            with hold_dvc_lock(project, patience=0):
                held.append(False)
        except DvcBusyError:
            held.append(True)
        send(self, signum)

    change_seed(project, 1)
    runner, runs, _ = start_hanging(project)
    monkeypatch.setattr(process_module.DvcProcess, "signal", signal_and_look)
    interrupted(runner, runs)
    assert held[0]


def test_a_stage_waits_for_the_process_that_is_at_its_files(project: Path) -> None:
    """A DVC that outlived its runner, or a shell's: it is named and waited for; its work counts."""
    change_seed(project, 1)
    (project / "trace" / "masksyn@car.meet").write_text("trace/release")
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "masksyn@car"]
    other = subprocess.Popen(
        command, cwd=project, stdout=subprocess.DEVNULL, start_new_session=True
    )
    wait_for_file(project / "trace" / "masksyn@car.start")
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        (project / "trace" / "release").touch()

    with closing(Runner(project, say=say).run(single_stage(project, "masksyn@car"))) as runs:
        results = [run.result for run in runs if run is not None]
    assert other.wait() == 0
    assert [result.outcome for result in results if result] == ["unchanged"]
    (sentence,) = said
    assert f"masksyn@car waits for process {other.pid} (" in sentence
    assert "data/synthetic/masksyn/car" in sentence


def test_a_stage_that_lost_a_race_is_started_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process comes between the look at its claims and DVC's own."""
    change_seed(project, 1)
    (project / "trace" / "masksyn@car.meet").write_text("trace/release")
    looks = []

    def is_free(self: Runner, node: StageNode) -> bool:
        looks.append(node.name)
        if len(looks) == 1:
            command = [sys.executable, "-m", "dvc", "repro", "--single-item", node.name]
            subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL)
            wait_for_file(project / "trace" / f"{node.name}.start")
            return True
        (project / "trace" / "release").touch()
        return original(self, node)

    original = Runner._is_free
    monkeypatch.setattr(Runner, "_is_free", is_free)
    with closing(Runner(project).run(single_stage(project, "masksyn@car"))) as runs:
        results = [run.result for run in runs if run is not None]
    assert [result.outcome for result in results if result] == ["unchanged"]


def test_a_table_of_claims_that_is_damaged_is_made_again(project: Path) -> None:
    change_seed(project, 1)
    table = project / ".dvc" / "tmp" / "rwlock"
    for text in ("", '{"write": {"a', "[]", '{"write": {"a": 3}}'):
        table.write_text(text)
        (project / "data" / "synthetic" / "masksyn" / "car").unlink(missing_ok=True)
        assert run_stage(project, "masksyn@car")[0].ok
        assert json.loads(table.read_text()) is not None


@pytest.mark.parametrize("text", ["", "schema: '2.0'\nstages:\n  masksyn@car:\n    cmd: 'sh sta"])
def test_a_stage_that_fails_over_dvc_lock_says_what_to_do(project: Path, text: str) -> None:
    (project / "dvc.lock").write_text(text)
    with pytest.raises(DvcProjectError, match=r"dvc\.lock is .*delete it. Then run again"):
        run_stage(project, "masksyn@car")
    (project / "dvc.lock").unlink()
    assert run_stage(project, "dataset")[0].outcome == "restored"
    assert run_stage(project, "masksyn@car")[0].outcome == "restored"
