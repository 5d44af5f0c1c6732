"""Opens a project with DVC's own classes. DVC has no public API for its graph: these are internals.

`manifest` and `status` read what this module opens; no other module knows of `dvc.repo`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_dvc.busy import hold_dvc_lock
from dagster_dvc.errors import DagsterDvcError, DvcBusyError, DvcProjectError
from dagster_dvc.lock import read_held_lock

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage


@contextmanager
def open_stages(root: Path) -> "Iterator[tuple[Repo, list[PipelineStage]]]":
    """Give DVC's view of the project, and the stages of its own dvc.yaml, while holding DVC's lock.

    Pipelines in folders below and `.dvc` files are left out.

    Raises:
        DvcBusyError: a stage is being run by another DVC process, which keeps DVC from answering.
        DvcProjectError: `root` holds no DVC project, DVC can't read it, or it has no stages.
    """
    with hold_dvc_lock(root):  # names whom it waits for, which DVC does not
        pass
    from dvc.repo import Repo, lock_repo
    from dvc.stage import PipelineStage

    dvc_yaml = root / "dvc.yaml"
    with (
        _understandable_errors(root),
        Repo(str(root), _wait_for_lock=True) as repo,
        lock_repo(repo),
    ):
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
        yield repo, stages


@contextmanager
def _understandable_errors(root: Path) -> Iterator[None]:
    from dvc.lock import LockError

    try:
        yield
    except DagsterDvcError:
        raise
    except LockError as error:
        raise DvcBusyError(f"another DVC process runs a stage in {root}") from error
    except Exception as error:
        # Over a dvc.lock that was cut off DVC raises anything, NotImplementedError among it.
        read_held_lock(root)
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
