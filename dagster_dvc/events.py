"""What Dagster is told of a stage that has ended: metadata, versions, or why it failed."""

import base64
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dvc.execution import Outcome, StageResult
from dagster_dvc.lock import LockedStage
from dagster_dvc.manifest import StageNode
from dagster_dvc.provenance import INPUTS_TAG, inputs_version

OUTCOME_TEXTS: dict[Outcome | None, str] = {
    "ran": "ran",
    "cached": "cached: DVC restored it from its run cache, nothing was computed",
    "unchanged": "unchanged: it was up to date, nothing was done",
    None: "run outside of Dagster",
}
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
MAX_PICTURE_BYTES = 400_000
"""A larger picture is made smaller: it is kept in Dagster's event log, once for each materialization."""
SMALL_PICTURE_SIDE = 1200
MAX_METRICS = 40

_RETRYABLE = re.compile(
    r"Unable to acquire lock|out of memory|OutOfMemoryError|exited with (-9|137)\b", re.IGNORECASE
)


class StageReader:
    """What can be said of a stage beyond DVC's own records; override it for files that DVC knows nothing of."""

    def metadata(self, root: Path, node: StageNode) -> Mapping[str, Any]:
        """Metadata of a finished stage. This one takes DVC's metrics, and pictures among the outputs.

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

    def progress(self, root: Path, node: StageNode) -> str | None:  # noqa: ARG002 (for those who override it)
        """One line on how far a running stage is, logged when it changes; None where nothing is known."""
        return None


def metrics_metadata(tree: Any, *, prefix: str = "metrics/") -> dict[str, float]:
    """Nested numbers as flat metadata, which Dagster plots over time: {"metrics/miou": 50.7}; at most `MAX_METRICS`."""
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
    """A PNG or JPEG as Markdown that holds it whole, so that it is shown wherever the page is opened."""
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
    return dg.MetadataValue.md(f"![{name}](data:{kind};base64,{base64.b64encode(data).decode()})")


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
            "dvc/command_cpu_seconds": result.command_cpu_seconds,
            "dvc/overhead_cpu_seconds": result.dvc_cpu_seconds,
        }
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


def stage_tags(locked: LockedStage) -> dict[str, str]:
    """Tags of a materialization, beside those that Dagster makes of the data version."""
    return {INPUTS_TAG: inputs_version(locked)}


def stage_failure(result: StageResult) -> dg.Failure:
    """Why a stage failed, with its last lines; retried only where that may help (a lock that was held, memory that was full)."""
    shown = "\n".join(result.tail)
    # DVC itself is killed by nobody but the kernel, when memory is full.
    retryable = result.exit_code is None or bool(_RETRYABLE.search(shown))
    advice = (
        "tried again, as the asset's retry policy says"
        if retryable
        else "not tried again: it would end the same way"
    )
    metadata: dict[str, Any] = {
        "dvc/stage": result.name,
        "dvc/exit_code": result.exit_code
        if result.exit_code is not None
        else "DVC itself was killed",
        "dvc/last_lines": dg.MetadataValue.md(f"```\n{shown}\n```"),
    }
    return dg.Failure(
        f"stage {result.name} {result.outcome}; {advice}",
        metadata=metadata,
        allow_retries=retryable,
    )
