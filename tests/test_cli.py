"""The command line: what it imports, what it prints, and how it ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from seggen_core.cli import COMMANDS, STAGES, build_parser, main

ROOT = Path(__file__).parent.parent
HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "timm",
    "pydantic",
    "pandas",
    "pyarrow",
    "numpy",
    "yaml",
    "PIL",
    "mlflow",
    "tqdm",
}


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """Return the params.yaml of an empty project with a few small scenes."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["dataset"] |= {
        "image_size": 16,
        "num_train": 4,
        "num_val": 2,
        "num_test": 2,
        "subset_size": 2,
    }
    tree["classes"].remove("tree")  # four scenes show none
    tree["runtime"] = {"tracking_uri": "disk"}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "seggen_core", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_imports_nothing_heavy_and_names_every_command() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "seggen_core", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(re.findall(r"\|\s+(\w+)", done.stderr))
    assert "argparse" in imported and not imported & HEAVY
    for command_name in (*STAGES, *COMMANDS):
        assert re.search(rf"^\s+{command_name}\s", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_its_module_and_its_help(stage: str, capsys: pytest.CaptureFixture) -> None:
    assert "def run(" in (ROOT / "seggen_core" / "stages" / f"{stage}.py").read_text(
        encoding="utf-8"
    )
    with pytest.raises(SystemExit) as end:
        build_parser().parse_args([stage, "--help"])
    assert end.value.code == 0 and STAGES[stage] in " ".join(capsys.readouterr().out.split())


def test_a_user_error_is_one_message_and_exit_code_2(params: Path) -> None:
    tree = yaml.safe_load(params.read_text(encoding="utf-8"))
    tree["text2mask"]["num_stpes"] = 3
    params.write_text(yaml.safe_dump(tree), encoding="utf-8")
    done = run("--params", str(params), "dataset")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr.startswith(f"seggen dataset: {params} has 1 invalid value(s):\n")
        and "Traceback" not in done.stderr
    )


