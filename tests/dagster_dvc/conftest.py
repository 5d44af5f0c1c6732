"""A toy pipeline: a matrix over classes, a `foreach` over a dict of arms, fan-in at the end."""

import os
import shutil
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext

from dagster_dvc.repro import main
from dagster_dvc.result import StageResult
from dagster_dvc.runner import Runner, single_stage

PARAMS = {
    "classes": ["car", "bus"],
    "p_aug": 0.6,
    "seed": 0,
    "variants": {
        "baseline": {"reads": ["data/real/train", "data/real/index"]},
        "masksyn": {"reads": ["data/real/index", "data/synthetic/masksyn"]},
    },
}
DVC_YAML = """
stages:
  dataset:
    desc: The real samples
    cmd: sh stage.sh dataset data/real/train data/real/index
    deps: [stage.sh, dataset.txt]
    params: [seed]
    outs: [data/real/train, data/real/index]
  masksyn:
    matrix:
      class: ${classes}
    desc: Synthetic samples of ${item.class}
    cmd: sh stage.sh masksyn@${item.class} data/synthetic/masksyn/${item.class}
    deps: [stage.sh, data/real/train]
    params: [seed]
    outs: ["data/synthetic/masksyn/${item.class}"]
  train_seg:
    foreach: ${variants}
    do:
      cmd: sh stage.sh train_seg@${key} data/checkpoints/${key}
      deps: [stage.sh, "${item.reads[0]}", "${item.reads[1]}"]
      params: [p_aug, "variants.${key}"]
      outs: ["data/checkpoints/${key}"]
  ablation:
    cmd: sh stage.sh ablation data/ablation.json
    deps: [stage.sh, data/checkpoints]
    metrics: [data/ablation.json]
"""
# Notes when it starts and ends; fails, hangs or waits for another stage's start where a file asks
# it to. What it writes doesn't depend on what it reads. The loop takes CPU time enough for the
# kernel to count it.
STAGE = """
name=$1; shift
mkdir -p trace
turns=0; while [ $turns -lt 60000 ]; do turns=$((turns + 1)); done
echo "$name says hello"
date +%s.%N > trace/$name.start
if [ -e trace/$name.hang ]; then echo $$ > trace/$name.pid; sleep 300; fi
if [ -e trace/$name.fail ]; then echo "the disk is full" >&2; exit 3; fi
if [ -e trace/$name.meet ]; then
    tries=0
    until [ -e "$(cat trace/$name.meet)" ]; do
        tries=$((tries + 1)); [ $tries -le 3000 ] || { echo "waited in vain" >&2; exit 4; }
        sleep 0.1
    done
fi
for out in "$@"; do mkdir -p "$(dirname $out)"; echo "{}" > $out; done
date +%s.%N > trace/$name.end
"""


def make_project(root: Path, *, classes: list[str]) -> None:
    """Write the toy project with these class partitions; nothing has run or is committed."""
    (root / "trace").mkdir(parents=True)
    (root / ".dvc").mkdir()
    (root / "params.yaml").write_text(
        yaml.safe_dump(PARAMS | {"classes": classes}, sort_keys=False)
    )
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "stage.sh").write_text(STAGE)
    (root / "dataset.txt").write_text("first\n")
    (root / ".gitignore").write_text("/data/\n/trace/\n/.seggen/\n")
    (root / ".dvc" / "config").write_text(
        f"[core]\nanalytics = false\ncheck_update = false\nsite_cache_dir = {root}/site\n"
    )
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)


@pytest.fixture(autouse=True)
def own_load_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Dagster forget how it loaded definitions: runs in this process set that for good."""
    monkeypatch.setattr(DefinitionsLoadContext, "_instance", None)


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project after a full run, two stages at a time; `project` copies it.

    Each of the two partitions of masksyn waits for the other to start: the run fails unless they
    run side by side.
    """
    root = tmp_path_factory.mktemp("toy") / "project"
    make_project(root, classes=["car", "bus"])
    (root / "trace" / "masksyn@car.meet").write_text("trace/masksyn@bus.start")
    (root / "trace" / "masksyn@bus.meet").write_text("trace/masksyn@car.start")
    assert main(["--cd", str(root), "-j", "2"]) == 0
    return root


@pytest.fixture
def project(finished_project: Path, tmp_path: Path) -> Path:
    """A copy of the finished toy project, without the trace of its run."""
    root = tmp_path / "project"
    shutil.copytree(finished_project, root)
    for file in (root / "trace").iterdir():
        file.unlink()
    return root


def run_stage(
    root: Path, name: str, *, env: dict[str, str] | None = None
) -> tuple[StageResult, list[str]]:
    """Run one stage to its end; returns how it ended and what it printed."""
    runner, lines = Runner(root, env=env), []
    with closing(runner.run(single_stage(root, name))) as runs:
        for ended in runs:
            for run in (*runner.running.values(), *([ended] if ended else [])):
                lines += run.process.take_lines()
            if ended is not None and ended.name == name:
                assert ended.result is not None
                return ended.result, lines
    raise AssertionError(f"{name} never ended")


def wait_for_file(path: Path) -> str:
    """Wait until a file has a content and return it."""
    deadline = time.monotonic() + 300
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.05)
    return path.read_text()


def edit(path: Path, old: str, new: str) -> None:
    """Replace some text in a file that has it."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie doesn't)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def dvc(root: Path, *argv: str) -> str:
    """Run the `dvc` command itself."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "true"}
    done = subprocess.run(
        ["dvc", *argv], cwd=root, check=True, capture_output=True, text=True, env=environment
    )
    return done.stdout
