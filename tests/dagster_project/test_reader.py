"""What Dagster shows of a stage, read from files."""

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dagster_dvc.events import MAX_ENTRIES, metrics_metadata
from dagster_dvc.graph import StageNode
from dagster_project.reader import SegGenReader, first_table
from seggen_core.project.digests import json_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.tables import markdown_table
from seggen_core.store.cache import RecordCache
from seggen_core.store.reader import Sample, SampleStoreWriter
from seggen_core.store.records import Record
from seggen_core.taxonomy import Taxonomy

TAXONOMY = Taxonomy.from_names(stuff=["sky"], things=["car"])


def make_node(
    group: str, *, key: str | None, out: str, params: dict[str, Any] | None = None
) -> StageNode:
    nothing = dict.fromkeys(("cmd", "template", "deps", "metrics", "plots", "upstream"), ())
    return StageNode(
        name=group if key is None else f"{group}@{key}",
        group=group,
        key=key,
        dimensions={},
        outs=(out,),
        params={"params.yaml": params or {}},
        desc=None,
        meta={},
        **nothing,
    )


def test_progress_counts_the_samples_that_a_running_stage_has_made(tmp_path: Path) -> None:
    reader = SegGenReader()
    node = make_node("masksyn", key="car", out="data/synthetic/masksyn/car")
    assert reader.progress(tmp_path, node) is None
    with RecordCache(ProjectPaths(tmp_path).record_cache("masksyn", "car")) as cache:
        assert reader.progress(tmp_path, node) is None
        for index in range(3):
            cache.add(json_digest([index], length=32), Record({}))
        assert reader.progress(tmp_path, node) == "masksyn@car: 3 samples made"
        # As many as the prompts of the class, times the samples of each.
        prompts = ProjectPaths(tmp_path).prompts("car")
        prompts.parent.mkdir(parents=True)
        pd.DataFrame({"sample_key": ["a", "b"], "caption": ["a car"] * 2}).to_parquet(prompts)
        planned = {"masksyn": {"samples_per_source": 4}}
        node = make_node("masksyn", key="car", out="data/synthetic/masksyn/car", params=planned)
        assert reader.progress(tmp_path, node) == "masksyn@car: 3 of 8 samples"
        cache.add(json_digest([3], length=32), Record({}))
        line = str(reader.progress(tmp_path, node))
        assert re.fullmatch(r"masksyn@car: 4 of 8 samples, about \d+ s left", line), line
    alone = make_node("ablation", key=None, out="data/reports/ablation")
    assert reader.progress(tmp_path, alone) is None


@pytest.mark.parametrize("stage", ["foundation", "text2mask", "mask2img"])
def test_the_preview_of_a_model_lies_beside_its_folder(tmp_path: Path, stage: str) -> None:
    node = make_node(stage, key=None, out=f"data/models/{stage}")
    (tmp_path / "data" / "models" / stage).mkdir(parents=True)
    assert "previews" not in SegGenReader().metadata(tmp_path, node)
    preview = tmp_path / ".seggen" / "previews" / f"{stage}.png"
    preview.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(preview)
    assert "previews" in SegGenReader().metadata(tmp_path, node)


def write_store(folder: Path, num_samples: int) -> None:
    with SampleStoreWriter(folder, num_classes=2) as writer:
        for index in range(num_samples):
            image = np.full((16, 16, 3), 40 * index, np.uint8)
            mask = np.repeat(np.array([0, 1], np.uint8), 8)[:, None].repeat(16, 1)
            metadata = {"prompt": "a photo of a car"}
            writer.add(Sample(f"s{index}", image, mask, None, metadata))
        writer.finish(manifest={"params": {"samples_per_source": 1}})


def test_a_partition_shows_samples_and_an_empty_one_says_why(tmp_path: Path) -> None:
    paths = ProjectPaths(tmp_path)
    write_store(paths.real("train"), 3)
    paths.taxonomy.write_text(json.dumps(TAXONOMY.to_json()))
    paths.subsets.write_text(json.dumps({"0": ["s0"]}))
    for slug, num_samples in (("car", 2), ("sky", 0)):
        write_store(paths.synthetic("masksyn", slug), num_samples)
    reader = SegGenReader()
    full = reader.metadata(
        tmp_path, make_node("masksyn", key="car", out="data/synthetic/masksyn/car")
    )
    assert full["dagster/row_count"] == 2 and "empty" not in full
    assert "data:image/png;base64" in full["preview"].value
    empty = reader.metadata(
        tmp_path, make_node("masksyn", key="sky", out="data/synthetic/masksyn/sky")
    )
    assert empty["dagster/row_count"] == 0 and "preview" not in empty
    assert "the partition is empty: 1 of the 1 real samples" in empty["empty"]


def test_reports_in_markdown_and_all_metrics_are_shown(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "reports" / "ablation"
    folder.mkdir(parents=True)
    (folder / "ablation.md").write_text(
        "# Arms\n\n| Arm | mIoU |\n|---|---|\n| baseline | 50 |\n| shuffled | 40 |\n\n"
        "| Class | IoU | other |\n|---|---|---|\n| car | 1 | 2 |\n"
    )
    Image.new("RGB", (8, 8)).save(folder / "ablation.png")
    tree = {"best": 61.0, **{f"arm{n}": {"miou": 50.0 + n} for n in range(60)}}
    (folder / "metrics.json").write_text(json.dumps(tree))
    metadata = SegGenReader().metadata(
        tmp_path, make_node("ablation", key=None, out="data/reports/ablation")
    )
    report = (folder / "ablation.md").read_text()
    assert metadata["ablation_report"] == dg.MetadataValue.md(report)
    assert [row.data for row in metadata["ablation_table"].records] == [
        {"Arm": "baseline", "mIoU": "50"},
        {"Arm": "shuffled", "mIoU": "40"},
    ]
    assert "ablation_chart" in metadata and metadata["best"] == 61.0
    table = metadata["all_metrics"]
    assert [row.data["metric"] for row in table.records][-1] == "arm59.miou"
    assert len(table.records) == 61


def test_a_wide_table_is_shown_by_its_numbers() -> None:
    text = (
        "| Arm | Real | mIoU | Δ | A | B | C |\n|---|---|---:|---:|---:|---:|---:|\n"
        "| one | subset | 50.1 ± 1.0 | \N{EN DASH} | 1 | 2 | 3 |\n"
        "| two | all | 51.2 ± 0.1 | +1.1 ± 1.0 | 2 | 3 | 4 |\n"
    )
    assert [*first_table(text)[0].data] == ["Arm", "mIoU", "Δ", "A"]


@pytest.mark.parametrize(
    "name",
    [
        "a|b",
        "|",
        "a\\",
        "a\\|b",
        "<img src=x onerror=alert(1)>",
        "**bold** `code`",
        "$5~_x_",
        "c d",
    ],
)
def test_names_in_a_table_are_shown_as_they_are(name: str) -> None:
    rows = [{"Class": name, name + "%": "1"}, {"Class": "sky", name + "%": "2"}]
    assert [row.data for row in first_table(markdown_table(rows))] == rows


def test_a_small_tree_of_metrics_is_a_list() -> None:
    tree = {"loss": 1, "train": {"miou": 2.5}, "name": "x", "is_good": True}
    assert metrics_metadata(tree) == {"loss": 1, "train.miou": 2.5}
    assert metrics_metadata({"rate": 1 / 3, "bytes": 23114360}) == {
        "rate": 0.333333,
        "bytes": 23114360,
    }
    assert [*metrics_metadata({str(n): n for n in range(MAX_ENTRIES + 1)})] == ["all_metrics"]
