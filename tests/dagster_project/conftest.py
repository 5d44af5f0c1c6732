"""The project's own pipeline in a folder apart: the project's folder may be in use. And no test's Dagster knows another's."""

import subprocess
from pathlib import Path

import pytest
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext

ROOT = Path(__file__).parent.parent.parent


def copy_pipeline(root: Path) -> None:
    """Make a DVC project of all that the graph is made from; nothing has run in it. No commit is made: DVC needs none."""
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(
        f"[core]\nanalytics = false\nsite_cache_dir = {root}/site\n"
    )
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)


@pytest.fixture(autouse=True)
def own_load_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Dagster forget how it loaded definitions: in-process runs and code servers set that for their process for good."""
    monkeypatch.setattr(DefinitionsLoadContext, "_instance", None)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's own pipeline; nothing has run."""
    copy_pipeline(tmp_path)
    return tmp_path
