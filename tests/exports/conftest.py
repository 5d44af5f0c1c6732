from collections.abc import Callable
from pathlib import Path

import pytest

from seggen_core.cli import main
from seggen_core.project.paths import ProjectPaths
from tests.exports.project import make_project

Export = Callable[..., Path]


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> ProjectPaths:
    """The stores of `make_project`; not to be written to."""
    return make_project(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def export(paths: ProjectPaths, tmp_path: Path) -> Export:
    """Run `seggen export` on the project and return the folder."""

    def run(*arguments: str, out: Path = tmp_path / "out", code: int = 0) -> Path:
        params = ["--params", str(paths.root / "params.yaml")]
        assert main([*params, "export", *arguments, "--out", str(out)]) == code
        return out

    return run
