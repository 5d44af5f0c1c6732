import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_dvc.files import STATE_FOLDER, read_object, write_json
from dagster_dvc.repro import main
from dagster_dvc.status import changed_stages
from tests.dagster_dvc.conftest import dvc, edit, is_alive, wait_for_file


def outcomes(output: str) -> dict[str, str]:
    """{"masksyn@car": "ran"} from what the runner printed."""
    return dict(re.findall(r"^\[ *\d+/\d+\] (\S+)  (\w+) ", output, flags=re.MULTILINE))


def times(project: Path, name: str) -> tuple[float, float]:
    start, end = ((project / "trace" / f"{name}.{what}").read_text() for what in ("start", "end"))
    return float(start), float(end)


def edit_params(project: Path, old: str, new: str) -> None:
    edit(project / "params.yaml", old, new)


def test_a_full_run(finished_project: Path) -> None:
    """What the fixture did: everything, two at a time, on a fresh project without a commit."""
    dataset, car, bus, arm = (
        times(finished_project, f)
        for f in ("dataset", "masksyn@car", "masksyn@bus", "train_seg@masksyn")
    )
    assert dataset[1] <= min(car[0], bus[0])
    assert max(car[0], bus[0]) <= min(car[1], bus[1]), "the two partitions did not run side by side"
    assert max(car[1], bus[1]) <= arm[0]

    log = (finished_project / STATE_FOLDER / "logs" / "masksyn@car.log").read_text()
    assert "masksyn@car says hello" in log
    durations = json.loads((finished_project / STATE_FOLDER / "durations.json").read_text())
    assert set(durations["stages"]) == {
        "dataset", "masksyn@car", "masksyn@bus", "train_seg@baseline", "train_seg@masksyn",
        "ablation",
    }  # fmt: skip
    assert all(seconds > 0 for seconds in durations["stages"].values())
    assert [(row["stage"], row["ran"]) for row in durations["last_run"]["groups"]] == [
        ("dataset", 1), ("masksyn", 2), ("train_seg", 2), ("ablation", 1)
    ]  # fmt: skip


