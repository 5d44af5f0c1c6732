"""`seggen suites`: list the suites, put one into params.yaml, run it."""

import argparse
import copy
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig, SuiteFile
    from seggen_core.project.paths import ProjectPaths

_FOLDER = "profiles/suites"

SUMMARY = "list the suites of arms beside papers' figures, put one into params.yaml, run it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name",
        nargs="?",
        help="suite to put into params.yaml: a name in profiles/suites, or a file; default: list "
        "all",
    )
    parser.add_argument(
        "--run", action="store_true", help="then let DVC run its arms and write its page"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace values that params.yaml has otherwise"
    )


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """List the suites, or add one to the parameter file.

    Raises:
        ConfigError: there is no such suite, it is for another dataset, it contradicts the file, or
            the file of a suite can't be read.
    """
    if arguments.name is None:
        _list(config, paths=paths)
        return 0
    from seggen_core.config import read_suite

    file = find_suite(arguments.name, paths=paths)
    suite = read_suite(file)
    name = file.stem
    changed = _add(arguments.params, name, file, suite, paths=paths, force=arguments.force)
    print(f"{arguments.params}: {'has now' if changed else 'has'} the suite {name}: {suite.title}")
    transfers = suite.params.get("transfer", {})
    targets = [f"{'transfer' if arm in transfers else 'evaluate'}@{arm}" for arm in suite.arms]
    if not arguments.run:
        print(f"next: seggen plan --suite {name}; then: seggen suites {name} --run")
        return 0
    return _run(targets, page=f"suite@{name}", paths=paths)


def find_suite(name: str, *, paths: "ProjectPaths") -> Path:
    """Return the file of a suite: the project's own, else the one that ships; or a path.

    Raises:
        ConfigError: there is none of this name; it names those that there are.
    """
    from seggen_core.config.suite import check_suite_name
    from seggen_core.errors import ConfigError

    files = _files(paths)
    file = files.get(name)
    if file is None and name.endswith(".yaml") and Path(name).is_file():
        file = Path(name).resolve()
    if file is None:
        raise ConfigError(
            f"there is no suite {name!r} in {paths.root / _FOLDER}; known: "
            f"{', '.join(files) or 'none'}"
        )
    check_suite_name(file)
    return file


def _files(paths: "ProjectPaths") -> dict[str, Path]:
    """Return the files of all suites by name, those of the project before those that ship."""
    from seggen_core.project.shipped import shipped

    folders = (shipped(_FOLDER), paths.root / _FOLDER)
    files = {file.stem: file for folder in folders for file in folder.glob("*.yaml")}
    return dict(sorted(files.items()))


def _own_place(file: Path, *, paths: "ProjectPaths") -> Path:
    """Return where a suite's file lies in the project, which is where DVC watches files."""
    root = paths.root.resolve()
    return file.resolve() if file.resolve().is_relative_to(root) else root / _FOLDER / file.name


def _list(config: "SegGenConfig", *, paths: "ProjectPaths") -> None:
    from seggen_core.config import read_suite
    from seggen_core.errors import ConfigError

    files = _files(paths)
    width = max((len(name) for name in files), default=0)
    faults = []
    for file in files.values():
        try:
            suite = read_suite(file)
        except ConfigError as error:
            faults.append(str(error))
            continue
        with_figures = sum(row.arm is not None for row in suite.rows)
        mark = "*" if file.stem in config.suite else " "
        count = f"{with_figures} of {len(suite.rows)} rows have an arm"
        print(f"{mark} {file.stem:{width}} {suite.profile:14} {suite.title} ({count})")
    there = "* in params.yaml; put another one there"
    print(f"{there if config.suite else 'put one into params.yaml'}: seggen suites NAME")
    if faults:
        raise ConfigError("\n".join(faults))


def _add(
    out: Path,
    name: str,
    file: Path,
    suite: "SuiteFile",
    *,
    paths: "ProjectPaths",
    force: bool,
) -> bool:
    """Merge a suite into the parameter file, whose other lines stay; return whether it changed."""
    from seggen_core.config.load import check_config
    from seggen_core.config.params_file import parse_params, read_params_text
    from seggen_core.config.params_text import merge_text
    from seggen_core.config.suite import check_arms, merge_params
    from seggen_core.errors import ConfigError
    from seggen_core.project.storage import write_text_whole, written_whole

    before = read_params_text(out)
    content = parse_params(before, name=str(out))
    tree = copy.deepcopy(content)
    profile = check_dataset(tree, suite, name=name, paths=paths)
    changes = json.loads(json.dumps(suite.params))  # without shared parts, so without anchors
    place = _own_place(file, paths=paths)
    changes["suite"] = {name: {"file": place.relative_to(paths.root.resolve()).as_posix()}}
    replaced = [
        (key, was, now)
        for key, was, now in merge_params(tree, changes)
        if _look_up(profile, key) != was
    ]
    if replaced and not force:
        lines = [f"  {key} is {was!r}, and the suite sets {now!r}" for key, was, now in replaced]
        raise ConfigError(
            f"{out} differs from what the suite {name} sets:\n" + "\n".join(lines) + "\n--force "
            "takes the suite's values; what depends on them is made again. A project of its own "
            "keeps both."
        )
    if not (place.exists() and place.samefile(file)):
        place.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(place) as unfinished:
            shutil.copyfile(file, unfinished)
    text = merge_text(before, content, tree)
    merged = parse_params(text, name=f"{out} with the suite {name}")
    if merged != tree:
        raise ConfigError(
            f"{out} shares parts by anchors (&name, *name) that the suite {name} changes in one "
            "place; expected none: write these parts out"
        )
    config = check_config(merged, name=f"{out} with the suite {name}")
    check_arms(suite, arms=config.evaluated, transfers=config.transfer, name=name)
    write_text_whole(out, text)
    return text != before


def _look_up(tree: Any, key: str) -> Any:
    """Return the value of a key with dots; None where there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def check_dataset(tree: Any, suite: "SuiteFile", *, name: str, paths: "ProjectPaths") -> Any:
    """Return the content of the suite's profile.

    Raises:
        ConfigError: the suite is for another dataset than that of params.yaml.
    """
    from seggen_core.config.params_file import read_params
    from seggen_core.errors import ConfigError
    from seggen_core.project.shipped import profile_file

    content = read_params(profile_file(suite.profile, root=paths.root))
    wanted = content["dataset"]["name"]
    if tree["profile"] != suite.profile and tree["dataset"]["name"] != wanted:
        raise ConfigError(
            f"the suite {name} is for the dataset {wanted}, and params.yaml reads "
            f"{tree['dataset']['name']}; in a project of its own, run: seggen init --dataset "
            f"{wanted} --profile {suite.profile}{'' if wanted == 'scenes' else ' --root PATH'}"
        )
    return content


def _run(targets: Sequence[str], *, page: str, paths: "ProjectPaths") -> int:
    """Let DVC run some stages and what they need, and then the page of a suite."""
    from seggen_core.errors import ConfigError

    if importlib.util.find_spec("dvc") is None:
        raise ConfigError(
            "DVC isn't installed, which runs the stages: pip install 'seggen[pipeline]'"
        )
    repro = [sys.executable, "-m", "dvc", "repro"]
    for command in ([*repro, *targets], [*repro, "--single-item", page]):
        done = subprocess.run(command, cwd=paths.root, check=False)
        if done.returncode:
            print(
                f"seggen suites: {' '.join(command[2:])} ended with {done.returncode}",
                file=sys.stderr,
            )
            return 1
    item = page.partition("@")[2]
    print(f"page: {paths.report('suite', item) / 'suite.md'}")
    return 0
