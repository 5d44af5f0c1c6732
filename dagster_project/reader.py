"""What Dagster shows of a stage beyond DVC's records, from the files that stages write."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dvc.events import PICTURES, StageReader, metrics_metadata, picture_metadata
from dagster_dvc.graph import StageNode
from dagster_project.resources import DEFAULT_MLFLOW_UI, MLFLOW_UI_VARIABLE, MlflowClient
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking.follow import mlflow_run_id
from seggen_core.tracking.log import Metrics, read_chunk, run_files

SHARE = "share_"
BAR_WIDTH = 24
TAIL_BYTES = 16_384


class SegGenReader(StageReader):
    """Metrics, row counts, class histograms, previews, MLflow run and progress of a stage."""

    def metadata(self, root: Path, node: StageNode) -> Mapping[str, Any]:
        """See `StageReader.metadata`."""
        rows = 0
        pictures: dict[str, Any] = {}
        figures: dict[str, Any] = {}
        for folder in (root / out for out in node.outs if (root / out).is_dir()):
            rows += num_rows(folder)
            pictures |= {
                file.stem: picture_metadata(file)
                for file in sorted(folder.iterdir())
                if file.suffix in PICTURES
            }
            metrics = _read_json(folder / "metrics.json") or {}
            shares = {name: value for name, value in metrics.items() if name.startswith(SHARE)}
            figures |= histogram_metadata(shares)
            figures |= metrics_metadata(
                {name: value for name, value in metrics.items() if name not in shares}
            )
        # A model's preview lies beside its folder: what is in the folder is the model alone.
        preview = root / ".seggen" / "previews" / f"{node.name}.png"
        if preview.is_file():
            pictures["previews"] = picture_metadata(preview)
        metadata: dict[str, Any] = pictures | figures | dict(super().metadata(root, node))
        if rows:
            metadata["dagster/row_count"] = rows
        if run_id := mlflow_run_id(ProjectPaths(root), node.name):
            mlflow = MlflowClient(ui=os.environ.get(MLFLOW_UI_VARIABLE, DEFAULT_MLFLOW_UI))
            metadata["mlflow_run"] = dg.MetadataValue.url(mlflow.run_page(run_id))
        return metadata

    def progress(self, root: Path, node: StageNode) -> str | None:
        """The newest metrics of a running stage, or how many samples it has made."""
        for file in run_files(ProjectPaths(root).metrics_log, node.name)[:1]:
            tail = read_chunk(file, max(file.stat().st_size - TAIL_BYTES, 0))
            steps = [e for e in tail.events if isinstance(e, Metrics) and e.step]
            if steps:
                values = ", ".join(f"{key} {value:.4g}" for key, value in steps[-1].metrics.items())
                return f"{node.name}: step {steps[-1].step}, {values}"
        if node.key is None:
            return None
        from seggen_core.store.cache import count_added

        num_samples = count_added(ProjectPaths(root).record_cache(node.group, node.key))
        return f"{node.name}: {num_samples} samples made" if num_samples else None


def num_rows(folder: Path) -> int:
    """Samples of a sample store, rows of Parquet tables; 0 for anything else."""
    manifest = _read_json(folder / "manifest.json")
    if isinstance(manifest, dict) and "store" in manifest:
        return int(manifest["store"]["num_samples"])
    import pyarrow.parquet as pq

    return sum(pq.ParquetFile(file).metadata.num_rows for file in folder.glob("*.parquet"))


def histogram_metadata(shares: Mapping[str, float]) -> dict[str, dg.MetadataValue]:
    """The shares of pixels per class in a stage's metrics ({"share_bus": 0.1}), with bars."""
    if not shares:
        return {}
    largest = max(shares.values()) or 1.0
    rows = [
        f"| {name.removeprefix(SHARE)} | {share:.2%} "
        f"| `{'█' * round(BAR_WIDTH * share / largest):<{BAR_WIDTH}}` |"
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    ]
    table = "\n".join(["| class | pixels | |", "|---|---:|---|", *rows])
    return {"class_histogram": dg.MetadataValue.md(table)}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
