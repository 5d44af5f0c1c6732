"""What `seggen export` takes, refuses and leaves behind."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seggen_core.cli import main
from seggen_core.commands.export import FORMATS
from seggen_core.errors import ConfigError, SampleStoreError
from seggen_core.exports import export as module
from seggen_core.exports.sources import Condition, open_selection
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.card import describe_classes
from seggen_core.store.reader import SampleStore, SampleStoreWriter
from seggen_core.taxonomy import Taxonomy
from tests.exports.conftest import Export
from tests.exports.project import make_project, make_sample, stored

ROOT = Path(__file__).parents[2]


def test_the_command_line_lists_all_formats() -> None:
    assert set(module.FORMATS) == set(FORMATS)


@pytest.mark.parametrize(
    "sources, counts",
    [
        (["real"], {"train": 5, "val": 3, "test": 2}),
        (["real/val"], {"val": 3}),
        (["masksyn"], {"train": 4}),
        (["masksyn/car"], {"train": 4}),
        (["masksyn@car"], {"train": 4}),
        (["seediff", "real/train", "masksyn"], {"train": 12}),
        (["masksyn", "masksyn/car"], {"train": 4}),  # each store once
        (["data/synthetic/seediff/car"], {"train": 3}),
        (["data/real"], {"train": 5, "val": 3, "test": 2}),
    ],
)
def test_sources(sources: list[str], counts: dict[str, int], paths: ProjectPaths) -> None:
    selection = open_selection(sources, paths=paths)
    assert selection.splits == counts
    keys = [sample.key for sample in selection.samples()]
    assert len(set(keys)) == len(keys) == sum(counts.values())


@pytest.mark.parametrize(
    "source, message",
    [
        ("masksin", "did you mean masksyn?"),
        ("real/trai", "did you mean real/train?"),
        ("masksyn/dog", "run: dvc repro masksyn@dog"),
        ("imgsyn", "dvc repro imgsyn"),
        ("masksyn/sky", "there is no sample to export"),
        ("/nowhere", "there are: real/train, real/val, real/test, masksyn, seediff"),
        ("../..", "no samples"),
    ],
)
def test_wrong_sources_are_told(source: str, message: str, paths: ProjectPaths) -> None:
    with pytest.raises((ConfigError, SampleStoreError), match=message.replace("?", r"\?")):
        open_selection([source], paths=paths)


def test_stores_of_other_classes_are_refused(paths: ProjectPaths, tmp_path: Path) -> None:
    other = Taxonomy.from_names(stuff=["a", "b"], things=["c", "d"])
    with SampleStoreWriter(tmp_path / "other", num_classes=4) as writer:
        writer.add(make_sample("x", 1))
        colors = np.zeros((4, 3), np.uint8)
        writer.finish(manifest=describe_classes(other, colors=colors, license_text=None))
    with pytest.raises(ConfigError, match="different classes"):
        open_selection(["real/train", str(tmp_path / "other")], paths=paths)


def test_a_store_without_classes_takes_those_of_the_project(tmp_path: Path) -> None:
    paths = make_project(tmp_path)
    manifest = paths.real("val") / "manifest.json"
    tree = json.loads(manifest.read_text())
    del tree["classes"]
    manifest.write_text(json.dumps(tree))
    selection = open_selection(["real/val"], paths=paths)
    assert [c.name for c in selection.taxonomy] == ["sky", "road", "car", "dog: small"]
    paths.taxonomy.unlink()
    with pytest.raises(SampleStoreError, match="names no classes"):
        open_selection(["real/val"], paths=paths)


def test_limit_is_spread_over_each_split(paths: ProjectPaths) -> None:
    selection = open_selection(["real", "masksyn"], paths=paths, limit=3)
    assert selection.splits == {"train": 3, "val": 3, "test": 2}
    train = [s.source for s in selection.samples() if s.split == "train"]
    assert train == ["real/train", "real/train", "masksyn/car"]


def test_where_keeps_real_samples_and_good_synthetic_ones(paths: ProjectPaths) -> None:
    conditions = [Condition.parse("score > 0.2"), Condition.parse("score<=0.5")]
    selection = open_selection(["real/val", "masksyn"], paths=paths, conditions=conditions)
    names = [s.key for s in selection.samples()]
    assert names == ["val-0", "val-1", "val-2", "train-1", "train-2"]
    with pytest.raises(ConfigError, match="it has: judge, score"):
        open_selection(["masksyn"], paths=paths, conditions=[Condition.parse("scare>1")])
    with pytest.raises(ConfigError, match="--where leaves none"):
        open_selection(["masksyn"], paths=paths, conditions=[Condition.parse("score>9")])
    with pytest.raises(ConfigError, match="dvc repro judge@masksyn"):
        open_selection(["masksyn"], paths=paths, conditions=[Condition.parse("judge>1")])
    for text in ("score", "score=1", "score>", ">1", "score>1e", "score>--1"):
        with pytest.raises(ConfigError, match="expected a score"):
            Condition.parse(text)


def test_where_takes_scores_of_the_judge(tmp_path: Path) -> None:
    paths = make_project(tmp_path)
    report = paths.report("judge", "masksyn")
    report.mkdir(parents=True)
    scores = pd.DataFrame({"key": ["train-3", "train-0"], "score": [80.0, 20.0]})
    scores.to_csv(report / "scores.csv", index=False)
    conditions = [Condition.parse("judge>=50")]
    selection = open_selection(["masksyn"], paths=paths, conditions=conditions)
    assert [s.key for s in selection.samples()] == ["train-3"]


def test_samples_with_one_key_get_names_of_their_own(export: Export, paths: ProjectPaths) -> None:
    out = export("--to", "mmseg", "real/train", "masksyn")
    names = sorted(path.stem for path in (out / "img_dir" / "train").iterdir())
    assert len(names) == 9
    assert {f"masksyn_car-train-{i}" for i in range(4)} <= set(names)


def test_an_export_is_replaced_with_force_alone(
    export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export("--to", "mmseg", "real/val")
    export("--to", "voc", "real/val", code=2)
    assert "--force replaces it" in capsys.readouterr().err
    assert (out / "img_dir").is_dir()
    export("--to", "voc", "--force", "real/val")
    assert not (out / "img_dir").exists()
    assert (out / "JPEGImages").is_dir()
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_folder_that_is_no_export_is_never_replaced(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    export("--to", "mmseg", "real/val", out=photos)  # it is empty
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_bytes(b"x")
    export("--to", "mmseg", "--force", "real/val", out=tmp_path / "other", code=2)
    assert "is no earlier export" in capsys.readouterr().err
    assert (tmp_path / "other" / "photo.jpg").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--limit", "0"], "--limit is 0"),
        (["--where", "nonsense"], "--where is 'nonsense'"),
        (["--push", "me/x"], "--push uploads huggingface exports"),
    ],
)
def test_wrong_options_leave_nothing(
    options: list[str], message: str, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export("--to", "coco", *options, "real/val", code=2)
    assert message in capsys.readouterr().err
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def test_a_damaged_sample_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make_project(tmp_path / "project")
    store = SampleStore(paths.real("val"))
    row = store.index.iloc[2]
    shard = store.folder / row["shard"]
    data = bytearray(shard.read_bytes())
    data[row["image_offset"] + 40] ^= 1
    shard.write_bytes(data)
    for name in FORMATS:
        out = tmp_path / "out" / name
        params = ["--params", str(paths.root / "params.yaml")]
        assert main([*params, "export", "--to", name, "real/val", "--out", str(out)]) == 2
        assert "val-2.png" in capsys.readouterr().err
        assert list(out.parent.iterdir()) == []


def run_export(paths: ProjectPaths, out: Path, **options) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    arguments = ["--params", str(paths.root / "params.yaml"), "export", "--to", "mmseg"]
    command = [sys.executable, "-m", "seggen_core", *arguments, "real", "--out", str(out)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, **options
    )


def test_a_full_disk_is_exit_code_3_and_leaves_nothing(paths: ProjectPaths, tmp_path: Path) -> None:
    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    finished = run_export(paths, tmp_path / "out", preexec_fn=limit_files)
    assert finished.returncode == 3, finished.stderr
    assert "can't write" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_quiet_without_a_terminal(paths: ProjectPaths, tmp_path: Path) -> None:
    finished = run_export(paths, tmp_path / "out")
    assert finished.returncode == 0
    assert finished.stderr == ""
    assert finished.stdout.count("\n") == 1


def test_what_a_killed_export_left_is_cleared(export: Export, tmp_path: Path) -> None:
    unfinished = tmp_path / ".out.unfinished"
    unfinished.mkdir()
    (unfinished / "rest.png").write_bytes(b"x")
    out = export("--to", "mmseg", "real/val")
    assert not unfinished.exists()
    assert not (out / "rest.png").exists()


def test_two_exports_to_one_folder_are_refused(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A POSIX lock doesn't hold against the same process, so another one takes it.
    code = (
        "import sys; from pathlib import Path; from seggen_core.store.files import open_locked\n"
        "open_locked(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / ".out.lock")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    export("--to", "mmseg", "real/val", code=2)
    assert "another process" in capsys.readouterr().err
    process.communicate()
    export("--to", "mmseg", "real/val")


def test_the_export_says_what_it_is(export: Export) -> None:
    out = export("--to", "yolo", "--components", "masksyn", "real/val")
    about = json.loads((out / "seggen_export.json").read_text())
    assert about["format"] == "yolo"
    assert about["splits"] == {"train": 4, "val": 3}
    assert about["classes"][2]["name"] == "car"
    assert about["sources"][0]["manifest"]["models"]["foundation"]["revision"] == "abc123"


def test_a_dataset_without_things(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stuff = Taxonomy.from_names(stuff=["a", "b", "c", "d"], things=[])
    with SampleStoreWriter(tmp_path / "store", num_classes=4) as writer:
        for i in range(2):
            writer.add(make_sample(f"s{i}", i, instances=False))
        colors = np.zeros((4, 3), np.uint8)
        writer.finish(manifest=describe_classes(stuff, colors=colors, license_text=None))

    def run(name: str, *options: str) -> int:
        arguments = ["export", "--to", name, str(tmp_path / "store"), *options]
        return main(
            ["--params", str(tmp_path / "params.yaml"), *arguments, "--out", str(tmp_path / name)]
        )

    assert run("coco") == 2
    assert "none of the 4 classes is one" in capsys.readouterr().err
    assert run("coco", "--components") == 0
    tree = json.loads((tmp_path / "coco" / "annotations" / "instances_train.json").read_text())
    assert [c["name"] for c in tree["categories"]] == ["a", "b", "c", "d"]
    assert run("coco-panoptic") == 0
    assert run("detectron2") == 0
    assert "annotations" in json.loads((tmp_path / "detectron2" / "train.json").read_text())[0]


def test_images_can_be_converted(export: Export, paths: ProjectPaths) -> None:
    out = export("--to", "coco", "--images", "jpg", "real/val")
    images = list((out / "images" / "val").iterdir())
    assert {image.suffix for image in images} == {".jpg"}
    assert all(image.read_bytes().startswith(b"\xff\xd8") for image in images)
    assert len(images) == len(stored(paths, "real/val"))
