"""The project's own pipeline in a folder apart, since the project's folder may be in use."""

import subprocess
from pathlib import Path

import pytest

from tests.dagster_dvc.conftest import own_load_context  # noqa: F401 (a fixture for all tests)

ROOT = Path(__file__).parent.parent.parent


def copy_pipeline(root: Path) -> None:
    """Make a DVC project of all that the graph is made from; nothing has run or is committed."""
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text(
        f"[core]\nanalytics = false\nsite_cache_dir = {root}/site\n"
    )
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project's own pipeline; nothing has run."""
    copy_pipeline(tmp_path)
    return tmp_path
