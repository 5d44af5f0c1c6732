"""What `seggen doctor` looks at: packages, devices, memory, disk, tools, ports and the project."""

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from seggen_core.config.load import load_config
from seggen_core.errors import SegGenError
from seggen_core.project.code import PACKAGE
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.shipped import UNKNOWN_VERSION, version

GIGABYTE = 1e9
MIN_MEMORY, MIN_DISK = 4 * GIGABYTE, 5 * GIGABYTE
"""Bytes below which the demo may not run to its end."""
PORTS = {"Dagster": 3000, "MLflow": 5000}
PIPELINE = "pipeline"
SHOWN = ("torch", "diffusers", "transformers", "timm", "dvc", "dagster", "mlflow")
"""Packages whose versions are listed even where all is well."""

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at: "memory".
        state: "problem" where something can't work.
        observation: what was found.
        remedy: what to do; "" where nothing has to be done.
    """

    subject: str
    state: State
    observation: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "subject": self.subject,
            "state": self.state,
            "found": self.observation,
            "remedy": self.remedy,
        }

    def render(self) -> str:
        """Return one readable line."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.state:<7}  {self.subject:<12}  {self.observation}{remedy}"


def examine(paths: ProjectPaths, *, params: Path) -> list[Finding]:
    """Look at this machine, the installation and the project in the working folder.

    Args:
        paths: of the project.
        params: its parameter file, which need not be there.
    """
    return [
        *_system(),
        *_python(),
        *_packages(),
        *_device(),
        *_memory(),
        *_disk(paths),
        *_git(),
        *_project(paths, params=params),
        *_mlflow(paths),
        *_ports(),
    ]


def _system() -> Iterator[Finding]:
    name = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if sys.platform == "win32":
        remedy = "stages need the file locks of a POSIX system: install seggen in WSL 2"
        yield Finding("system", "problem", name, remedy)
    elif sys.platform == "darwin":
        yield Finding("system", "note", name, "stages compute on the CPU here; MPS is not used")
    else:
        yield Finding("system", "ok", name)


