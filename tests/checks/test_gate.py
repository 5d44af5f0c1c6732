"""Results of checks are stored once, found again in a copy, and stop what reads the data."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from seggen_core.checks import synthesis
from seggen_core.checks.results import Checked, look, recall
from seggen_core.config import ChecksConfig, SegGenConfig
from seggen_core.errors import CheckError, SampleStoreError
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages import check_captions, check_dataset, check_synthetic
from seggen_core.store.reader import Sample, SampleStore
from tests.checks.conftest import mask_of, partition, sample

ROOT = Path(__file__).parent.parent.parent
OPEN = ChecksConfig()
SOUND = [sample(f"m{i}", mask_of(0, 1, 2, 1), source=f"train{i}") for i in range(4)]


def config_of(classes: list[str], **checks: object) -> SegGenConfig:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return SegGenConfig.model_validate(tree | {"classes": classes, "checks": checks})


def noise() -> list[Sample]:
    """Samples whose masks have nothing to do with their images."""
    rng = np.random.default_rng(0)
    return [replace(s, image=rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for s in SOUND]


def passed_file(paths: ProjectPaths) -> Path:
    return paths.passed(paths.synthetic("masksyn"))


def test_results_are_stored_and_found_without_reading_samples(
    paths: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = partition(paths, *SOUND)
    checked = Checked("masksyn", "car", paths, OPEN)
    assert recall(checked) == {}
    findings = look(checked)
    assert [*findings] == [
        "samples_sound",
        "classes_present",
        "class_histogram",
        "image_mask_agreement",
        "sources_not_held_out",
    ]
    assert all(finding.passed for finding in findings.values())

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a stored result was evaluated again")

    monkeypatch.setattr(synthesis, "check_agreement", refuse)
    monkeypatch.setattr(synthesis, "check_histogram", refuse)
    assert look(Checked("masksyn", "car", paths, OPEN)) == findings
    # Another limit of one check is another question to this check alone.
    other = Checked("masksyn", "car", paths, ChecksConfig(min_samples=2))
    assert [*recall(other)] == [name for name in findings if name != "classes_present"]
    assert look(other)["classes_present"].passed
    # Other samples are another question to all.
    partition(paths, *SOUND[:3])
    assert recall(Checked("masksyn", "car", paths, OPEN)) == {}
    shutil.rmtree(folder)
    assert recall(Checked("masksyn", "car", paths, OPEN)) == {}


def test_the_results_of_the_dataset_outlive_the_stages_behind_it(paths: ProjectPaths) -> None:
    """Captions are made after the gate of the dataset: its results don't depend on them."""
    findings = look(Checked("dataset", None, paths, OPEN))
    paths.captions.parent.mkdir(parents=True, exist_ok=True)
    paths.captions.write_bytes(b"captions")
    assert recall(Checked("dataset", None, paths, OPEN)) == findings


@pytest.mark.parametrize("text", ["", "{", "[]", '{"samples_sound": 3}'])
def test_damaged_results_are_worth_nothing(paths: ProjectPaths, text: str) -> None:
    partition(paths, *SOUND)
    checked = Checked("masksyn", "car", paths, OPEN)
    findings = look(checked)
    checked.file.write_text(text)
    assert recall(Checked("masksyn", "car", paths, OPEN)) == {}
    assert look(Checked("masksyn", "car", paths, OPEN)) == findings


@pytest.mark.parametrize(
    "put",
    [os.mkfifo, Path.mkdir, lambda file: file.symlink_to(file)],
    ids=["a FIFO", "a folder", "a link to itself"],
)
def test_what_is_no_file_is_replaced_and_not_waited_for(
    paths: ProjectPaths, put: Callable[[Path], None]
) -> None:
    partition(paths, *SOUND)
    config = config_of(["car"])
    check_synthetic.run(config, paths=paths, item="masksyn")
    places = [
        Checked("masksyn", "car", paths, OPEN).file,
        paths.check_report("masksyn"),
        passed_file(paths),
    ]
    before = [place.read_bytes() for place in places]
    for place in places:
        place.unlink()
        put(place)
    check_synthetic.run(config, paths=paths, item="masksyn")
    assert [place.read_bytes() for place in places] == before


