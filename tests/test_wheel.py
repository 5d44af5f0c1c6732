"""A project from the wheel, outside the checkout: made, run, shown by Dagster, and upgraded."""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

ROOT = Path(__file__).parent.parent
SOURCES = (
    "seggen_core", "dagster_dvc", "dagster_project", "profiles", "dvc.yaml", "setup.py",
    "README.md", "pyproject.toml", "LICENSE", "MANIFEST.in", ".dvc/config", ".dvc/.gitignore",
    ".dvcignore", ".gitignore",
)  # fmt: skip
SMALL = {"image_size": 16, "num_train": 4, "num_val": 2, "num_test": 2, "subset_size": 2}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools writes build/ beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *SOURCES],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in listed.stdout.strip("\0").split("\0"):
        copy = folder / "sources" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)
    uv = [sys.executable, "-m", "uv", "build", "--quiet", "--offline", "--wheel"]
    options = ["--no-build-isolation", "--python", sys.executable, "--out-dir", str(folder)]
    subprocess.run([*uv, *options, str(folder / "sources")], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """The Python of an environment with the wheel and the packages of this one, without seggen's
    checkout: packages of a folder that a .pth file names bring no .pth files of their own.
    """
    environment = wheel.parent / "venv"
    python = environment / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    quiet = ["--quiet", "--offline"]
    subprocess.run([*uv, "venv", *quiet, "--python", sys.executable, str(environment)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [*uv, "pip", "install", *quiet, "--no-deps", "--python", str(python), str(wheel)],
        check=True,
    )
    return python


def run(python: Path, *arguments: str, cwd: Path) -> str:
    """Run a module in the environment, as a shell does that has it on its PATH."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env["PATH"] = f"{python.parent}:{env['PATH']}"
    done = subprocess.run(
        [python, "-m", *arguments], cwd=cwd, env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(python: Path) -> Path:
    """A small project in an empty repository, with its dataset."""
    folder = python.parents[2] / "mine"
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    run(python, "seggen_core", "new", ".", cwd=folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["dataset"] |= SMALL
    params["classes"] = ["car", "person"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run(python, "dvc", "repro", "check_dataset", cwd=folder)
    return folder


def stale(project: Path) -> set[str]:
    """The stages that have run and would run again, beside `code`, which always does."""
    with contextlib.chdir(project), Repo() as repo:  # DVC reads the dvc.yaml of this folder
        changed = set(repo.status()) - {"code"}
    return changed & set(yaml.safe_load((project / "dvc.lock").read_text())["stages"])


def test_the_wheel_has_what_ships_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "seggen_core",
        "dagster_dvc",
        "dagster_project",
    }
    foundation = "seggen_core/shipped/profiles/scenes/foundation"
    assert f"{foundation}/unet/diffusion_pytorch_model.safetensors" in names
    assert {"seggen_core/shipped/dvc.yaml", "seggen_core/colors/class_palettes.npy"} <= names
    assert wheel.stat().st_size < 20e6


def test_the_pipeline_runs_from_the_installed_package(project: Path, python: Path) -> None:
    assert (project / "data" / "passed").is_dir() and not (project / "seggen_core").exists()
    assert stale(project) == set()
    assert "--item" in run(python, "seggen_core", "masksyn", "--help", cwd=project)


def test_masks_off_the_shelf_need_no_project(python: Path, tmp_path: Path) -> None:
    prompt = ["a photo of a house", "--word", "house", "--steps", "1", "--out", "masks"]
    run(python, "seggen_core", "mask", *prompt, cwd=tmp_path)
    assert list((tmp_path / "masks").rglob("*.png"))


def test_dagster_loads_the_project(project: Path, python: Path) -> None:
    said = run(python, "dagster", "definitions", "validate", cwd=project)
    assert "All code locations passed validation" in said


@pytest.mark.parametrize(
    "module, concerned",
    [
        ("cli.py", set()),
        ("checks/gate.py", {"check_dataset"}),
        ("datasets/build.py", {"dataset"}),
    ],
)
def test_an_upgrade_concerns_what_imports_the_changed_code(
    project: Path, python: Path, module: str, concerned: set[str]
) -> None:
    (package,) = python.parents[1].glob("lib/python*/site-packages/seggen_core")
    source = package / module
    before = source.read_text()
    source.write_text(before + "\nPROBE = 1\n")
    try:
        run(python, "seggen_core", "code", cwd=project)  # what `dvc repro` always runs
        assert stale(project) == concerned
    finally:
        source.write_text(before)
