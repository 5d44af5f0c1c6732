"""A list of words as a dataset: from `seggen init --words` to a segmenter, without a real image."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dvc.repo import Repo
from PIL import Image

from seggen_core.cli import main
from seggen_core.commands.pipeline_text import installed_pipeline, words_pipeline
from seggen_core.config import load_config
from seggen_core.config.load import check_config
from seggen_core.datasets.open import open_project_dataset
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore

ROOT = Path(__file__).parent.parent
LIST = "car: house\nbus\n"
STEPS = ("dataset", "check_dataset", "foundation", "seediff", "diffumask")
STEPS += ("check_synthetic", "train_seg")


@pytest.fixture
def new(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a project with a list of words and returns its folder."""

    def make(name: str, *options: str, text: str = LIST, file: str = "words.txt") -> Path:
        folder = tmp_path / name
        assert main(["new", str(folder)]) == 0
        (folder / file).write_text(text)
        assert init(folder, *options, file=file) == 0
        return folder

    return make


def init(folder: Path, *options: str, file: str = "words.txt") -> int:
    params = str(folder / "params.yaml")
    return main(["--params", params, "init", "--force", "--words", str(folder / file), *options])


def profile() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((ROOT / "profiles/words/params.yaml").read_text())
    return tree


# Lists


@pytest.mark.parametrize(
    "file, text",
    [
        ("words.txt", "car\nperson: man, woman\n\n# stuff\n"),
        ("words.csv", 'name,synonyms\ncar,\nperson,"man, woman"\n'),
        ("words.csv", "id;name;synonyms\n7;car;\n9;person;man|woman\n"),
        ("words.json", '["car", {"name": "person", "synonyms": ["man", "woman"]}]'),
    ],
)
def test_every_form_of_a_list_is_read(new: Callable[..., Path], file: str, text: str) -> None:
    folder = new("mine", file=file, text=text)
    config = load_config(folder / "params.yaml")
    assert config.classes == ("car", "person")
    assert config.dataset.classes_file == str(config.dataset.reads) == file
    reader = open_project_dataset(config, base=folder)
    assert [c.name for c in reader.taxonomy] == ["background", "car", "person"]
    assert [c.is_thing for c in reader.taxonomy] == [False, True, True]
    assert reader.synonyms == {"person": ("man", "woman")}  # type: ignore[attr-defined]


def test_stuff_has_no_background(new: Callable[..., Path]) -> None:
    rows = "name,is_thing,color\nsky,no,0 0 255\ncar,yes,255 0 0\n"
    config = load_config(new("mine", file="words.csv", text=rows) / "params.yaml")
    assert config.dataset.background is None and config.classes == ("sky", "car")
    assert config.seediff.ignore_background
    assert config.diffumask is not None and config.diffumask.ignore_background