def test_the_gate_of_a_method_opens_for_sound_samples(paths: ProjectPaths, tmp_path: Path) -> None:
    partition(paths, *SOUND)
    partition(paths, *SOUND, slug="sky")
    config = config_of(["sky", "car"])
    check_synthetic.run(config, paths=paths, item="masksyn")
    assert json.loads(passed_file(paths).read_text()) == {"passed": True, "classes": ["car", "sky"]}
    # In a clone that pulled the outs, the report stands for the results that are not tracked.
    shutil.rmtree(paths.check_results("any").parent)
    assert len(recall(Checked("masksyn", "sky", paths, config.checks))) == 5
    # A changed limit looks again, and what opens the gate stays the same.
    before = passed_file(paths).read_bytes()
    check_synthetic.run(config_of(["sky", "car"], min_samples=2), paths=paths, item="masksyn")
    assert passed_file(paths).read_bytes() == before
    # Other classes are what stages behind the gate have to see.
    check_synthetic.run(config_of(["car"]), paths=paths, item="masksyn")
    assert passed_file(paths).read_bytes() != before


def test_the_gate_stays_shut_and_says_the_number_and_the_key(paths: ProjectPaths) -> None:
    partition(paths, *SOUND, slug="sky")
    partition(paths, *SOUND)
    check_synthetic.run(config_of(["sky", "car"]), paths=paths, item="masksyn")
    partition(paths, *noise())
    with pytest.raises(CheckError) as raised:
        check_synthetic.run(config_of(["sky", "car"]), paths=paths, item="masksyn")
    assert not passed_file(paths).exists()
    message = str(raised.value)
    assert "1 blocking checks fail" in message
    assert "check image_mask_agreement of masksyn@car: images are" in message
    assert "expected 1.2 (limit: checks.min_edge_agreement in params.yaml)" in message
    report = json.loads(paths.check_report("masksyn").read_text())
    assert report["masksyn@sky"]["image_mask_agreement"]["passed"] is True
    assert report["masksyn@car"]["image_mask_agreement"]["passed"] is False
    # A limit of this partition alone opens it; the key is then another one.
    overrides = {"masksyn/car": {"min_edge_agreement": 0.5}}
    check_synthetic.run(config_of(["sky", "car"], overrides=overrides), paths=paths, item="masksyn")
    assert passed_file(paths).exists()
    overrides = {"masksyn": {"min_edge_agreement": 9}}
    with pytest.raises(CheckError, match=r"checks\.overrides\.masksyn\.min_edge_agreement"):
        check_synthetic.run(
            config_of(["sky", "car"], overrides=overrides), paths=paths, item="masksyn"
        )


def test_damaged_samples_shut_the_gate_and_nothing_else_reads_them(paths: ProjectPaths) -> None:
    folder = partition(paths, *SOUND)
    row = SampleStore(folder).index.iloc[1]
    with (folder / row["shard"]).open("r+b") as shard:
        shard.seek(row["image_offset"] + 20)
        shard.write(b"\0\0\0\0")
    with pytest.raises(CheckError, match="samples_sound of masksyn@car") as raised:
        check_synthetic.run(config_of(["car"]), paths=paths, item="masksyn")
    assert "1 blocking checks fail" in str(raised.value)
    assert "limit" not in str(raised.value), "no limit lets damaged samples pass"
    report = json.loads(paths.check_report("masksyn").read_text())["masksyn@car"]
    assert report["class_histogram"]["summary"] == "not looked at, because samples_sound failed"


def test_a_partition_of_a_class_that_is_not_listed_counts_for_nothing(
    paths: ProjectPaths, caplog: pytest.LogCaptureFixture
) -> None:
    partition(paths, *SOUND)
    partition(paths, *noise(), slug="sky")
    check_synthetic.run(config_of(["car"]), paths=paths, item="masksyn")
    assert "doesn't list; they are ignored: sky" in caplog.text
    with pytest.raises(SampleStoreError, match=r"lacks 1 of the 2 partitions .*: road; run: dvc"):
        check_synthetic.run(config_of(["car", "road"]), paths=paths, item="masksyn")


def test_the_gates_of_the_real_samples_and_of_the_captions(paths: ProjectPaths) -> None:
    import pandas as pd

    check_dataset.run(config_of(["car"]), paths=paths, item=None)
    opened = [paths.passed(paths.real(s) / "index.parquet") for s in ("train", "val", "test")]
    assert all(file.is_file() for file in opened)
    paths.captions.parent.mkdir()
    table = pd.DataFrame({"sample_key": [f"train{i}" for i in range(4)], "caption": "a car"})
    table.to_parquet(paths.captions)
    check_captions.run(config_of(["car"]), paths=paths, item=None)
    assert paths.passed(paths.captions.parent).is_file()
    table.iloc[:2].to_parquet(paths.captions)
    with pytest.raises(CheckError, match=r"50\.0% of 4 .*checks\.min_caption_coverage"):
        check_captions.run(config_of(["car"]), paths=paths, item=None)
    assert not paths.passed(paths.captions.parent).exists()
