"""What Dagster shows of a stage that has ended: metadata, versions, or why it failed."""

import base64
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dvc.graph import StageNode
from dagster_dvc.lock import LockedStage
from dagster_dvc.result import Outcome, StageResult
from dagster_dvc.versions import DATA_VERSION_TAG, RECORD_TAG, data_version

OUTCOME_TEXTS: dict[Outcome | None, str] = {
    "ran": "ran",
    "restored": "restored: DVC had it in its cache, nothing was computed",
    "unchanged": "unchanged: it was up to date, nothing was done",
    None: "run outside of Dagster",
}
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
MAX_PICTURE_BYTES = 400_000
"""A larger picture is made smaller: Dagster's event log keeps it, once a materialization."""
SMALL_PICTURE_SIDE = 1200
MAX_METRICS = 40

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


def metrics_metadata(tree: Any, *, prefix: str = "metrics/") -> dict[str, float]:
    """Nested numbers as flat metadata, which Dagster plots over time: {"metrics/miou": 50.7}.

    There are at most `MAX_METRICS`.
    """
    flat: dict[str, float] = {}

    def visit(value: Any, name: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                visit(inner, f"{name}.{key}" if name else str(key))
        elif (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and len(flat) < MAX_METRICS
        ):
            flat[prefix + name] = value

    visit(tree, "")
    return flat


def picture_metadata(path: Path) -> dg.MetadataValue:
    """A PNG or JPEG as Markdown that holds it whole, so that every page can show it."""
    data, kind = path.read_bytes(), PICTURES[path.suffix]
    if len(data) > MAX_PICTURE_BYTES:
        from PIL import Image

        with Image.open(path) as picture:
            small = picture.convert("RGB")
        small.thumbnail((SMALL_PICTURE_SIDE, SMALL_PICTURE_SIDE))
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=85)
        data, kind = buffer.getvalue(), "image/jpeg"
    return markdown_picture(path.name, data, kind=kind)


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
) -> dict[str, Any]:
    """All metadata of a finished stage; `result` is None where it was run outside of Dagster."""
    metadata: dict[str, Any] = {
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
    metadata |= reader.metadata(root, node)
    outs = [
        dg.TableRecord(
            {"path": path, "md5": out.md5, "bytes": out.size, "files": out.num_files or 1}
        )
        for path, out in locked.outs.items()
    ]
    if outs:
        metadata |= {
            "dvc/outs": dg.MetadataValue.table(outs),
            "dvc/bytes": sum(out.size for out in locked.outs.values()),
        }
    return metadata


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
    return dg.Failure(text, metadata=metadata, allow_retries=False)
