import shutil
from pathlib import Path

import pytest

from tests.store.samples import write_store


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store; read only."""
    folder = tmp_path_factory.mktemp("store") / "data" / "synthetic" / "masksyn" / "car"
    write_store(folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished store that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "data" / "synthetic" / "masksyn" / "car"))
