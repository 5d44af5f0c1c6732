"""Options and answers that all commands share: --set, --json, typos, folders that are missing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seggen_core.cli import _WITHOUT_PARAMS, COMMANDS, STAGES, build_parser, main
from seggen_core.commands.completion import SHELLS
from seggen_core.project.shipped import version
from seggen_core.reports import machine

ROOT = Path(__file__).parents[2]
REQUIRED = {
    "captions-export": ["--out", "x.csv"],
    "captions-import": ["x.csv"],
    "completion": ["bash"],
    "export": ["--to", "coco", "--out", "x", "real"],
    "init": ["--dataset", "folder", "--force"],
    "lineage": ["masksyn"],
    "mask": ["--prompts", "none.txt", "--word", "car"],
    "new": ["x"],
    "predict": ["none.jpg"],
    "pretrain": ["--out", "."],
    "validate": ["--headers-only"],
}
"""Arguments with which a command gets as far as it can without a project's results."""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"seggen {version()}\n"


@pytest.mark.parametrize(
    "wrong, meant", [("plna", "plan"), ("train-seg", "train_seg"), ("showw", "show")]
)
def test_a_mistyped_command(wrong: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"did you mean {meant}" in usage_error([wrong], capsys)


@pytest.mark.parametrize("command", [*COMMANDS])
def test_a_mistyped_option_is_answered_by_the_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = usage_error([command, *REQUIRED.get(command, []), "--parmas", "x"], capsys)
    assert "did you mean --params" in message and f"usage: seggen {command}" in message


@pytest.mark.parametrize("before", [True, False])
def test_project_options_stand_before_or_after_the_command(
    params: Path, before: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--params", str(params), "--set", "dataset.num_train=7"]
    arguments = [*options, "plan"] if before else ["plan", *options]
    assert main([*arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    (dataset,) = [stage for stage in plan["stages"] if stage["stage"] == "dataset"]
    assert "407 real samples" in dataset["work"]  # 7 + 100 + 300


def test_settings_on_both_sides_count_and_the_last_wins(
    params: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = ["--set", "dataset.num_val=1", "--set", "dataset.num_train=5", "plan", "--json",
             "--set", "dataset.num_train=7"]  # fmt: skip
    assert main(["--params", str(params), *sides]) == 0
    assert "308 real samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    "setting, message",
    [
        ("dataset.num_trian=7", "did you mean num_train?"),
        ("dataset.num_train=many", "dataset.num_train"),
        ("dataset.num_train", "is not KEY=VALUE"),
        ("seed.x=1", "is no section"),
        ("a b=1", "is not KEY=VALUE"),
        ("seed=!!python/object:os.system", "tag"),
    ],
)
def test_a_wrong_setting(
    params: Path, setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--params", str(params), "plan", "--set", setting]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(_WITHOUT_PARAMS - {"init"}))
def test_commands_without_parameters_take_no_setting(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--set", "seed=1", command, *REQUIRED.get(command, [])]
    assert "--set" in usage_error(arguments, capsys)


def test_a_profile_is_planned_without_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--profile", "scenes"]) == 0
    assert main(["plan", "--profile", "scnes"]) == 2
    assert "did you mean scenes?" in capsys.readouterr().err


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_is_a_script_that_the_shell_reads(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in (*STAGES, *COMMANDS))
    if (program := shutil.which(shell)) is not None:
        (tmp_path / "script").write_text(script)
        done = subprocess.run(
            [program, "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_bash_completes_commands_and_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    ask = f"""
        source {tmp_path}/script
        complete_for() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            $(complete -p seggen | sed 's/.*-F \\([^ ]*\\).*/\\1/') seggen "${{@: -1}}"
            echo "${{COMPREPLY[@]}}"; }}
        complete_for seggen mask
        complete_for seggen plan --js
    """
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    commands, options = done.stdout.splitlines()[:2]
    assert {"masksyn", "mask2img"} <= set(commands.split()) and options == "--json"


def path_options() -> list[tuple[str, str]]:
    """Every option that takes a path, of every command; stages have --params."""
    parser = build_parser()
    (commands,) = [a for a in parser._actions if a.dest == "command"]
    return [
        (name, action.option_strings[0])
        for name in COMMANDS
        for action in commands.choices[name]._actions
        # Where its folder can be made, `pretrain --out` trains for hours.
        if action.type is Path
        and action.option_strings
        and (name, action.dest) != ("pretrain", "out")
    ]


@pytest.mark.parametrize("command, option", path_options())
def test_a_missing_folder_is_a_message(
    command: str,
    option: str,
    params: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(params.parent)
    place = f"missing/{command}/file{'.png' if command == 'show' else ''}"
    try:
        code = main([command, *REQUIRED.get(command, []), option, place])
    except SystemExit as end:
        code = end.code
    assert code in (0, 1, 2, 3)
    if code in (2, 3):
        assert capsys.readouterr().err


def test_the_doctor_reports_as_text_and_as_json(
    params: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(params.parent)
    code = main(["doctor", "--json"])
    rows = json.loads(capsys.readouterr().out)
    findings = [
        machine.Finding(row["subject"], row["state"], row["found"], row["remedy"]) for row in rows
    ]
    assert [finding.to_json() for finding in findings] == rows
    subjects = {finding.subject for finding in findings}
    assert {"system", "python", "packages", "device", "memory", "disk", "git", "project", "DVC",
            "MLflow", "port 3000", "port 5000"} <= subjects  # fmt: skip
    problems = [finding for finding in findings if finding.state == "problem"]
    assert code == 1 and all(finding.remedy for finding in problems)
    assert {finding.subject for finding in problems} == {"DVC"}  # a parameter file alone
    assert main(["doctor"]) == 1
    assert "dvc.yaml" in capsys.readouterr().out


def test_the_doctor_sees_what_is_wrong(
    params: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params.write_text("profile: mine\n")
    (params.parent / "requirements.txt").write_text("seggen==0.0.1\n")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["--params", str(params), "doctor"]) == 1
    text = capsys.readouterr().out
    for words in ("WSL", "git", "invalid value(s)", "seggen new --update", "does not answer"):
        assert words in text


def test_a_closed_pipe_ends_a_stage_without_a_traceback(params: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "seggen_core", "completion", "bash"]
    done = subprocess.run(
        command, cwd=params.parent, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert done.returncode == 141 and done.stderr == ""
