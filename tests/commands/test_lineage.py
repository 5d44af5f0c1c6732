"""`seggen lineage` before all has run: it says what hasn't, and the command that runs it."""

import shutil
from pathlib import Path

import pytest

from seggen_core.cli import main

ROOT = Path(__file__).parents[2]
LOCK = """schema: '2.0'
stages:
  dataset:
    outs:
    - path: data/real/train
      md5: 0123456789abcdef0123456789abcdef.dir
  seediff@car:
    outs:
    - path: data/synthetic/seediff/car
      md5: 1123456789abcdef0123456789abcdef.dir
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    (tmp_path / "dvc.lock").write_text(LOCK, encoding="utf-8")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


@pytest.mark.parametrize("option", [(), ("--json",)])
@pytest.mark.parametrize(
    "target, message",
    [
        ("masksyn", "the arm masksyn hasn't been run yet"),
        ("imgsyn", "the arm imgsyn hasn't been run yet"),
        ("masksyn@car", "the stage masksyn@car hasn't been run yet"),
        ("evaluate@baseline", "the stage evaluate@baseline hasn't been run yet"),
        ("captions", "the stage captions hasn't been run yet"),
    ],
)
def test_what_has_not_run_is_named_with_the_command_that_runs_it(
    params: Path,
    target: str,
    message: str,
    option: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--params", str(params), "lineage", target, *option]) == 2
    stage = f"evaluate@{target}" if "the arm" in message else target
    assert f"{message}: dvc.lock has no result of it; run: dvc repro {stage}\n" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("target", ["nonsense", "masksyn@nonsense", "data/nonsense"])
def test_what_there_is_not_is_unknown(
    params: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--params", str(params), "lineage", target]) == 2
    error = capsys.readouterr().err
    assert f"knows no arm, stage, md5 or path '{target}'" in error
    command = error.strip().rpartition("run: seggen ")[2].split()
    assert main(["--params", str(params), *command]) == 0, "the remedy runs as it stands"
    out = capsys.readouterr().out
    assert main(["--params", str(params), *out.rpartition("seggen ")[2].split()]) == 0


def test_digests_of_code_are_no_files_of_the_user_and_the_advice_leads_to_files(
    params: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    md5s = {name: f"{k}123456789abcdef0123456789abcdef" for k, name in enumerate("abcd", start=2)}
    lock = LOCK + (
        "  code:\n    outs:\n    - path: data/code/evaluate.json\n"
        f"      md5: {md5s['a']}\n    - path: data/code/captions.json\n      md5: {md5s['b']}\n"
        "  evaluate@baseline:\n    deps:\n    - path: data/code/evaluate.json\n"
        f"      md5: {md5s['a']}\n    - path: photos\n      md5: {md5s['c']}.dir\n"
        f"    outs:\n    - path: data/reports/evaluate/baseline\n      md5: {md5s['d']}.dir\n"
    )
    (params.parent / "dvc.lock").write_text(lock, encoding="utf-8")
    assert main(["--params", str(params), "lineage", "baseline"]) == 0
    text = capsys.readouterr().out
    rows = {tuple(line.rsplit(maxsplit=2)[:2]) for line in text.splitlines() if "  " in line}
    assert {path: stage.strip() for stage, path in rows} == {
        "data/reports/evaluate/baseline": "evaluate@baseline",
        "data/code/evaluate.json": "code",
        "photos": "(a file of yours)",
    }
    advice = text.split()[-1]
    assert main(["--params", str(params), "lineage", advice]) == 0
    assert "dvc checkout data/reports/evaluate/baseline" in capsys.readouterr().out
