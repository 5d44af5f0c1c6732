"""A stage run with other parameters, as a DVC experiment.

params.yaml, dvc.lock and the workspace stay as they are.

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
from dagster_dvc.lock import LockedStage, parse_lock
from dagster_dvc.params import param_overrides
from dagster_dvc.process import run_dvc
from dagster_dvc.result import StageResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster_dvc.graph import StageNode
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
    """Arguments of `dvc` that run `stage` and what is upstream; see `param_overrides`."""
    argv = ["--wait-for-lock", "exp", "run", "--temp"]
    # A project's own Hydra configuration would compose another params.yaml than the checked one.
    argv += ["--no-hydra", "--name", name, "--message", message]
    return [*argv, *(a for override in overrides for a in ("--set-param", override)), stage]


def run_experiment(
    dvc: "DvcProject",
    node: "StageNode",
    *,
    params: Mapping[str, Any],
    run_id: str,
    on_line: Callable[[str], None],
) -> tuple[StageResult, Experiment | None]:
    """Run `node` with `params` as an experiment named after the Dagster run.

    Returns:
        How the stage ended, and the experiment; no experiment where the stage failed.

    Raises:
        DvcProjectError: the project has no commit for an experiment to start from, or DVC recorded
            none.
        ParamsError: `params` are refused.
    """
    dvc.manifest()  # it refuses stages that aren't safe to run
    overrides = param_overrides(dvc.root, params, validate=dvc.validate_params)
    if _git(dvc.root, "rev-parse", "--verify", "--quiet", "HEAD") is None:
        raise DvcProjectError(
            "a run with other parameters is a DVC experiment, which needs a commit to start from: "
            f"{dvc.root} has none (run: git commit)"
        )
    name = f"dagster-{run_id.partition('-')[0]}-{node.name.replace('@', '-')}"
    message = f"{node.name} with {json.dumps(dict(params))}, Dagster run {run_id}"
    argv = experiment_argv(node.name, overrides=overrides, name=name, message=message)
    process = run_dvc(dvc.root, argv, env=dvc.environment(run_id), on_line=on_line)
    assert process.exit_code is not None
    result = StageResult(
        name=node.name,
        outcome="failed" if process.exit_code else "ran",
        exit_code=process.exit_code,
        seconds=process.seconds,
        dvc_cpu_seconds=process.dvc_cpu_seconds,
        command_cpu_seconds=process.command_cpu_seconds,
        changed_outs=(),
        tail=tuple(process.tail),
    )
    return result, _read_experiment(dvc.root, name, stage=node.name) if result.ok else None


@contextmanager
def experiment_outputs(
    dvc: "DvcProject", node: "StageNode", *, experiment: Experiment
) -> "Iterator[Path]":
    """A temporary folder with the outputs that the experiment made, below their usual paths."""
    with tempfile.TemporaryDirectory() as folder:
        for path in node.outs:
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            argv = ["get", str(dvc.root), path, "--rev", experiment.revision]
            run_dvc(dvc.root, [*argv, "--out", str(target), "--quiet"], on_line=print)
        yield Path(folder)


def _read_experiment(root: Path, name: str, *, stage: str) -> Experiment:
    """Return what git has of an experiment that DVC has just recorded.

    Raises:
        DvcProjectError: it has nothing.
    """
    listed = _git(root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps") or ""
    refs = dict(line.split() for line in listed.splitlines())
    revision = next((commit for ref, commit in refs.items() if ref.endswith(f"/{name}")), None)
    text = _git(root, "show", f"{revision}:dvc.lock") if revision else None
    if revision is None or text is None:
        raise DvcProjectError(
            f"DVC ended well but recorded no experiment {name}; look at: dvc exp show"
        )
    locked = parse_lock(text, where=f"dvc.lock of experiment {name}")[stage]
    return Experiment(name, revision, locked)


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None
