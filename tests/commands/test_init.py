"""`seggen init`: a parameter file from a profile.

The dataset's place and classes are set, and every comment is kept.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from seggen_core.cli import main
from seggen_core.config import load_config
from seggen_core.config.params_text import set_key
from seggen_core.datasets.open import open_project_dataset
from tests.datasets import tool_layouts
from tests.datasets.damage import SHAPES
from tests.datasets.layouts import WRITERS
from tests.datasets.test_cross_checks import change_annotations, own_categories

ROOT = Path(__file__).parents[2]


def init(project: Path, *arguments: str) -> int:
    return main(["--params", str(project / "params.yaml"), "init", *arguments])


@pytest.mark.parametrize("name", WRITERS)
def test_every_dataset_gets_a_file_that_works(
    project: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    """Also with four training samples, where the profiles hold out 37 to 500."""
    is_own = name == "folder" or name in tool_layouts.WRITERS
    profile = name if (project / "profiles" / name).is_dir() else "ade20k"
    profile = "own_cpu" if is_own else profile
    data = project / "my data" / name
    data.mkdir(parents=True)
    WRITERS[name](data)
    if name == "mapillary":  # eight classes are more than one tiny map has
        assert (data / "config.json").is_file()
    more = ("--set", "use_sbd=false") if name == "voc2012" else ()
    more = (*more, "--gpu-memory", "0")
    assert init(project, "--root", str(data), *more) == 0
    text = capsys.readouterr().out
    assert f"is laid out for the reader {name}" in text
    assert ("what no shape covers is ignored; --set background=" in text) == (name in SHAPES)
    assert init(project, "--force", "--dataset", name, "--root", str(data), *more) == 0
    config = load_config(project / "params.yaml")
    place = Path(f"my data/{name}")
    assert (config.dataset.name, config.dataset.root, config.dataset.reads) == (name, place, place)
    assert f"with the profile {profile}" in capsys.readouterr().out
    before = yaml.safe_load((project / "profiles" / profile / "params.yaml").read_text())
    after = yaml.safe_load((project / "params.yaml").read_text())
    fitted = {"text2mask", "mask2img", "masksyn", "imgsyn", "train_seg"} if is_own else set()
    assert {k for k in before if before[k] != after[k]} <= {"dataset", "classes"} | fitted
    changed = {k for k in after["dataset"] if after["dataset"][k] != before["dataset"].get(k)}
    of_dataset = {"name", "root", "reads", "num_val", "subset_size", "use_sbd"}
    of_dataset |= {"subset_seeds"} if is_own else set()
    assert changed <= (
        of_dataset if name == profile else of_dataset | {"splits", "keep_val_in_train"}
    )
    text = (project / "params.yaml").read_text()
    if name == profile:
        lines = (project / "profiles" / profile / "params.yaml").read_text().splitlines()
        comments = [line for line in lines if line.strip()[:1] == "#"]
        assert set(comments) <= set(text.splitlines())
    else:
        assert "ADE20K" not in text and "20,210" not in text and "are not public" not in text


def write_folder(root: Path, *, train: int, val: int, test: int) -> Path:
    """A dataset of the layout "folder" with two classes and as many samples; 0 is no folder."""
    for split, count in {"train": train, "val": val, "test": test}.items():
        for i in range(count):
            for kind, suffix in (("images", "jpg"), ("masks", "png")):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                shape = (16, 16, 3) if kind == "images" else (16, 16)
                pixels = np.full(shape, i % 2, np.uint8)
                Image.fromarray(pixels).save(root / kind / split / f"{split}{i}.{suffix}")
    (root / "classes.csv").write_text("id,name,is_thing\n0,wall,no\n1,chair,yes\n")
    return root


@pytest.mark.parametrize(
    "sizes, splits, counts",
    [
        ((10, 3, 3), "published", "train 10, val 3, test 3"),
        ((10, 0, 3), "val_from_train", "train 9, val 1, test 3"),
        ((10, 3, 0), "val_as_test", "train 9, val 1, test 3"),
        ((10, 0, 0), "all_from_train", "train 8, val 1, test 1"),
    ],
)
def test_the_users_own_splits_are_taken(
    project: Path,
    sizes: tuple[int, int, int],
    splits: str,
    counts: str,
    capsys: pytest.CaptureFixture,
) -> None:
    train, val, test = sizes
    root = write_folder(project / "ds", train=train, val=val, test=test)
    assert init(project, "--dataset", "folder", "--root", str(root)) == 0
    assert f"folder ({counts} samples, 2 classes)" in capsys.readouterr().out
    config = load_config(project / "params.yaml")
    assert config.dataset.splits == splits and config.classes == ("wall", "chair")
    reader = open_project_dataset(config, base=project)
    keys = {split: set(reader.keys(split)) for split in ("train", "val", "test")}
    assert not keys["train"] & keys["val"] and not keys["train"] & keys["test"]
    if test:
        assert keys["test"] == {f"test{i}" for i in range(test)}, "the user's own test split"


def test_images_beside_folders_of_splits_are_not_lost_in_silence(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    root = write_folder(project / "ds", train=10, val=3, test=3)
    shutil.copy(root / "images" / "train" / "train0.jpg", root / "images" / "loose.jpg")
    assert init(project, "--dataset", "folder", "--root", str(root)) == 0
    notes = open_project_dataset(load_config(project / "params.yaml"), base=project).notes
    assert any("1 image(s) in images are in no split" in note for note in notes)
    # Without a folder train, the images of val would be trained on.
    for kind in ("images", "masks"):
        for file in (root / kind / "train").iterdir():
            file.rename(root / kind / file.name)
        (root / kind / "train").rmdir()
    assert init(project, "--dataset", "folder", "--root", str(root), "--force") == 2
    assert "has folders of splits and none for train" in capsys.readouterr().err


def test_a_mistyped_reader_is_said_to_be_one(project: Path, capsys: pytest.CaptureFixture) -> None:
    assert init(project, "--dataset", "fodler", "--root", str(project)) == 2
    assert "no reader 'fodler'; did you mean folder?" in capsys.readouterr().err


def test_folders_without_splits_are_one_training_split(project: Path) -> None:
    root = write_folder(project / "ds", train=10, val=0, test=0)
    for kind in ("images", "masks"):
        for file in (root / kind / "train").iterdir():
            file.rename(root / kind / file.name)
        (root / kind / "train").rmdir()
    assert init(project, "--dataset", "folder", "--root", str(root)) == 0
    reader = open_project_dataset(load_config(project / "params.yaml"), base=project)
    assert [len(reader.keys(split)) for split in ("train", "val", "test")] == [8, 1, 1]


def test_init_takes_what_the_section_dataset_takes(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    root = write_folder(project / "ds", train=10, val=3, test=3)
    (root / "classes.csv").rename(root / "labels.csv")
    (root / "images" / "train").rename(root / "photos")
    (root / "some.txt").write_text("train0\ntrain1\ntrain2\n")
    arguments = ["--dataset", "folder", "--root", str(root)]
    assert init(project, *arguments) == 2
    message = capsys.readouterr().err
    assert "nothing was written" in message and "--set KEY=VALUE" in message
    assert not (project / "params.yaml").exists()
    for setting in (
        "classes_file=labels.csv",
        "files.train={images: photos, masks: masks/train, keys: some.txt}",
        "dataset.image_size=256",
        "files.val.images=images/val",
    ):
        arguments += ["--set", setting]
    assert init(project, *arguments) == 0
    assert "train 3, val 3, test 3" in capsys.readouterr().out
    config = load_config(project / "params.yaml").dataset
    assert config.image_size == 256 and config.classes_file == "labels.csv"
    assert config.files["train"].images == "photos" and config.files["val"].images == "images/val"


@pytest.mark.parametrize(
    "setting, words",
    [
        ("image_size=50", "dataset.image_size is 50; expected a multiple of 8"),
        ("image_sise=64", "dataset.image_sise: unknown key; known here:"),
        ("reads=elsewhere", "so that DVC notices when files of the dataset change"),
    ],
)
def test_what_is_impossible_is_said_at_once(
    project: Path, setting: str, words: str, capsys: pytest.CaptureFixture
) -> None:
    root = write_folder(project / "ds", train=10, val=3, test=3)
    arguments = ("--dataset", "folder", "--root", str(root), "--set", setting)
    assert init(project, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (project / "params.yaml").exists()


def test_a_root_that_holds_the_results_is_refused(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    """DVC would watch what it makes itself."""
    assert init(project, "--dataset", "folder", "--root", str(project)) == 2
    assert "where results go" in capsys.readouterr().err


def test_nothing_is_replaced_unless_asked(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "params.yaml").write_text("mine: true\n")
    WRITERS["camvid"](project / "ds")
    arguments = ("--dataset", "camvid", "--root", str(project / "ds"))
    assert init(project, *arguments) == 2
    assert "exists; --force replaces it" in capsys.readouterr().err
    assert (project / "params.yaml").read_text() == "mine: true\n"
    assert init(project, *arguments, "--force") == 0
    assert load_config(project / "params.yaml").profile == "camvid"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--dataset", "imagenet", "--root", "."), "there is no reader 'imagenet'"),
        (("--dataset", "ade20k"), "give its folder as --root"),
        (("--dataset", "ade20k", "--root", "nowhere"), "is not a folder"),
        (("--dataset", "camvid", "--root", "."), "is missing"),
    ],
)
def test_what_can_not_be_opened_is_not_written(
    project: Path, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert init(project, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (project / "params.yaml").exists()


def test_scenes_need_no_root(project: Path) -> None:
    assert init(project, "--dataset", "scenes") == 0
    assert (project / "params.yaml").read_text() == (
        ROOT / "profiles" / "scenes" / "params.yaml"
    ).read_text()


def test_a_key_is_set_where_it_is_and_nowhere_else() -> None:
    text = (
        "a: 1\nclasses: [x,\n  y]\n\ndataset:\n  # where\n  root: null # here\n  name: q\n"
        "other:\n  root: 5\n"
    )
    changed = set_key(set_key(text, "root", 'a "b" ü', section="dataset"), "classes", ["z"])
    assert yaml.safe_load(changed) == {
        "a": 1,
        "classes": ["z"],
        "dataset": {"root": 'a "b" ü', "name": "q"},
        "other": {"root": 5},
    }
    assert "  # where\n" in changed
    assert (
        yaml.safe_load(set_key("dataset:\n  name: q\n", "root", "x", section="dataset"))["dataset"][
            "root"
        ]
        == "x"
    )


@pytest.mark.parametrize("name", ["coco_panoptic", "coco_instance"])
def test_categories_of_the_users_own_become_the_classes(project: Path, name: str) -> None:
    data = project / "mine"
    data.mkdir()
    WRITERS[name](data)
    change_annotations(data, own_categories)
    assert init(project, "--dataset", name, "--root", str(data)) == 0
    config = load_config(project / "params.yaml")
    assert {"crack", "rust"} <= set(config.classes)
    assert "bicycle" not in config.classes
    open_project_dataset(config, base=project)
    assert config.profile in ("own", "own_cpu"), "COCO's recipe is for 118,287 images"
    assert init(project, "--dataset", name, "--root", str(data), "--force", "--profile", name) == 0
    assert load_config(project / "params.yaml").profile == name


TEST_PLACES = {
    "camvid": ("test", "testannot"),
    "coco_instance": ("test2017", "annotations/instances_test2017.json"),
    "coco_panoptic": (
        "test2017",
        "annotations/panoptic_test2017.json",
        "annotations/panoptic_test2017",
    ),
    "coco_stuff": ("test2017", "stuffthingmaps/test2017"),
    "ade20k": ("images/testing", "annotations/testing"),
    "mapillary": ("testing",),
    "cityscapes": ("leftImg8bit/test", "gtFine/test"),
}
VALIDATION_NAMES = {"ade20k": "validation", "mapillary": "validation"}


def _copy_val_to_test(data: Path, name: str) -> None:
    val = VALIDATION_NAMES.get(name, "val")
    for place in TEST_PLACES[name]:
        test = "testing" if "testing" in place else "test"
        source, target = data / place.replace(test, val), data / place
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target)


@pytest.mark.parametrize("name", TEST_PLACES)
def test_a_test_split_with_labels_is_the_test_split_in_every_layout(
    project: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    data = project / "ds"
    WRITERS[name](data)
    _copy_val_to_test(data, name)
    arguments = ("--dataset", name, "--root", str(data))
    assert init(project, *arguments) == 0
    assert "(train 3, val 2, test 2 samples" in capsys.readouterr().out
    dataset = load_config(project / "params.yaml").dataset
    assert (dataset.splits, dataset.keep_val_in_train) == ("published", False)

    # What the user says counts.
    more = ("--force", "--set", "splits=val_as_test")
    assert init(project, *arguments, *more) == 0
    assert load_config(project / "params.yaml").dataset.splits == "val_as_test"

    # A test split without labels is none.
    shutil.rmtree(project / "ds")
    WRITERS[name](data)
    _copy_val_to_test(data, name)
    for place in TEST_PLACES[name][1:] or ("testing/labels",):
        if (data / place).is_dir():
            shutil.rmtree(data / place)
        else:
            (data / place).unlink()
    assert init(project, *arguments, "--force") == 0
    assert load_config(project / "params.yaml").dataset.splits == "val_as_test"


@pytest.mark.parametrize("name", ["coco_instance", "coco_panoptic"])
def test_coco_files_without_val_are_split(
    project: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    data = project / "ds"
    WRITERS[name](data)
    change_annotations(data, own_categories)
    for path in (*data.glob("annotations/*val2017.json"), data / "annotations" / "x"):
        path.unlink(missing_ok=True)
    assert init(project, "--dataset", name, "--root", str(data)) == 0
    out = capsys.readouterr().out
    assert "(train 1, val 1, test 1 samples, 4 classes)" in out
    assert "note: val and test come out of train, because " in out and "val2017.json is" in out
    text = (project / "params.yaml").read_text()
    assert (
        "SegGen" not in text.partition("captions:")[0]
        and "the paper" not in text.partition("captions:")[0]
    )
    assert "all_from_train" in text
