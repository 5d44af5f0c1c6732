"""What Dagster shows of a stage that has ended: metadata, versions, or why it failed."""

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._utils.error import SerializableErrorInfo

from dagster_dvc.graph import StageNode
from dagster_dvc.lock import LockedStage
from dagster_dvc.result import Outcome, StageResult
from dagster_dvc.versions import DATA_VERSION_TAG, RECORD_TAG, data_version

OUTCOME_TEXTS: dict[Outcome | None, str] = {
    "ran": "ran",
    "restored": "restored: DVC had it in its cache, nothing was computed",
    "unchanged": "unchanged: it was up to date, nothing was done",
    None: "run outside of Dagster, which noticed it later",
}
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
MAX_PICTURE_BYTES = 400_000
"""A larger picture is made smaller: Dagster's event log keeps it, once a materialization."""
SMALL_PICTURE_SIDE = 1200
MAX_ENTRIES = 12
"""More numbers than these are a table: a list of many entries can't be read."""
MAX_NESTED = 4
"""The same for a tree with nested numbers, whose names are long."""
MAX_REASON_LINES = 6
"""Last lines of a failed stage in the message itself: pages show the others when one asks."""

_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|MemoryError|exited with (-9|137)\b", re.IGNORECASE
)
"""What stages print when memory is full, and what DVC prints of a command that was killed."""


class StageReader:
    """What can be said of a stage beyond DVC's records; override it for a project's own files."""

    def metadata(self, root: Path, node: StageNode) -> Mapping[str, Any]:
        """Metadata of a finished stage: here DVC's metrics, and pictures among the outputs.

        Args:
            root: the folder that the paths of `node` start from.
            node: the stage; all its outputs are there.
        """
        metadata: dict[str, Any] = {}
        for path in node.metrics:
            if path.endswith(".json"):
                metadata |= metrics_metadata(json.loads((root / path).read_text(encoding="utf-8")))
        for path in node.outs:
            if Path(path).suffix in PICTURES:
                metadata[Path(path).stem] = picture_metadata(root / path)
        return metadata

    def progress(self, root: Path, node: StageNode) -> str | None:  # noqa: ARG002 (for subclasses)
        """One line on how far a running stage is; None where nothing is known."""
        return None


def metrics_metadata(tree: Any) -> dict[str, Any]:
    """Numbers of a tree as metadata: nothing is left out.

    Those on the top level are entries of their own ("miou"), which Dagster plots over time; so are
    all of a small tree ("train.loss"). A larger tree becomes a table besides, "all_metrics".
    """
    flat = {name: shown_number(value) for name, value in _leaves(tree, "")}
    if len(flat) <= MAX_NESTED or (len(flat) <= MAX_ENTRIES and flat.keys() <= tree.keys()):
        return flat
    top = {name: value for name, value in flat.items() if name in tree}
    rows = [dg.TableRecord({"metric": name, "value": float(value)}) for name, value in flat.items()]
    table = {"all_metrics": dg.MetadataValue.table(rows)}
    return (top if len(top) <= MAX_ENTRIES else {}) | table


def shown_number(value: float) -> float:
    """A number as pages show it: six digits of a fraction, all digits of a whole number."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(tree, Mapping):
        for key, inner in tree.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, (int, float)) and not isinstance(tree, bool):
        yield name, tree


def picture_metadata(path: Path) -> dg.MetadataValue:
    """A PNG or JPEG as Markdown that holds it whole, so that every page can show it."""
    return encoded_picture(path.name, path.read_bytes(), suffix=path.suffix)


def encoded_picture(name: str, data: bytes, *, suffix: str) -> dg.MetadataValue:
    """An encoded picture as Markdown; one that is too large is made smaller.

    Args:
        name: shown where the picture can't be.
        data: the file's bytes.
        suffix: one of `PICTURES`.
    """
    kind = PICTURES[suffix]
    if len(data) > MAX_PICTURE_BYTES:
        from PIL import Image

        with Image.open(io.BytesIO(data)) as picture:
            small = picture.convert("RGB")
        small.thumbnail((SMALL_PICTURE_SIDE, SMALL_PICTURE_SIDE))
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=85)
        data, kind = buffer.getvalue(), "image/jpeg"
    return markdown_picture(name, data, kind=kind)


def markdown_picture(name: str, data: bytes, *, kind: str) -> dg.MetadataValue:
    """An encoded picture as Markdown that holds it whole; `kind` is its media type."""
    label = re.sub(r"([^\w .@-])", r"\\\1", name)  # it comes from files, and is no Markdown
    return dg.MetadataValue.md(f"![{label}](data:{kind};base64,{base64.b64encode(data).decode()})")


def markdown_lines(text: str) -> dg.MetadataValue:
    """Lines of output as Markdown that shows them as they are, whatever fences they hold."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return dg.MetadataValue.md(f"{fence}\n{text}\n{fence}")