def _python() -> Iterator[Finding]:
    text = f"{platform.python_version()} ({sys.executable}), seggen {version()} in {PACKAGE}"
    on_path = shutil.which("python")
    if on_path is None or Path(on_path).parent != Path(sys.executable).parent:
        remedy = (
            f"dvc.yaml runs the `python` of the PATH, which is {on_path or 'missing'}; put this "
            f"environment first: source {Path(sys.executable).with_name('activate')}"
        )
        yield Finding("python", "note", text, remedy)
    else:
        yield Finding("python", "ok", text)


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what seggen declares."""
    try:
        declared = [Requirement(text) for text in requires("seggen") or []]
    except PackageNotFoundError:
        remedy = "the bare source is imported; its requirements are those of pyproject.toml"
        yield Finding("packages", "note", f"seggen {UNKNOWN_VERSION} is not installed", remedy)
        return
    versions: dict[str, str] = {}
    missing: dict[str, list[str]] = {"": [], PIPELINE: []}
    for requirement in declared:
        extra = next((e for e in missing if _applies(requirement, extra=e)), None)
        if extra is None:
            continue
        try:
            versions[requirement.name] = installed = version_of(requirement.name)
        except PackageNotFoundError:
            missing[extra].append(requirement.name)
        else:
            if not requirement.specifier.contains(installed, prereleases=True):
                wanted = f'python -m pip install "{requirement.name}{requirement.specifier}"'
                yield Finding("packages", "problem", f"{requirement.name} {installed}", wanted)
    listed = ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)
    yield Finding("packages", "ok", listed)
    if missing[""]:
        remedy = "python -m pip install --upgrade seggen"
        yield Finding("packages", "problem", f"missing: {', '.join(missing[''])}", remedy)
    if missing[PIPELINE]:
        remedy = 'DVC, Dagster and MLflow come with: python -m pip install "seggen[pipeline]"'
        yield Finding("packages", "note", f"missing: {', '.join(missing[PIPELINE])}", remedy)


def _applies(requirement: Requirement, *, extra: str) -> bool:
    if requirement.marker is None:
        return not extra
    return requirement.marker.evaluate({"extra": extra})


def _device() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("device", "problem", f"torch can't be imported: {error}")
        return
    count = torch.cuda.device_count()
    for index in range(count):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / GIGABYTE
        half = "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
        yield Finding("device", "ok", f"GPU {index}: {properties.name}, {memory:.0f} GB, {half}")
    if not count:
        built = torch.version.cuda
        text = f"CPU, {os.cpu_count()} cores (torch {torch.__version__})"
        remedy = "torch is the build for CUDA; docs/install.md has the smaller one for CPUs"
        yield Finding("device", "note" if built else "ok", text, remedy if built else "")


def _memory() -> Iterator[Finding]:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        yield Finding("memory", "note", "unknown")
        return
    enough = total >= MIN_MEMORY
    remedy = "" if enough else f"the demo needs about {MIN_MEMORY / GIGABYTE:.0f} GB"
    yield Finding("memory", "ok" if enough else "note", f"{total / GIGABYTE:.1f} GB", remedy)


def _disk(paths: ProjectPaths) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(paths.root).free
    except OSError as error:
        yield Finding("disk", "problem", f"{paths.root}: {error.strerror}", "name a folder")
        return
    enough = free >= MIN_DISK
    remedy = "" if enough else "results and DVC's cache grow with the samples; run: seggen plan"
    space = f"{free / GIGABYTE:.1f} GB free at {paths.root}"
    yield Finding("disk", "ok" if enough else "note", space, remedy)
    if not os.access(paths.root, os.W_OK):
        yield Finding("disk", "problem", f"{paths.root} is not writable", "change its permissions")


def _git() -> Iterator[Finding]:
    git = shutil.which("git")
    if git is None:
        remedy = "DVC keeps versions with it; install git, or set core.no_scm in .dvc/config"
        yield Finding("git", "problem", "not on the PATH", remedy)
        return
    done = subprocess.run([git, "--version"], check=False, capture_output=True, text=True)
    yield Finding("git", "ok", done.stdout.strip().removeprefix("git version "))


def _project(paths: ProjectPaths, *, params: Path) -> Iterator[Finding]:
    if not params.exists() and not (paths.root / "dvc.yaml").exists():
        remedy = "make one: seggen new my-project"
        yield Finding("project", "note", f"none in {paths.root}", remedy)
        return
    try:  # on Windows, the reader of parameter files lacks what it needs: `_system` says so
        config = load_config(params)
    except (SegGenError, AttributeError) as error:
        yield Finding("project", "problem", f"{params} can't be used", str(error))
    else:
        yield Finding("project", "ok", f"{params}: profile {config.profile}")
    for name in ("dvc.yaml", ".dvc/config"):
        if not (paths.root / name).is_file():
            remedy = (
                f"bring it back: git checkout {name}; if the folder never had one, make a project "
                "elsewhere, and run init there: seggen new my-project"
            )
            yield Finding("DVC", "problem", f"{paths.root} has no {name}", remedy)
    pin = paths.root / "requirements.txt"
    text = pin.read_text(encoding="utf-8") if pin.is_file() else ""
    named = re.search(r"^seggen\S*==(\S+)", text, flags=re.MULTILINE)
    if named and named[1] != version():
        remedy = "run: seggen new --update ."
        versions = f"{pin} names seggen {named[1]}, and {version()} is installed"
        yield Finding("project", "problem", versions, remedy)


def _mlflow(paths: ProjectPaths) -> Iterator[Finding]:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith("http"):
        place = paths.root / "mlflow.db"
        state = "is there" if place.exists() else "is made by the first follower"
        yield Finding("MLflow", "ok", uri or f"{place} {state}")
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):  # noqa: S310 (the user's)
            yield Finding("MLflow", "ok", f"{uri} answers")
    except OSError as error:
        remedy = "stages run on and keep their metrics; when it answers, run: seggen track"
        yield Finding("MLflow", "note", f"{uri} does not answer: {error}", remedy)


def _ports() -> Iterator[Finding]:
    for name, port in PORTS.items():
        with socket.socket() as probe:
            probe.settimeout(1)
            is_free = probe.connect_ex(("127.0.0.1", port)) != 0
        option = f"--{name.lower()}-port"
        remedy = f"choose another: python -m dagster_project.ui {option} {port + 1}"
        yield Finding(
            f"port {port}",
            "ok" if is_free else "note",
            f"{'free' if is_free else 'taken'}, for {name}",
            "" if is_free else remedy,
        )