def test_no_library_of_hugging_face_reports_home(
    params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libraries read the variable when they are imported, so each command sets it first."""
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    main(["--params", str(params), "report"])
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_a_missing_parameter_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    missing = tmp_path / "params.yaml"
    assert main(["--params", str(missing), "dataset"]) == 2
    assert (
        capsys.readouterr().err
        == f"seggen dataset: {missing} does not exist; run from the project folder or pass "
        "--params\n"
    )


@pytest.mark.parametrize("arguments", [[], ["dream"], ["masksyn"], ["dataset", "--item", "car"]])
def test_a_wrong_command_line_shows_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and "usage: seggen" in capsys.readouterr().err


@pytest.mark.parametrize("item", ["car; touch x", "../car", "", "imgsyn@car", "a/b", "car\n"])
def test_an_item_that_is_no_slug_shows_the_usage(item: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["masksyn", "--item", item])
    assert end.value.code == 2 and "letters, digits" in capsys.readouterr().err


@pytest.mark.parametrize(
    "item", ["car", "masksyn@car", "dvc.yaml:masksyn@car", "../a:b/dvc.yaml:masksyn@car"]
)
def test_an_item_may_be_dvcs_name_of_the_stage(item: str) -> None:
    assert build_parser().parse_args(["masksyn", "--item", item]).item == "car"


def test_a_stage_before_its_input_says_what_to_run(
    params: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["--params", str(params), "captions"]) == 2
    message = capsys.readouterr().err
    assert (
        message.startswith("seggen captions: ") and str(params.parent / "data" / "real") in message
    )
    assert "dvc repro" in message and len(message.splitlines()) == 1


def test_a_missing_file_of_ours_is_still_a_bug(
    params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seggen_core.stages import dataset

    def run(*_: object, **__: object) -> None:
        (params.parent / "elsewhere").read_text(encoding="utf-8")

    monkeypatch.setattr(dataset, "run", run)
    with pytest.raises(FileNotFoundError):
        main(["--params", str(params), "dataset"])


def test_a_full_disk_is_exit_code_3(params: Path, capsys: pytest.CaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    assert main(["--params", str(params), "validate", "--report", "/dev/full"]) == 3
    message = capsys.readouterr().err
    assert "No space left on device" in message and "run the same command again" in message


def test_a_full_disk_behind_a_librarys_error_is_exit_code_3(
    params: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seggen_core.stages import dataset

    def run(*_: object, **__: object) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # as safetensors

    monkeypatch.setattr(dataset, "run", run)
    assert main(["--params", str(params), "dataset"]) == 3
    assert capsys.readouterr().err.startswith("seggen dataset: can't write below")


@pytest.mark.parametrize(
    "output, code, message", [("/dev/full", 3, "No space left on device"), ("closed pipe", 141, "")]
)
def test_output_that_nobody_takes_ends_the_command(
    params: Path, output: str, code: int, message: str
) -> None:
    if output == "closed pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(output, os.O_WRONLY)
    command = [
        sys.executable,
        "-m",
        "seggen_core",
        "--params",
        str(params),
        "validate",
        "--headers-only",
    ]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == code
    assert message in done.stderr and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_the_project_is_where_the_parameter_file_lies_not_where_a_link_leads(
    params: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("shared") / "shared.yaml"
    params.rename(elsewhere)
    params.symlink_to(elsewhere)
    assert main(["--params", str(params), "dataset"]) == 0
    assert (params.parent / "data" / "real").is_dir()
    assert not (elsewhere.parent / "data").exists()


def test_validate_passes_sound_data_and_fails_on_problems(
    params: Path, capsys: pytest.CaptureFixture
) -> None:
    report = params.parent / "report.json"
    assert main(["--params", str(params), "validate", "--report", str(report)]) == 0
    assert "no problems" in capsys.readouterr().out
    assert json.loads(report.read_text(encoding="utf-8"))["dataset"] == "scenes"
    tree = yaml.safe_load(params.read_text(encoding="utf-8"))
    tree["classes"] = ["car", "zebra"]
    params.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert main(["--params", str(params), "validate"]) == 1
    assert "zebra" in capsys.readouterr().out


def test_the_dataset_stage_runs_and_report_prints_the_table(
    params: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["--params", str(params), "dataset"]) == 0
    assert (params.parent / "data" / "real" / "train" / "manifest.json").is_file()
    assert main(["--params", str(params), "report"]) == 2
    assert "run the pipeline first" in capsys.readouterr().err
    table = params.parent / "data" / "reports" / "ablation" / "ablation.md"
    table.parent.mkdir(parents=True)
    table.write_text("| arm | mIoU |\n", encoding="utf-8")
    assert main(["--params", str(params), "report"]) == 0
    text = capsys.readouterr().out
    assert "| arm | mIoU |" in text and "python -m dagster_project.ui" in text
    assert "git add dvc.lock params.yaml && git commit" in text
    assert "dvc exp run --set-param train_seg.replace.p_aug=0.4 && dvc metrics diff" in text
    (params.parent / "Makefile").touch()
    assert main(["--params", str(params), "report"]) == 0
    assert "make ui" in capsys.readouterr().out


def test_the_commit_that_report_names_has_the_pipeline_of_a_new_project(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """`dvc metrics diff` finds no figures in a commit without dvc.yaml."""
    folder = tmp_path / "mine"
    assert main(["new", str(folder)]) == 0
    for name in ("dvc.lock", "data/reports/ablation/ablation.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", "-C", str(folder)]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=True
        ).stdout

    for _ in range(2):
        capsys.readouterr()
        assert main(["--params", str(folder / "params.yaml"), "report"]) == 0
        added = re.search(r"git add (.*) && git commit", capsys.readouterr().out)
        assert added is not None
        git("add", *added[1].split())
        git("commit", "--quiet", "--allow-empty", "--message", "result")
    assert git("status", "--porcelain") == ""
    assert {"dvc.yaml", ".dvc/config", ".gitignore"} <= set(git("ls-files").splitlines())
    assert added[1] == "dvc.lock params.yaml", "what is committed is not named again"


def test_replay_without_a_store_is_a_user_error(
    params: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["--params", str(params), "track", "--replay"]) == 2
    assert "sends nothing" in capsys.readouterr().err
