"""An edited caption costs its own samples alone, and the result is the same bytes as ever."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from seggen_core.captions.table import sample_names
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages import captions, imgsyn
from seggen_core.store.reader import SampleStore
from seggen_core.synthesis import seggen_partition
from tests.synthesis.conftest import write_config

Project = Callable[[str], ProjectPaths]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Source and number of every pair that is drawn."""
    names_of_drawn: list[str] = []
    draw = seggen_partition.draw_images

    def note(tasks: Any, **arguments: Any) -> Any:
        names_of_drawn.extend(f"{task.source_key}/{task.index}" for task in tasks)
        return draw(tasks, **arguments)

    monkeypatch.setattr(seggen_partition, "draw_images", note)
    return names_of_drawn


def test_an_edit_makes_exactly_its_own_samples_again(
    make_project: Project, drawn: list[str]
) -> None:
    paths = make_project("edited")
    edits = paths.root / "edits.csv"
    edits.write_text("sample_key,caption\n")
    config = write_config(paths, captions={"edits": "edits.csv"})
    captions.run(config, paths=paths, item=None)
    imgsyn.run(config, paths=paths, item="car")
    sources = list(dict.fromkeys(SampleStore(paths.synthetic("imgsyn", "car")).index["source_key"]))
    assert len(sources) >= 3 and len(drawn) == 2 * len(sources)
    before = {path.name: path.read_bytes() for path in (paths.data / "prompts").iterdir()}
    trained_on = paths.captions.read_bytes()

    # 1. One caption is edited: DVC finds one prompt table changed and the captions trained on the
    # same.
    name = sample_names(SampleStore(paths.real("train")))[sources[1]]
    edits.write_text(f"sample_key,caption\n{name},a photo of a red car\n")
    captions.run(config, paths=paths, item=None)
    assert paths.captions.read_bytes() == trained_on
    after = {path.name: path.read_bytes() for path in (paths.data / "prompts").iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["car.parquet"]

    # 2. DVC deletes the out and runs the stage: two samples of one source are drawn.
    drawn.clear()
    shutil.rmtree(paths.synthetic("imgsyn", "car"))
    imgsyn.run(config, paths=paths, item="car")
    assert drawn == [f"{sources[1]}/0", f"{sources[1]}/1"]
    prompts = SampleStore(paths.synthetic("imgsyn", "car")).index.set_index("source_key")["prompt"]
    assert set(prompts[sources[1]]) == {"a photo of a red car"} and "red" not in " ".join(
        prompts[sources[0]]
    )

    # 3. Without the cache, the same bytes.
    wanted = contents(paths.synthetic("imgsyn", "car"))
    shutil.rmtree(paths.record_cache("imgsyn", "car"))
    drawn.clear()
    imgsyn.run(config, paths=paths, item="car")
    assert len(drawn) == 2 * len(sources) and contents(paths.synthetic("imgsyn", "car")) == wanted

    # 4. Another seed shares nothing; a damaged shard is made again.
    drawn.clear()
    imgsyn.run(
        write_config(paths, captions={"edits": "edits.csv"}, seed=9), paths=paths, item="car"
    )
    assert len(drawn) == 2 * len(sources)
    imgsyn.run(config, paths=paths, item="car")
    (shard,) = paths.record_cache("imgsyn", "car").rglob("shard-00000.tar")
    damaged = bytearray(shard.read_bytes())
    damaged[600] ^= 0xFF
    shard.unlink()  # a hard link: the published file stays whole
    shard.write_bytes(damaged)
    drawn.clear()
    imgsyn.run(config, paths=paths, item="car")
    assert drawn == [f"{sources[0]}/0"] and contents(paths.synthetic("imgsyn", "car")) == wanted


def test_an_edit_of_what_is_no_training_sample_is_refused(make_project: Project) -> None:
    from seggen_core.errors import CaptionError

    paths = make_project("foreign")
    (paths.root / "edits.csv").write_text("sample_key,caption\n99999,a car\n")
    with pytest.raises(
        CaptionError,
        match=r"edits\.csv has an edit of what is no training sample: 1 sample\(s\): 99999",
    ):
        captions.run(write_config(paths, captions={"edits": "edits.csv"}), paths=paths, item=None)


def test_export_edit_import_keeps_exactly_what_was_changed(
    make_project: Project, capsys: pytest.CaptureFixture
) -> None:
    from seggen_core.cli import main

    paths = make_project("tables")
    config = write_config(paths, captions={"edits": "edits.csv"})
    (paths.root / "edits.csv").write_text("sample_key,caption\n")
    captions.run(config, paths=paths, item=None)
    original = pd.read_parquet(paths.captions)
    names = sample_names(SampleStore(paths.real("train")))
    subsets = json.loads(paths.subsets.read_text())
    sources = sorted({key for keys in subsets.values() for key in keys})
    row = original["sample_key"].tolist().index(sources[1])
    command = ["--params", str(paths.root / "params.yaml")]
    for name in ("mine.csv", "mine.parquet"):
        table = paths.root / name
        assert main([*command, "captions-export", "--out", str(table)]) == 0
        read = (
            pd.read_csv(table, encoding="utf-8-sig")  # as a spreadsheet: "00012" becomes 12
            if name.endswith("csv")
            else pd.read_parquet(table)
        )
        assert read["sample_key"].astype(int).tolist() == [
            int(names[key]) for key in original["sample_key"]
        ]
        assert read["caption"].drop(row).tolist() == original["caption"].drop(row).tolist()
        # The second export holds the edit of the first.
        assert read["caption"][row] == (
            original["caption"][row] if name.endswith("csv") else 'ein rotes Auto, "groß"'
        )
        read.loc[row, "caption"] = 'ein rotes Auto, "groß"'
        read.to_csv(table, index=False) if name.endswith("csv") else read.to_parquet(
            table, index=False
        )
        assert main([*command, "captions-import", str(table)]) == 0
        assert f"1 of {len(original)} captions edited" in capsys.readouterr().out
        edits = pd.read_csv(paths.root / "edits.csv", encoding="utf-8-sig")
        assert edits.to_dict("records") == [
            {
                "sample_key": int(names[original["sample_key"][row]]),
                "caption": 'ein rotes Auto, "groß"',
            }
        ]
    captions.run(config, paths=paths, item=None)
    tables = [pd.read_parquet(path) for path in sorted((paths.data / "prompts").iterdir())]
    prompts = pd.concat(tables).set_index("sample_key")["caption"]
    assert sorted(prompts.index) == sources
    assert (prompts != original.set_index("sample_key")["caption"][prompts.index]).sum() == 1
    read.loc[0, "sample_key"] = "77777"
    read.to_csv(paths.root / "wrong.csv", index=False)
    assert main([*command, "captions-import", str(paths.root / "wrong.csv")]) == 2
    assert "names what is no training sample: 1 sample(s): 77777" in capsys.readouterr().err
    assert len(pd.read_csv(paths.root / "edits.csv", encoding="utf-8-sig")) == 1, (
        "the earlier edits are left"
    )