def test_colours_and_a_background_of_the_list_are_kept(new: Callable[..., Path]) -> None:
    rows = "name,color\nbackground,9 9 9\ncar,255 0 0\nbus,0 0 0\n"
    for text, first in ((rows, [9, 9, 9]), (rows.replace("background,9 9 9\n", ""), [0, 0, 255])):
        folder = new(f"p{len(text)}", file="words.csv", text=text)
        config = load_config(folder / "params.yaml")
        reader = open_project_dataset(config, base=folder)
        assert reader.palette.tolist() == [first, [255, 0, 0], [0, 0, 0]]
        assert config.classes == ("car", "bus")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no word; expected a class a line"),
        ("car, bus, person\n", "has the line 'car, bus, person'; expected a class a line"),
        ("car\nbus: coach, Car\n", "'Car' among the synonyms of 'bus', but it stands for 'car'"),
        ("car: auto\nbus: auto\n", "'auto' among the synonyms of 'bus', but it stands for 'car'"),
        ("car\nCar\n", "share the slug 'car'"),
        ("car: man,,woman\n", "expected words: man, woman, people"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_message(
    new: Callable[..., Path], text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = new("mine")
    before = (folder / "params.yaml").read_text()
    (folder / "words.txt").write_text(text)
    assert init(folder, "--set", "background=null") == 2
    assert message in capsys.readouterr().err
    assert (folder / "params.yaml").read_text() == before


@pytest.mark.parametrize(
    "options, message",
    [
        (["--root", "photos"], "--root can't be used with it"),
        (["--dataset", "voc2012"], "--dataset voc2012 can't be used with it"),
        (["--revision", "0" * 40], "name it as --model"),
        (["--model", "./nope"], "neither a folder nor a repository"),
        (["--model", "me/sd"], "the Hub can't be asked for its commit"),
    ],
)
def test_options_that_do_not_go_with_words(
    new: Callable[..., Path],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = new("mine")
    assert init(folder, *options) == 2
    assert message in capsys.readouterr().err
    params = str(folder / "params.yaml")
    assert main(["--params", params, "init", "--force", "--dataset", "words"]) == 2
    assert "--words FILE" in capsys.readouterr().err


# Parameters


def test_sections_of_real_images_are_refused_at_once() -> None:
    tree = profile() | {"masksyn": {"samples_per_source": 1}, "judge": {"variant": "seediff"}}
    with pytest.raises(ConfigError, match=r"read real images: masksyn, judge; remove them"):
        check_config(tree, name="params.yaml")


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("methods", ["seediff", "diffumask", "masksyn"], "methods has masksyn, which start"),
        ("variants.seediff.real", "subset", "the arms seediff train on real samples"),
        ("dataset.num_train", 5, "dataset.num_train say something of images"),
        ("dataset.class_list", [], "in dataset.classes_file or in dataset.class_list"),
        ("train_seg.common.validate_every", 10, "there is nothing to validate with"),
        ("train_seg.hrnet.class_balance", 0.5, "it counts the pixels of real samples"),
        ("dataset.reads", "data", "expected reads: data/code/none.json"),
    ],
)
def test_what_needs_real_images_is_refused_when_parameters_are_read(
    path: str, value: Any, message: str
) -> None:
    tree = profile()
    *sections, key = path.split(".")
    section = tree
    for name in sections:
        section = section[name]
    section[key] = value
    if path == "variants.seediff.real":
        section["strategy"] = "replace"
    with pytest.raises(ConfigError) as caught:
        check_config(tree, name="params.yaml")
    assert message in str(caught.value)


def test_training_images_are_no_foundation() -> None:
    tree = profile()
    pretrain = {"data": "training_images", "init_from": "profiles/scenes/foundation"}
    tree["foundation"] = {"mode": "pretrain", "pretrain": pretrain}
    with pytest.raises(ConfigError, match=r"foundation\.pretrain\.data is training_images"):
        check_config(tree, name="params.yaml")


# The pipeline


def test_the_pipeline_has_the_stages_that_can_run(new: Callable[..., Path]) -> None:
    folder = new("mine")
    with Repo(str(folder)) as repo:
        stages = {stage.name: stage for stage in repo.index.stages}
    groups = {name.partition("@")[0] for name in stages}
    assert groups == {"code", *STEPS}
    outputs = {out.def_path for stage in stages.values() for out in stage.outs}
    for stage in stages.values():
        for dep in (dep.def_path for dep in stage.deps):
            inside = any(m.startswith(f"{dep}/") or dep.startswith(f"{m}/") for m in outputs)
            assert dep in outputs or inside or (folder / dep).exists(), f"{stage.name} reads {dep}"


def test_another_dataset_brings_the_stages_back(
    new: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = new("mine")
    params = str(folder / "params.yaml")
    whole = installed_pipeline((ROOT / "dvc.yaml").read_text())
    assert (folder / "dvc.yaml").read_text() == words_pipeline(whole)
    assert main(["--params", params, "init", "--force", "--dataset", "scenes"]) == 0
    assert (folder / "dvc.yaml").read_text() == whole
    capsys.readouterr()
    assert init(folder) == 0
    assert "without the stages that read real images" in capsys.readouterr().out
    assert main(["new", str(folder), "--update"]) == 0
    assert (folder / "dvc.yaml").read_text() == words_pipeline(whole), "an update keeps the choice"
    (folder / "dvc.yaml").write_text("stages: {}\n")
    capsys.readouterr()
    assert init(folder) == 0
    assert (folder / "dvc.yaml").read_text() == "stages: {}\n", "what somebody wrote stays"
    assert "is left as it is" in capsys.readouterr().out


# A run


def shorten(params: Path) -> None:
    """One or two steps of everything."""
    tree = yaml.safe_load(params.read_text())
    sampling = {"num_inference_steps": 2, "micro_batch_size": 2, "precision": "fp32"}
    masks = {"samples_per_class": 2, "min_mask_area": 0.0, "max_mask_area": 1.0}
    tree["seediff"] |= masks | {"sampling": sampling, "pamr": False}
    tree["diffumask"] |= masks | {"sampling": sampling, "pamr": False}
    tree["diffumask"] |= {"affinity_net": None, "noise_learning": None}
    tree["foundation"]["preview"] = sampling
    tree["train_seg"]["common"] |= {"num_steps": 2, "batch_size": 2, "warmup_steps": 1}
    tree["checks"] |= {"min_edge_agreement": 0, "min_class_share": 0, "max_class_share": 1}
    del tree["variants"]["diffumask"]
    params.write_text(yaml.safe_dump(tree, sort_keys=False))


def run_all(folder: Path) -> None:
    """Run the stages as DVC orders them; each has to find its deps and leave its outs."""
    config, paths = load_config(folder / "params.yaml"), ProjectPaths(folder)
    with Repo(str(folder)) as repo:
        stages = list(repo.index.stages)
    order = sorted(
        stages, key=lambda s: STEPS.index(s.name.partition("@")[0]) if s.name != "code" else -1
    )
    for stage in order:
        name, _, item = stage.name.partition("@")
        if name == "code":
            assert main(["--params", str(folder / "params.yaml"), "code"]) == 0
            assert all((folder / out.def_path).exists() for out in stage.outs)
            continue
        deps = [dep.def_path for dep in stage.deps]
        missing = [dep for dep in deps if not (folder / dep).exists()]
        assert not missing, f"{stage.name} reads {missing}"
        module = importlib.import_module(f"seggen_core.stages.{name}")
        module.run(config, paths=paths, item=item or None)
        assert all((folder / out.def_path).exists() for out in stage.outs), stage.name


@pytest.fixture(scope="module")
def finished(tiny_foundation_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the tiny pipeline in which every stage has run."""
    folder = tmp_path_factory.mktemp("words") / "project"
    assert main(["new", str(folder)]) == 0
    shutil.copytree(tiny_foundation_folder, folder / "model")
    (folder / "words.txt").write_text(LIST)
    assert init(folder, "--model", str(folder / "model")) == 0
    shorten(folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "disk")
        run_all(folder)
    return folder


def test_a_model_brings_its_own_sizes(finished: Path) -> None:
    config = load_config(finished / "params.yaml")
    assert config.dataset.image_size == 32
    assert (config.foundation.source, config.foundation.reads) == ("model", "model")
    assert config.seediff.cross_attention_resolution == 16
    assert config.seediff.cross_attention_layers is None


def test_masks_show_the_words_and_the_background(finished: Path) -> None:
    rows = json.loads((finished / "data/real/taxonomy.json").read_text())
    assert [(row["name"], row.get("synonyms")) for row in rows] == [
        ("background", None),
        ("car", ["house"]),
        ("bus", None),
    ]
    for method in ("seediff", "diffumask"):
        for train_id, slug in ((1, "car"), (2, "bus")):
            store = SampleStore(finished / "data/synthetic" / method / slug)
            assert len(store) == 2
            values = {int(v) for sample in store for v in np.unique(sample.segmentation_map)}
            assert train_id in values <= {0, train_id}
    assert store.manifest["classes"][0]["name"] == "background"


def test_segmenters_learn_from_pairs_alone(finished: Path) -> None:
    for arm in ("seediff", "seediff_diffumask"):
        folder = finished / "data/checkpoints" / arm / "seed0"
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["num_real"] == 0 and metrics["num_synthetic"]["seediff"] == 4
        assert metrics["val_miou"] is None
        assert "32x32 pixels" in (folder / "README.md").read_text()


def test_a_segmenter_is_applied_and_samples_are_shown_and_exported(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = str(finished / "params.yaml")
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    model, out = str(finished / "data/checkpoints/seediff/seed0"), str(tmp_path / "out")
    assert main(["predict", str(tmp_path / "photo.png"), "--model", model, "--out", out]) == 0
    assert list(Path(out).rglob("*.png"))
    for command in ("validate", "plan"):
        assert main(["--params", params, command]) == 0, command
    sheet = ["--out", str(tmp_path / "sheet.png")]
    assert main(["--params", params, "show", "data/synthetic/seediff/car", *sheet]) == 0
    capsys.readouterr()
    assert main(["--params", params, "show", *sheet]) == 2
    assert "no real images to show" in capsys.readouterr().err
    options = ["--to", "mmseg", "--out", str(tmp_path / "mmseg")]
    assert main(["--params", params, "export", "seediff", *options]) == 0


def test_photos_of_ones_own_score_a_segmenter_later(finished: Path) -> None:
    photos = finished / "photos"
    for kind in ("images", "masks"):
        (photos / kind).mkdir(parents=True)
    for name in ("a", "b"):
        mask = np.zeros((40, 60), np.uint8)
        mask[10:30, 10:40] = 1
        Image.fromarray(mask).save(photos / "masks" / f"{name}.png")
        image = np.random.default_rng(len(name)).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(image).save(photos / "images" / f"{name}.png")
    (photos / "classes.csv").write_text("id,name\n0,ground\n1,auto\n")
    tree = yaml.safe_load((finished / "params.yaml").read_text())
    files = {"images": "images", "masks": "masks"}  # all are test samples
    places = {"root": "photos", "reads": "photos"}
    places |= {"files": {"train": files, "val": files, "test": files}}
    tree["transfer"] = {
        "mine": {
            "arm": "seediff",
            "dataset": {"name": "folder", "fit": "stretch", "image_size": 32, **places},
            "classes": {"car": {"ours": ["car"], "theirs": ["auto"]}},
        }
    }
    params = finished / "transfer.yaml"
    params.write_text(yaml.safe_dump(tree))
    module = importlib.import_module("seggen_core.stages.transfer")
    module.run(load_config(params), paths=ProjectPaths(finished), item="mine")
    metrics = json.loads((finished / "data/reports/evaluate/mine/metrics.json").read_text())
    (scores,) = metrics["groups"].values()
    assert 0 <= scores["car"] <= 100
    assert metrics["num_images"] == 2
