"""A project folder at smoke size: the whole pipeline runs in it in about two minutes.

The campaigns of this folder and `tests/test_pipeline.py` share it. A campaign makes it once and
copies it.

    python -m tools.smoke_project            # run the pipeline in this checkout, as make demo does
    python -m tools.smoke_project --digest   # print one digest of all that it left here

`.ci/run` calls both around the tests: tests that pass beside a finished project don't read it, and
a digest that is the same afterwards says that they don't write to it.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
METHODS = ("masksyn", "imgsyn", "seediff", "diffumask")
VARIANTS = ("baseline", "masksyn_imgsyn", "seediff", "shuffled", "full_real", "mask2former")
FOLDERS = ("seggen_core", "dagster_dvc", "dagster_project", "profiles")
_FILES = ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config")
_STATE = ("data", "dvc.lock", ".seggen", "mlflow.db", "mlruns", "mlartifacts", ".dagster")
"""What a run leaves in a project, beside DVC's own folder."""


def smoke_params() -> dict[str, Any]:
    """Return the project's own parameters, with every count brought down to a few."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["classes"] = ["car", "person"]
    params["dataset"] |= {
        "color_map": "semantic",  # an untrained Text2Mask draws specks, and no instance is a speck
        "num_train": 40,
        "num_val": 8,
        "num_test": 8,
        "subset_size": 8,
        "subset_seeds": [0],
    }
    for generator in ("text2mask", "mask2img"):
        params[generator] |= {"num_steps": 2, "batch_size": 4}
    for generator in ("foundation", "text2mask", "mask2img"):
        params[generator]["preview"]["num_inference_steps"] = 2
    params["text2mask"]["decoder_steps"] = 2
    for method in ("masksyn", "imgsyn"):
        params[method]["samples_per_source"] = 1
        for sampler in ("text2mask", "mask2img"):
            if sampler in params[method]:
                params[method][sampler] |= {"num_inference_steps": 2, "micro_batch_size": 2}
    params["seediff"]["samples_per_class"] = 2
    params["seediff"]["sampling"] |= {"num_inference_steps": 2, "micro_batch_size": 2}
    params["diffumask"] |= {
        "samples_per_class": 2,
        "sampling": {"num_inference_steps": 2, "micro_batch_size": 2},
    }
    params["diffumask"] |= {
        "affinity_net": {"num_steps": 2},
        "noise_learning": {"num_folds": 2, "num_steps": 2},
    }
    params["train_seg"]["common"] |= {"num_steps": 2, "batch_size": 4, "validate_every": 1}
    params["train_seg"]["mask2former"]["overrides"] = {}
    params["variants"] = {name: params["variants"][name] for name in VARIANTS}
    # Two steps teach nothing: every check runs, and none may ask for quality.
    params["checks"] |= {
        "min_edge_agreement": 0,
        "max_histogram_distance": 1,
        "min_class_share": 0,
        "max_class_share": 1,
        "min_val_miou": 0,
        "min_val_pq": 0,
        "min_judge_miou": 0,
        "overrides": {},
    }
    return params


def make_project(folder: Path, params: Mapping[str, Any] | None = None) -> Path:
    """Make a project in `folder`, with the code of this checkout, git and DVC; return `folder`.

    Args:
        folder: is created unless it exists.
        params: what its params.yaml holds; `smoke_params` for None.
    """
    for name in FOLDERS:
        # What Python compiled stays valid in the copy; what it is writing just now does not.
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in _FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    write_params(folder, smoke_params() if params is None else params)
    run_program(["git", "init", "--quiet"], folder).check_returncode()
    return folder


def copy_state(source: Path, folder: Path) -> Path:
    """Give a project what a run has left in another one of the same code; return `folder`."""
    for name in (*_STATE, ".dvc/cache"):
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, symlinks=True, dirs_exist_ok=True)
        elif (source / name).is_file():
            shutil.copy2(source / name, folder / name)
    return folder


def write_params(folder: Path, params: Mapping[str, Any]) -> None:
    """Write the params.yaml of a project."""
    text = yaml.safe_dump(dict(params), sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8")


def environment(**others: str) -> dict[str, str]:
    """Return the environment of a project's commands: one thread, offline, nothing is sent."""
    variables = os.environ | {
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "true",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": "disk",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    variables.pop("PYTHONPATH", None)
    return variables | others


def repro_command(*arguments: str, jobs: int = 2) -> list[str]:
    """Return the command that brings a project up to date, `jobs` stages at a time."""
    runner = [sys.executable, "-m", "dagster_dvc.repro", "--state-folder", ".seggen"]
    return [*runner, "--jobs", str(jobs), *arguments]


def run_program(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a project to its end, whatever that is."""
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


def finish_project(folder: Path, *targets: str, jobs: int = 2) -> Path:
    """Run the whole pipeline of a project, or some stages and what they need; return `folder`.

    Raises:
        RuntimeError: it failed.
    """
    done = run_program(repro_command(*targets, jobs=jobs), folder)
    if done.returncode:
        raise RuntimeError(f"the smoke project failed in {folder}:\n{done.stdout}\n{done.stderr}")
    return folder


def finish_in_place(folder: Path) -> None:
    """Run the whole pipeline at smoke size in a checkout; its params.yaml is as before.

    Raises:
        RuntimeError: there is a run's result already, or the run failed.
    """
    outputs = [name for name in ("data", "dvc.lock") if (folder / name).exists()]
    if outputs:
        raise RuntimeError(f"{folder} has {' and '.join(outputs)}: a run has been here before.")
    params = (folder / "params.yaml").read_bytes()
    write_params(folder, smoke_params())
    try:
        finish_project(folder)
    finally:
        (folder / "params.yaml").write_bytes(params)


def file_digests(folder: Path, *places: str) -> dict[str, str]:
    """Return the SHA-256 of every file below some places of a project, by path in the project.

    DVC writes a `.gitignore` beside its outputs; those are left out.
    """
    digests = {}
    for place in places:
        for path in [folder / place, *sorted((folder / place).rglob("*"))]:
            if path.is_file() and path.name != ".gitignore":
                name = path.relative_to(folder).as_posix()
                digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def machine_line() -> str:
    """Return a sentence on commit, machine and libraries, for the head of a table of counts."""
    import platform

    commit = run_program(["git", "rev-parse", "--short", "HEAD"], ROOT).stdout.strip() or "unknown"
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return f"Commit {commit}, Python {platform.python_version()}, {system}."


def main() -> None:
    """Run the pipeline in this checkout, or print what it left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--digest", action="store_true", help="print a digest of what a run left")
    if parser.parse_args().digest:
        digests = file_digests(ROOT, "params.yaml", *_STATE)
        print(hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest())
    else:
        finish_in_place(ROOT)


if __name__ == "__main__":
    main()
