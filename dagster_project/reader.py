"""What Dagster shows of a stage beyond DVC's records, from the files that stages write."""

import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dvc.durations import format_seconds
from dagster_dvc.events import (
    PICTURES,
    StageReader,
    encoded_picture,
    metrics_metadata,
    picture_metadata,
)
from dagster_dvc.graph import StageNode
from dagster_project.progress import ProgressReader
from dagster_project.resources import DEFAULT_MLFLOW_UI, MLFLOW_UI_VARIABLE, MlflowClient
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking.follow import mlflow_run_id
from seggen_core.tracking.log import End, Start, read_chunk, run_files

SHARE = "share_"
BAR_WIDTH = 24
MAX_COLUMNS = 3
"""Beside the first. Dagster cuts off what is wider; the whole table is in the report beside it."""
NUMERIC_CELL = re.compile("[-+±]?[0-9]|\N{EN DASH}$")
"""How a cell with a number starts, or all of one without."""
CELL = re.compile(r"((?:\\.|[^|])*)\|")
"""A cell of a Markdown table, with the border behind it."""
ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
"""A character that is no Markdown, and no border of a table."""
NUM_SHOWN = 4
"""Samples on the sheet of a store."""
SHEET_HEIGHT = 128
"""Pixels of a sample on it."""


class SegGenReader(StageReader):
    """Samples, metrics, tables, class histograms, times, MLflow run and progress of a stage."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._progress = ProgressReader()

    def metadata(self, root: Path, node: StageNode) -> Mapping[str, Any]:
        """See `StageReader.metadata`. What people look at first comes first."""
        paths = ProjectPaths(root)
        metadata: dict[str, Any] = dict(stage_times(paths, node))
        rows = None
        for folder in (root / out for out in node.outs if (root / out).is_dir()):
            if (num_in_folder := num_rows(folder)) is not None:
                rows = (rows or 0) + num_in_folder
            if is_store(folder):
                metadata |= store_metadata(folder, paths=paths, node=node)
            metadata |= _files_metadata(folder, has_sheet="preview" in metadata)
        # A model's preview lies beside its folder: what is in the folder is the model alone.
        preview = paths.preview(node.name)
        if preview.is_file():
            metadata["previews"] = picture_metadata(preview)
        metadata |= super().metadata(root, node)
        if rows is not None:
            metadata["dagster/row_count"] = rows
        if run_id := mlflow_run_id(paths, node.name):
            mlflow = MlflowClient(ui=os.environ.get(MLFLOW_UI_VARIABLE, DEFAULT_MLFLOW_UI))
            metadata["mlflow_run"] = dg.MetadataValue.url(mlflow.run_page(run_id))
        return metadata

    def progress(self, root: Path, node: StageNode) -> str | None:
        """How far a running stage is: of how many steps or samples, and the time left."""
        return self._progress.line(root, node)


def stage_times(paths: ProjectPaths, node: StageNode) -> dict[str, Any]:
    """When the stage's last run ended and how long it took, from its own log."""
    for file in run_files(paths.metrics_log, node.name):
        start = read_chunk(file, 0).events[:1]
        end = read_chunk(file, max(file.stat().st_size - 4096, 0)).events[-1:]
        if not (start and end and isinstance(start[0], Start) and isinstance(end[0], End)):
            continue
        if end[0].status == "FINISHED":
            return {
                "finished": dg.MetadataValue.timestamp(end[0].time / 1000),
                "took": format_seconds((end[0].time - start[0].time) / 1000),
            }
    return {}


def is_store(folder: Path) -> bool:
    """Whether a folder is a sample store."""
    manifest = _read_json(folder / "manifest.json")
    return isinstance(manifest, dict) and "store" in manifest


def num_rows(folder: Path) -> int | None:
    """Samples of a sample store, rows of Parquet tables; None where there is neither."""
    if is_store(folder):
        return int(_read_json(folder / "manifest.json")["store"]["num_samples"])
    import pyarrow.parquet as pq

    tables = [*folder.glob("*.parquet")]
    return sum(pq.ParquetFile(file).metadata.num_rows for file in tables) if tables else None


