"""The declared, locked and installed packages fit together."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


OPTIONAL = {"av", "detectron2", "mlflow", "sqlalchemy", "triton"}
OPTIONAL |= {"onnx", "onnxruntime", "onnxscript"}
"""What seggen_core imports where it is there: of extras, and detectron2, which users build."""


def declared() -> list[Requirement]:
    project = PYPROJECT["project"]
    texts = [
        *project["dependencies"],
        *project["optional-dependencies"]["pipeline"],
        *project["optional-dependencies"]["gpu"],
        *project["optional-dependencies"]["video"],
        *project["optional-dependencies"]["onnx"],
        *PYPROJECT["dependency-groups"]["dev"],
    ]
    return [Requirement(text) for text in texts]


def locked() -> dict[str, str]:
    """{name: version} of the lock's entries that apply here; each entry has a hash."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", LOCK)
    versions = {}
    for entry in entries:
        requirement = Requirement(entry.split("\\")[0].strip())
        assert "--hash=sha256:" in entry, f"{requirement.name} has no hash"
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        if requirement.marker is None or requirement.marker.evaluate():
            versions[canonicalize_name(requirement.name)] = specifier.version
    return versions


def third_party_imports(package: str) -> set[str]:
    """Top-level names of all third-party modules that `package` imports anywhere."""
    names: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - {"seggen_core", "dagster_dvc", "dagster_project"}


def test_what_is_declared_is_locked_and_installed() -> None:
    versions = locked()
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        assert versions[name] in requirement.specifier, f"{name} {versions[name]}; run: make lock"
        assert version(name) == versions[name], (
            f"{name} {version(name)} is installed, the lock says {versions[name]}; run: make setup"
        )


def test_the_lock_names_no_index_and_no_machine() -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|file:|/home/|/root/|/tmp/", LOCK)


def test_what_is_imported_is_declared() -> None:
    """Not only brought along by a dependency, which may drop it."""
    distributions = packages_distributions()
    core = {
        canonicalize_name(Requirement(text).name) for text in PYPROJECT["project"]["dependencies"]
    }
    every = {canonicalize_name(requirement.name) for requirement in declared()}
    for package, allowed in (
        ("seggen_core", core | OPTIONAL),
        ("dagster_dvc", every),
        ("dagster_project", every),
    ):
        imported = {
            name: {canonicalize_name(d) for d in distributions.get(name, [name])}
            for name in third_party_imports(package)
        }
        missing = {name for name, candidates in imported.items() if not candidates & allowed}
        assert not missing, (
            f"{package} imports {sorted(missing)}, which pyproject.toml doesn't name"
        )


def private_modules(package: str) -> Iterator[tuple[str, str]]:
    """Yield (file, module) of each private module of a library that `package` names in code."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.value)] if isinstance(node, ast.Constant) else []
            for name in names:
                if re.fullmatch(r"[a-z]\w*(\.\w+)*\._[a-z]\w*(\.\w+)*", name):
                    yield path.relative_to(ROOT).as_posix(), name


def test_libraries_whose_private_modules_are_used_are_pinned() -> None:
    """To a minor version; a new use of a private module is a decision, and stands here."""
    used = [
        use for p in ("seggen_core", "dagster_dvc", "dagster_project") for use in private_modules(p)
    ]
    assert sorted(set(used)) == [
        ("dagster_dvc/events.py", "dagster._core.errors"),
        ("dagster_dvc/events.py", "dagster._utils.error"),
        ("dagster_project/serve.py", "dagster._core.workspace.context"),
        ("dagster_project/serve.py", "dagster._core.workspace.load_target"),
        ("dagster_project/ui.py", "dagster._daemon"),
    ]
    specifiers = {requirement.name: requirement.specifier for requirement in declared()}
    for name in ("dagster", "dagster-webserver", "dvc", "mlflow"):
        assert any(part.operator == "<" for part in specifiers[name]), f"{name} isn't pinned"


def test_the_error_and_the_docs_install_the_detectron2_that_is_declared() -> None:
    (text,) = (
        text
        for text in PYPROJECT["project"]["optional-dependencies"]["detectron2"]
        if Requirement(text).name == "detectron2"
    )
    module = ROOT / "seggen_core" / "segmentation" / "detectron2_library.py"
    commit = text.rpartition("@")[2]
    assert f'COMMIT = "{commit}"' in module.read_text()
    assert text in (ROOT / "docs" / "detectron2.md").read_text()


def test_the_console_script_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="seggen")
    assert script.value == "seggen_core.cli:main"
    done = subprocess.run(
        [Path(sys.executable).with_name("seggen"), "--help"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "masksyn" in done.stdout


def test_dagster_and_dvc_agree_on_antlr(tmp_path: Path) -> None:
    """DVC's own choice of omegaconf breaks Dagster's string selections: "ord() expected string"."""
    from dagster import AssetSelection, asset
    from dvc.utils.hydra import apply_overrides

    @asset
    def upstream() -> None: ...

    @asset(deps=[upstream])
    def downstream() -> None: ...

    selected = AssetSelection.from_string("upstream+").resolve([upstream, downstream])
    assert {key.to_user_string() for key in selected} == {"upstream", "downstream"}

    params = tmp_path / "params.yaml"
    params.write_text("train_seg:\n  replace:\n    p_aug: 0.6\n")
    apply_overrides(params, ["train_seg.replace.p_aug=0.5"])
    assert "p_aug: 0.5" in params.read_text()


def test_make_lists_its_targets() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert {"setup", "demo", "test", "lint", "ui"} <= {
        line.split()[0] for line in done.stdout.splitlines()
    }


def test_make_setup_says_how_to_activate() -> None:
    for target, says in (("setup", True), ("lint", False)):
        done = subprocess.run(
            ["make", "--dry-run", "--always-make", target],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert ("source .venv/bin/activate" in done.stdout) == says


def test_a_cpu_install_names_the_build_or_the_index() -> None:
    """Its packages are those of the lock, without CUDA, production and dev."""
    for variables, words in (
        ((), ("pip sync", "--require-hashes")),
        (("TORCH=cpu",), ("--torch-backend cpu", "--constraints requirements.lock", ".[pipeline]")),
        (("TORCH=cpu", "TORCH_INDEX=file:///x"), ("--index file:///x",)),
        (("TORCH=cpu", "DEV=1"), ("--group dev",)),
    ):
        done = subprocess.run(
            ["make", "--dry-run", "--always-make", "setup", *variables],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert all(word in done.stdout for word in words), variables
        assert ("--require-hashes" in done.stdout) == (not variables)
    core = {Requirement(text).name for text in PYPROJECT["project"]["dependencies"]}
    assert not core & {"triton", "dagster-k8s", "mlflow", "dvc"}
