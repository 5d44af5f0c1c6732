"""`seggen new`: make a project, in a folder or repository of its own."""

import argparse
import filecmp
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from seggen_core.commands.pipeline_text import PIPELINE, installed_pipeline, words_pipeline

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "make a project: dvc.yaml, params.yaml, profiles, and settings of DVC, git and Dagster"

WORKSPACE = """\
# Dagster's code location: what `dagster` loads in this folder.
load_from:
  - python_module:
      module_name: dagster_project.definitions
      location_name: seggen
"""
_COPIED = (".dvcignore", ".dvc/config", ".dvc/.gitignore")
_NO_SCM = "    no_scm = true\n"
"""Stands in .dvc/config where there is no git."""
_UNFINISHED = ".unfinished"
"""Ends the name of a folder that is being copied; a dot begins it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", type=Path, help="the project's folder; it may hold a repository")
    parser.add_argument(
        "--profile", default="scenes", help="whose params.yaml it gets (default: scenes, the demo)"
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help="renew dvc.yaml and the settings for the installed version; params.yaml and profiles "
        "that are there stay",
    )


def run(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> int:  # noqa: ARG001 (the new project has its own)
    """Write the project.

    Raises:
        ConfigError: files are in the way, or there is no such profile or project.
        StorageError: the folder can't be written.
    """
    folder: Path = arguments.folder
    files = dict(_files(arguments.profile, folder=folder, update=arguments.update))
    _check(folder, files, update=arguments.update)
    folder.mkdir(parents=True, exist_ok=True)
    has_git = _open_git(folder)
    if not has_git:
        files[".dvc/config"] += _NO_SCM
    untouched = {"params.yaml"} if arguments.update else set()
    for name, text in files.items():
        if name not in untouched or not (folder / name).exists():
            _write(folder / name, text)
    _extend(folder / ".gitignore")
    _copy_profiles(folder / "profiles")
    verb = "renewed for" if arguments.update else "made by"
    from seggen_core.project.shipped import version

    print(f"{folder}: a project {verb} seggen {version()}")
    if arguments.update:
        print("next: dvc repro (it runs what the new code or pipeline concerns)")
    else:
        there = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))}, then: "
        print(f"next: {there}dvc repro ablation")
        print("for photos of yours: seggen init --force --images FOLDER --masks FOLDER")
    return 0


def _files(profile: str, *, folder: Path, update: bool) -> Iterator[tuple[str, str]]:
    """Yield (path in the project, text) of the files that are written, but .gitignore."""
    from seggen_core.config.params_file import read_params
    from seggen_core.config.words import is_words
    from seggen_core.project.shipped import profile_file, shipped, version

    params = profile_file(profile, root=folder)
    present = folder / "params.yaml"  # kept by an update; a list of words has fewer stages
    tree = read_params(present if update and present.is_file() else params)
    pipeline = installed_pipeline(shipped(PIPELINE).read_text(encoding="utf-8"))
    yield PIPELINE, words_pipeline(pipeline) if is_words(tree) else pipeline
    yield "params.yaml", params.read_text(encoding="utf-8")
    yield "requirements.txt", f"seggen[pipeline]=={version()}\n"
    yield "workspace.yaml", WORKSPACE
    for name in _COPIED:
        yield name, shipped(name).read_text(encoding="utf-8")


def _check(folder: Path, files: dict[str, str], *, update: bool) -> None:
    """Refuse to replace what is there, and to update what is no project.

    Files that are as they would be written may be there: an earlier `seggen new` was killed or met
    a full disk.
    """
    from seggen_core.errors import ConfigError
    from seggen_core.project.shipped import shipped

    if update:
        if not (folder / "dvc.yaml").is_file():
            raise ConfigError(
                f"{folder} has no dvc.yaml, so there is no project to update; "
                f"run: seggen new {folder}"
            )
        return
    above = next(
        place for place in (folder.absolute(), *folder.absolute().parents) if place.exists()
    )
    if not above.is_dir():
        raise ConfigError(f"{above} is no folder; name another place for the project")
    there = [
        name
        for name, text in files.items()
        if (folder / name).exists() and not _holds(folder / name, text, text + _NO_SCM)
    ]
    if not _is_part(folder / "profiles", shipped("profiles")):
        there.append("profiles")
    if there:
        raise ConfigError(
            f"{folder} has {', '.join(there)} already; name an empty folder or repository, or "
            f"renew a project that is there: seggen new --update {folder}"
        )


def _holds(file: Path, *texts: str) -> bool:
    """Whether a file holds one of these texts."""
    return file.is_file() and file.read_bytes() in [text.encode() for text in texts]


def _is_part(folder: Path, whole: Path) -> bool:
    """Whether all files of a folder are in another one, with the same bytes."""
    if not folder.is_dir():
        return not folder.exists()
    for file in folder.rglob("*"):
        name = file.relative_to(folder)
        is_left = name.parts[0].startswith(".") and name.parts[0].endswith(_UNFINISHED)
        is_same = (whole / name).is_file() and filecmp.cmp(file, whole / name, shallow=False)
        if not (file.is_dir() or is_left or is_same):
            return False
    return True


def _open_git(folder: Path) -> bool:
    """Make a git repository unless the folder is in one; return whether there is git."""
    git = shutil.which("git")
    if git is None:
        return False
    ask = [git, "-C", str(folder), "rev-parse", "--git-dir"]
    if subprocess.run(ask, check=False, capture_output=True).returncode:
        init = [git, "-C", str(folder), "init", "--quiet"]
        return not subprocess.run(init, check=False, capture_output=True).returncode
    return True


def _write(file: Path, text: str) -> None:
    from seggen_core.project.storage import written_whole

    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _extend(gitignore: Path) -> None:
    """Add the lines of seggen's .gitignore that the project's lacks."""
    from seggen_core.project.shipped import shipped

    lines = shipped(".gitignore").read_text(encoding="utf-8").splitlines()
    there = gitignore.read_text(encoding="utf-8").splitlines() if gitignore.exists() else []
    missing = [line for line in lines if line not in there]
    if missing:
        _write(gitignore, "\n".join([*there, *missing]) + "\n")


def _copy_profiles(target: Path) -> None:
    """Copy the profiles that aren't there, each whole or not at all.

    params.yaml names files in them.
    """
    from seggen_core.project.shipped import shipped

    for source in sorted(shipped("profiles").iterdir()):
        if source.is_dir() and not (target / source.name).exists():
            unfinished = target / f".{source.name}{_UNFINISHED}"
            shutil.rmtree(unfinished, ignore_errors=True)  # a killed run has left it
            try:
                shutil.copytree(source, unfinished)
                unfinished.rename(target / source.name)
            except OSError:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
