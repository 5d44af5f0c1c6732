"""A stage run with other parameters, as a DVC experiment: params.yaml, dvc.lock and the workspace stay as they are.

`dvc exp run --temp` runs in a copy of the project, records parameters, code and the hashes of all
outputs as a commit below refs/exps, and leaves the outputs in DVC's cache: `dvc exp show` lists it,
`dvc exp apply NAME` makes it the workspace's state, `dvc exp branch NAME` a branch. (An overlay
file beside params.yaml would leave the workspace's outputs in a state that `dvc repro` undoes, or
would need a parameter in dvc.yaml for everything that may be overridden.)
"""

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_dvc.errors import DvcProjectError
from dagster_dvc.execution import StageResult
from dagster_dvc.lock import LockedStage, parse_lock
from dagster_dvc.params import param_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster_dvc.manifest import StageNode
    from dagster_dvc.resource import DvcProject


@dataclass(frozen=True)
class Experiment:
    """What an experiment recorded of one stage.

    Attributes:
        name: as `dvc exp show` lists it.
        revision: the commit.
        locked: the stage in the experiment's dvc.lock.
    """

    name: str
    revision: str
    locked: LockedStage


def experiment_argv(stage: str, *, overrides: Sequence[str], name: str, message: str) -> list[str]:
    """Arguments of `dvc` that run `stage`, and what is upstream of it, with the `overrides` that `param_overrides` has made."""
    settings = [argument for override in overrides for argument in ("--set-param", override)]
    # --no-hydra: a project's own Hydra configuration would compose another params.yaml than the one
    # that was checked.
    return [
        "--wait-for-lock",
        "exp",
        "run",
        "--temp",
        "--no-hydra",
        "--name",
        name,
        "--message",
        message,
        *settings,
        stage,
    ]


def run_experiment(
    dvc: "DvcProject",
    node: "StageNode",
    *,
    params: Mapping[str, Any],
    run_id: str,
    on_line: Callable[[str], None],
) -> tuple[StageResult, Experiment | None]:
    """Run `node` with `params` as an experiment named after the Dagster run; no experiment where it failed.

    Raises:
        DvcProjectError: the project has no commit for an experiment to start from, or DVC recorded
            none.
        ParamsError: `params` are refused.
    """
    overrides = param_overrides(dvc.root, params, validate=dvc.validate_params)
    if _git(dvc.root, "rev-parse", "--verify", "--quiet", "HEAD") is None:
        raise DvcProjectError(
            f"a run with other parameters is a DVC experiment, which needs a commit to start from: {dvc.root}"
            " has none (run: git commit)"
        )
    name = f"dagster-{run_id.partition('-')[0]}-{node.name.replace('@', '-')}"
    message = f"{node.name} with {json.dumps(dict(params))}, Dagster run {run_id}"
    argv = experiment_argv(node.name, overrides=overrides, name=name, message=message)
    result = dvc.run(node.name, run_id=run_id, on_line=on_line, argv=argv)
    if not result.ok and result.exit_code != 0:
        return result, None
    listed = _git(dvc.root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps") or ""
    found = [
        line.split()[1] for line in listed.splitlines() if line.split()[0].endswith(f"/{name}")
    ]
    text = _git(dvc.root, "show", f"{found[0]}:dvc.lock") if found else None
    if text is None:
        raise DvcProjectError(
            f"DVC ended well but recorded no experiment {name}; look at: dvc exp show"
        )
    return result, Experiment(
        name, found[0], parse_lock(text, where=f"dvc.lock of experiment {name}")[node.name]
    )


@contextmanager
def experiment_outputs(
    dvc: "DvcProject", node: "StageNode", *, experiment: Experiment, run_id: str
) -> "Iterator[Path]":
    """A temporary folder that holds the stage's outputs as the experiment made them, below their usual paths."""
    with tempfile.TemporaryDirectory() as folder:
        for path in node.outs:
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            argv = [
                "get",
                str(dvc.root),
                path,
                "--rev",
                experiment.revision,
                "--out",
                str(target),
                "--quiet",
            ]
            dvc.run(node.name, run_id=run_id, on_line=print, argv=argv)
        yield Path(folder)


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None