def stage_metadata(
    root: Path,
    node: StageNode,
    *,
    locked: LockedStage,
    reader: StageReader,
    result: StageResult | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """All metadata of a finished stage, the reader's first.

    Args:
        root: the folder that the paths of `node` start from.
        node: the stage.
        locked: what DVC recorded of it.
        reader: reads the stage's own files.
        result: how it ended; None where it was run outside of Dagster.
        seconds: how long it took, where there is no result; None where nobody knows.
    """
    metadata: dict[str, Any] = dict(reader.metadata(root, node))
    metadata |= {
        "dvc/stage": node.name,
        "dvc/outcome": OUTCOME_TEXTS[result.outcome if result else None],
    }
    if result is not None:
        metadata |= {
            "dvc/seconds": round(result.seconds, 1),
            "dvc/overhead_cpu_seconds": result.dvc_cpu_seconds,
        }
        if result.command_cpu_seconds is not None:
            metadata["dvc/command_cpu_seconds"] = result.command_cpu_seconds
    elif seconds is not None and "took" not in metadata:
        metadata["dvc/seconds"] = seconds
    return metadata | _outs_metadata(locked)


def _outs_metadata(locked: LockedStage) -> dict[str, Any]:
    """What DVC recorded of a stage's outputs.

    A page cuts off a table that is wider than a short path and an md5. So sizes are sums, and a
    single output, such as that of a partition, is no table.
    """
    if not locked.outs:
        return {}
    sizes = {
        "dvc/bytes": sum(out.size for out in locked.outs.values()),
        "dvc/files": sum(out.num_files or 1 for out in locked.outs.values()),
    }
    if len(locked.outs) == 1:
        ((path, out),) = locked.outs.items()
        return {"dvc/out": path, "dvc/md5": out.md5, **sizes}
    rows = [dg.TableRecord({"path": path, "md5": out.md5}) for path, out in locked.outs.items()]
    return {"dvc/outs": dg.MetadataValue.table(rows), **sizes}


def materialization(
    key: dg.AssetKey, node: StageNode, *, locked: LockedStage, metadata: Mapping[str, Any]
) -> dg.AssetMaterialization:
    """The event that tells Dagster of a stage that no asset of its own has run."""
    tags = {DATA_VERSION_TAG: data_version(locked), RECORD_TAG: locked.digest}
    return dg.AssetMaterialization(asset_key=key, partition=node.key, metadata=metadata, tags=tags)


def may_pass_next_time(result: StageResult) -> bool:
    """Whether a second try of a failed stage may end well: memory was full.

    DVC itself is killed by nobody but the kernel, when memory is full. Another DVC that holds a
    lock fails no stage, since the runner waits for it.
    """
    return result.exit_code < 0 or _MEMORY.search("\n".join(result.tail)) is not None


def stage_failure(result: StageResult, *, advice: str = "") -> dg.Failure:
    """Why a stage failed, with its last lines; no retry policy of Dagster's applies to it."""
    shown = "\n".join(result.tail)
    killed = f"DVC itself was ended by signal {-result.exit_code}"
    metadata: dict[str, Any] = {
        "dvc/stage": result.name,
        "dvc/exit_code": result.exit_code if result.exit_code >= 0 else killed,
        "dvc/last_lines": markdown_lines(shown),
    }
    text = f"stage {result.name} {result.outcome}{advice and f'; {advice}'}"
    description = "\n".join([text, *result.tail[-MAX_REASON_LINES:]])
    return dg.Failure(description, metadata=metadata, allow_retries=False)


class CancelledError(dg.DagsterExecutionInterruptedError, DagsterUserCodeProcessError):
    """A run was cancelled. Dagster shows the message alone: its own stack says nothing more.

    An error of another process is shown as that process told it, so this one tells itself.
    """

    def __init__(self, message: str) -> None:
        """Take what pages show."""
        shown = SerializableErrorInfo(message, stack=[], cls_name="Cancelled")
        DagsterUserCodeProcessError.__init__(self, message, user_code_process_error_infos=[shown])


def cancelled(name: str) -> CancelledError:
    """What a cancelled run says; raise it `from None`."""
    return CancelledError(
        f"{name} was cancelled. Its processes have ended; what was finished is kept, and "
        "materialising it again, or `dvc repro`, goes on from there"
    )