def test_a_second_run_does_nothing_and_dvc_agrees(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--cd", str(project)]) == 0
    assert capsys.readouterr().out == "Nothing to do: 6 stages up to date.\n"
    assert not list((project / "trace").iterdir())
    assert "up to date" in dvc(project, "status")


def test_a_changed_param_runs_what_depends_on_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_params(project, "p_aug: 0.6", "p_aug: 0.5")
    assert main(["--cd", str(project), "--dry"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "train_seg@baseline",
        "train_seg@masksyn",
        "ablation",
    ]
    assert main(["--cd", str(project), "-j", "2"]) == 0
    # The stages' output doesn't depend on p_aug, so that there is nothing new for the table.
    assert outcomes(capsys.readouterr().out) == {
        "train_seg@baseline": "ran",
        "train_seg@masksyn": "ran",
    }
    assert changed_stages(project) == {}
    # What was made before comes back from the run cache.
    edit_params(project, "p_aug: 0.5", "p_aug: 0.6")
    assert main(["--cd", str(project), "-j", "2", "train_seg@baseline"]) == 0
    assert outcomes(capsys.readouterr().out) == {"train_seg@baseline": "restored"}


def test_a_new_class_runs_its_partition_and_what_reads_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_params(project, "- bus\n", "- bus\n- tree\n")
    assert main(["--cd", str(project), "-j", "2"]) == 0
    assert outcomes(capsys.readouterr().out) == {"masksyn@tree": "ran", "train_seg@masksyn": "ran"}


def test_a_log_that_cannot_be_written_does_not_hold_the_stage_up(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_params(project, "p_aug: 0.6", "p_aug: 0.5")
    log = project / STATE_FOLDER / "logs" / "train_seg@baseline.log"
    log.unlink()
    log.symlink_to("/dev/full")
    assert main(["--cd", str(project), "train_seg@baseline"]) == 0
    out = capsys.readouterr().out
    assert "train_seg@baseline runs on without its log: [Errno 28]" in out
    assert outcomes(out) == {"train_seg@baseline": "ran"}


def test_a_failure_lets_others_end_and_starts_nothing_new(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_params(project, "seed: 0", "seed: 1")
    edit_params(project, "p_aug: 0.6", "p_aug: 0.5")
    (project / "trace" / "masksyn@car.fail").touch()
    assert main(["--cd", str(project), "-j", "2"]) == 1
    out, err = capsys.readouterr()
    assert outcomes(out)["masksyn@car"] == "failed"
    assert outcomes(out)["masksyn@bus"] == "ran"
    assert not {"train_seg@masksyn", "ablation"} & outcomes(out).keys()
    assert "Stage masksyn@car failed" in err
    assert "the disk is full" in err
    assert str(project / STATE_FOLDER / "logs" / "masksyn@car.log") in err

    (project / "trace" / "masksyn@car.fail").unlink()
    assert main(["--cd", str(project), "-j", "2"]) == 0
    assert "masksyn@bus" not in outcomes(capsys.readouterr().out)
    assert changed_stages(project) == {}


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_everything_and_dvc_can_go_on(
    project: Path, signum: signal.Signals
) -> None:
    edit_params(project, "seed: 0", "seed: 1")
    trap = "trap 'echo $name is interrupted; exit 1' INT TERM; echo $$ > "
    edit(project / "stage.sh", "echo $$ > ", trap)
    for name in ("masksyn@car", "masksyn@bus"):
        (project / "trace" / f"{name}.hang").touch()
    command = [sys.executable, "-m", "dagster_dvc.repro", "--cd", str(project), "-j", "2"]
    process = subprocess.Popen(
        [*command, "masksyn"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    pid_files = [project / "trace" / f"{name}.pid" for name in ("masksyn@car", "masksyn@bus")]
    for file in pid_files:
        wait_for_file(file)
    process.send_signal(signum)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "stopping" in out
    assert "running this again goes on from here" in err
    assert not any(is_alive(int(file.read_text())) for file in pid_files)
    log = (project / STATE_FOLDER / "logs" / "masksyn@car.log").read_text()
    assert "masksyn@car is interrupted" in log

    for name in ("masksyn@car", "masksyn@bus"):
        (project / "trace" / f"{name}.hang").unlink()
    dvc(project, "repro", "masksyn")
    assert not {"dataset", "masksyn@car", "masksyn@bus"} & changed_stages(project).keys()


def test_user_errors_are_one_line(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--cd", str(project), "masksin"]) == 2
    assert (
        capsys.readouterr().err
        == "error: 'masksin' is neither a stage nor a group of dvc.yaml; did you mean masksyn?\n"
    )
    assert main(["--cd", str(tmp_path)]) == 2
    assert "has no .dvc folder" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"stages": 3}', '{"stages": {"a": "b"}}'])
def test_damaged_durations_are_worth_nothing(project: Path, text: str) -> None:
    edit_params(project, "p_aug: 0.6", "p_aug: 0.5")
    durations = project / STATE_FOLDER / "durations.json"
    durations.write_text(text)
    assert main(["--cd", str(project), "train_seg@baseline"]) == 0
    assert set(json.loads(durations.read_text())["stages"]) == {"train_seg@baseline"}


def test_a_fifo_among_the_durations_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "durations.json")
    assert read_object(tmp_path / "durations.json") == {}
    write_json(tmp_path / "durations.json", {"stages": {}})
    assert read_object(tmp_path / "durations.json") == {"stages": {}}


def test_half_a_dvc_yaml_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text[: text.index("  train_seg:")])
    assert main(["--cd", str(project)]) == 0
    err = capsys.readouterr().err
    assert "has stages that dvc.yaml doesn't define: ablation, train_seg" in err
    assert "git checkout dvc.yaml" in err


@pytest.mark.parametrize("file", ["dvc.yaml", "dvc.lock"])
def test_an_empty_file_is_one_message(
    project: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / file).write_text("")
    assert main(["--cd", str(project)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert f"git checkout {file}" in err


def test_a_place_that_can_not_be_written_is_one_message_and_exit_code_3(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(project / ".dvc" / "tmp")
    (project / ".dvc" / "tmp").write_text("in the way")
    assert main(["--cd", str(project)]) == 3
    err = capsys.readouterr().err
    assert err.startswith(f"error: can't use {project}/.dvc/tmp: File exists. Finished stages are")
    assert err.count("\n") == 1


def start(project: Path, *targets: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dagster_dvc.repro", "--cd", str(project), *targets]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_runs_at_once_share_the_work(project: Path) -> None:
    """The second says for whom it waits, and finds the stage done."""
    edit_params(project, "p_aug: 0.6", "p_aug: 0.5")
    (project / "trace" / "train_seg@baseline.meet").write_text("trace/release")
    first = start(project, "train_seg@baseline")
    wait_for_file(project / "trace" / "train_seg@baseline.start")
    second = start(project, "train_seg@baseline")
    assert second.stdout is not None
    said = [second.stdout.readline(), second.stdout.readline()]
    assert said[0].startswith("1 stage to bring up to date")
    assert said[1].startswith("train_seg@baseline waits for process ")
    (project / "trace" / "release").touch()
    assert "train_seg@baseline  ran" in first.communicate(timeout=300)[0]
    assert "train_seg@baseline  unchanged" in second.communicate(timeout=300)[0]
    assert (first.returncode, second.returncode) == (0, 0)


def test_what_a_killed_runner_left_is_waited_for(project: Path) -> None:
    edit_params(project, "p_aug: 0.6", "p_aug: 0.5")
    (project / "trace" / "train_seg@baseline.meet").write_text("trace/release")
    killed = start(project, "train_seg@baseline")
    wait_for_file(project / "trace" / "train_seg@baseline.start")
    killed.kill()
    killed.wait()
    second = start(project, "train_seg@baseline")
    assert second.stdout is not None
    said = [second.stdout.readline(), second.stdout.readline()]
    assert said[1].startswith("train_seg@baseline waits for process ")
    (project / "trace" / "release").touch()
    second.communicate(timeout=300)
    assert second.returncode == 0
    assert "train_seg@baseline" not in changed_stages(project)
