"""Opens a project with DVC's own classes. DVC has no public API for its graph: these are internals.

`manifest` and `status` read what this module opens; no other module knows of `dvc.repo`.

A DVC command in a shell gives up if another process holds DVC's lock for three seconds, and it
takes longer to look at a large project. So this module holds the lock for milliseconds: before and
after reading, to see that nobody was writing dvc.lock meanwhile. If somebody was, it reads again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_dvc.busy import hold_dvc_lock, read_claims
from dagster_dvc.errors import DagsterDvcError, DvcBusyError, DvcProjectError
from dagster_dvc.lock import read_lock

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

MAX_READS = 5
"""How often a project is read that others change while it is read."""


@contextmanager
def open_stages(
    root: Path, *, patience: float | None = None
) -> "Iterator[tuple[Repo, list[PipelineStage]]]":
    """Give DVC's view of the project, and the stages of its own dvc.yaml. No lock is held.

    Pipelines in folders below and `.dvc` files are left out.

    Args:
        root: the folder that holds dvc.yaml.
        patience: seconds to wait for a DVC command that holds DVC's lock; None waits for ever.

    Raises:
        DvcBusyError: another process held the lock for all that time, or wrote dvc.lock again and
            again.
        DvcProjectError: `root` holds no DVC project, DVC can't read it, or it has no stages.
    """
    for _ in range(MAX_READS):
        before = _lock_state(root, patience=patience)
        error: Exception | None = None
        try:
            repo, stages = _read(root)
        except Exception as raised:  # noqa: BLE001 (half a dvc.lock makes DVC raise anything)
            error = raised
        if _lock_state(root, patience=patience) == before:
            break
        if error is None:
            repo.close()
    else:
        raise DvcBusyError(f"other DVC processes keep writing {root / 'dvc.lock'}")
    with _understandable_errors(root):
        if error is not None:
            raise error
        with repo:
            yield repo, stages


def stage_reasons(root: Path, *, patience: float | None = None) -> dict[str, list[Any]]:
    """Return what `dvc status` says: the changed stages, each with the reasons. Holds no lock.

    Raises:
        DvcBusyError: a stage is being run by another DVC process, so that files change while they
            are looked at; or as `open_stages`.
        DvcProjectError: `root` holds no DVC project, or DVC can't read it.
    """
    _refuse_running_stages(root, patience=patience)
    changed: dict[str, list[Any]] = {}
    with open_stages(root, patience=patience) as (_, stages):
        try:
            for stage in stages:
                reasons: list[Any] = []
                # What `Stage.status` does, which also notes in DVC's table of running stages that
                # it reads these files: `dvc repro` in a shell would then refuse to write them.
                if not stage.frozen:
                    stage._status_deps(reasons)  # noqa: SLF001
                stage._status_outs(reasons, filter_info=None)  # noqa: SLF001
                stage._status_always_changed(reasons)  # noqa: SLF001
                stage._status_stage(reasons)  # noqa: SLF001
                if reasons:
                    changed[stage.name] = reasons
        except OSError:
            _refuse_running_stages(root, patience=patience)  # they have taken a file away
            raise
    return changed


def _read(root: Path) -> "tuple[Repo, list[PipelineStage]]":
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

    dvc_yaml = root / "dvc.yaml"
    repo = Repo(str(root))
    try:
        stages = [
            stage
            for stage in repo.index.stages
            if isinstance(stage, PipelineStage) and stage.path == str(dvc_yaml)
        ]
        if not stages:
            raise DvcProjectError(
                f"{dvc_yaml} {'holds no stages' if dvc_yaml.is_file() else 'is missing'}; "
                "git brings back what was lost: `git checkout dvc.yaml`"
            )
    except BaseException:
        repo.close()
        raise
    return repo, stages


def _lock_state(root: Path, *, patience: float | None) -> tuple[int, int, int] | None:
    """Return which dvc.lock there is, at a moment at which no DVC process writes it."""
    with hold_dvc_lock(root, patience=patience):
        try:
            state = (root / "dvc.lock").stat()
        except FileNotFoundError:
            return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def _refuse_running_stages(root: Path, *, patience: float | None) -> None:
    with hold_dvc_lock(root, patience=patience):
        running = [claim for claim in read_claims(root) if claim.writes]
    if running:
        raise DvcBusyError(f"another DVC process writes {running[0].path}")


@contextmanager
def _understandable_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except DagsterDvcError:
        raise
    except Exception as error:
        # Over a dvc.lock that was cut off DVC raises anything, NotImplementedError among it.
        read_lock(root)
        from dvc.exceptions import DvcException

        if not isinstance(error, DvcException):
            raise
        raise DvcProjectError(
            f"DVC can't read the project in {root}: {_causes(error)}. "
            "`git diff dvc.yaml params.yaml` shows what has changed, `git checkout FILE` undoes it"
        ) from error


def _causes(error: BaseException | None) -> str:
    """Return the messages of `error` and of its causes; often only a cause has DVC's reason."""
    messages = []
    while error is not None:
        messages.append(str(error).rstrip(".") or type(error).__name__)
        error = error.__cause__
    return ": ".join(messages)
