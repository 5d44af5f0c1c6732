"""Commands that are forks of one process do what the commands themselves do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.smoke_project import environment, run_program
from tools.warm import warm_commands, warm_variables

pytestmark = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="on other systems every command is a process of its own"
)

SEGGEN = (sys.executable, "-m", "seggen_core")
DVC = (sys.executable, "-P", "-m", "dvc")
SAYS = """
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ.get("WORD"), "torch" in sys.modules, file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture(scope="module", autouse=True)
def warm() -> Iterator[None]:
    with warm_commands(environment()):
        yield


@pytest.mark.parametrize(
    "command", [(*SEGGEN, "--version"), (*SEGGEN, "nothing"), (*DVC, "status"), (*DVC, "version")]
)
def test_output_and_exit_code_are_the_commands(command: tuple[str, ...], tmp_path: Path) -> None:
    cold = {k: v for k, v in environment().items() if k not in warm_variables()}
    forked, alone = (
        subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        for variables in (environment(), cold)
    )
    assert forked.returncode == alone.returncode
    assert (forked.stdout, forked.stderr) == (alone.stdout, alone.stderr)


def test_the_code_is_what_lies_where_the_command_runs(tmp_path: Path) -> None:
    package = tmp_path / "seggen_core"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SAYS, encoding="utf-8")
    done = subprocess.run(
        [*SEGGEN, "a", "b c"],
        cwd=tmp_path,
        env=environment(WORD="häuser"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr == f"['a', 'b c'] {os.path.realpath(tmp_path)} häuser True\n"


def test_a_traceback_is_an_exit_code_and_a_text(tmp_path: Path) -> None:
    (tmp_path / "seggen_core").mkdir()
    (tmp_path / "seggen_core" / "__init__.py").touch()
    (tmp_path / "seggen_core" / "__main__.py").write_text("1 / 0", encoding="utf-8")
    done = run_program(list(SEGGEN), tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
