"""What tests of commands share."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for path in ROOT.glob("profiles/*/params.yaml"):
        (tmp_path / "profiles" / path.parent.name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "profiles" / path.parent.name)
    return tmp_path