def store_metadata(folder: Path, *, paths: ProjectPaths, node: StageNode) -> dict[str, Any]:
    """A sheet of some samples with captions, class names and colours; or why there is none."""
    from seggen_core.colors.palette import class_palette
    from seggen_core.reports.contact_sheet import SheetSample, draw_sheet
    from seggen_core.store.reader import SampleStore
    from seggen_core.taxonomy import Taxonomy

    if not paths.taxonomy.is_file():
        return {}
    store, taxonomy = SampleStore(folder), Taxonomy.read(paths.taxonomy)
    if not len(store):
        return {"empty": _why_empty(paths, node)}
    if folder in (paths.real("val"), paths.real("test")):
        return {}  # the training split stands for all three
    shown = []
    num_shown = min(NUM_SHOWN, len(store))
    for position in (i * len(store) // num_shown for i in range(num_shown)):
        sample = store[position]
        caption = sample.metadata.get("prompt")
        title = sample.key if caption is None else f"{sample.key}\n{caption}"
        shown.append(SheetSample(title, sample.image, sample.segmentation_map, sample.instance_map))
    sheet = draw_sheet(
        shown,
        class_names=[c.name for c in taxonomy],
        palette=class_palette(len(taxonomy)),
        heading=f"{node.name}: {num_shown} of {len(store)} samples",
        height=SHEET_HEIGHT,
    )
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return {"preview": encoded_picture("preview", buffer.getvalue(), suffix=".png")}


def _why_empty(paths: ProjectPaths, node: StageNode) -> str:
    from seggen_core.checks.synthesis import why_empty
    from seggen_core.errors import SegGenError

    try:
        return why_empty(paths, slug=node.key or "")
    except (SegGenError, OSError) as error:
        return f"the partition is empty ({error})"


def _files_metadata(folder: Path, *, has_sheet: bool) -> dict[str, Any]:
    """Pictures, reports in Markdown, and metrics of a folder."""
    metadata: dict[str, Any] = {}
    for file in sorted(folder.iterdir()):
        if file.name == "README.md":
            metadata["card"] = dg.MetadataValue.md(file.read_text(encoding="utf-8"))
        elif file.suffix == ".md":
            text = file.read_text(encoding="utf-8")
            if rows := first_table(text):
                # Pages show a table as it is, and a report in Markdown only when one asks for it.
                metadata[f"{file.stem}_table"] = dg.MetadataValue.table(rows)
            metadata[f"{file.stem}_report"] = dg.MetadataValue.md(text)
        elif file.suffix in PICTURES and not (has_sheet and file.stem == "previews"):
            name = f"{file.stem}_chart" if (folder / f"{file.stem}.md").is_file() else file.stem
            metadata[name] = picture_metadata(file)
    metrics = _read_json(folder / "metrics.json") or {}
    shares = {name: value for name, value in metrics.items() if name.startswith(SHARE)}
    metadata |= histogram_metadata(shares)
    others = {name: value for name, value in metrics.items() if name not in shares}
    return metadata | metrics_metadata(others)


def first_table(text: str) -> list[dg.TableRecord]:
    """The first table in a Markdown text, as wide as a page shows; no rows where there is none.

    The first column names the rows. Of the others, `MAX_COLUMNS` are shown that hold numbers and
    differ between rows; columns of text only where no column holds a number.
    """
    lines = [line for line in text.splitlines() if line.startswith("|")]
    if len(lines) < 3:
        return []
    head, _, *body = (_cells(line) for line in lines)
    rows: list[list[str]] = []
    for cells in body:
        if len(cells) != len(head):  # the next table
            break
        rows.append(cells)
    telling = [k for k in range(1, len(head)) if len(rows) < 2 or len({r[k] for r in rows}) > 1]
    numbers = [k for k in telling if all(NUMERIC_CELL.match(row[k]) for row in rows)]
    shown = [0, *(numbers or telling)[:MAX_COLUMNS]]
    return [dg.TableRecord({head[k]: row[k] for k in shown}) for row in rows]


def _cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table, as plain text: names come from users' files."""
    return [ESCAPED.sub(r"\1", cell).strip() for cell in CELL.findall(line.removeprefix("|"))]


def histogram_metadata(shares: Mapping[str, float]) -> dict[str, dg.MetadataValue]:
    """The shares of pixels per class in a stage's metrics ({"share_bus": 0.1}), with bars."""
    if not shares:
        return {}
    largest = max(shares.values()) or 1.0
    rows = [
        f"| {name.removeprefix(SHARE)} | {share:.2%} "
        f"| `{'█' * round(BAR_WIDTH * share / largest):<{BAR_WIDTH}}` |"
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
        if share
    ]
    table = "\n".join(["| class | pixels | |", "|---|---:|---|", *rows])
    return {"class_histogram": dg.MetadataValue.md(table)}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
