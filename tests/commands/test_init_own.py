"""`seggen init` on the user's own data: steps, samples and seeds from the number of images."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seggen_core.cli import main
from seggen_core.commands.init_own import own_settings
from seggen_core.config import load_config
from seggen_core.config.params_text import set_path
from seggen_core.datasets.build import build_dataset
from seggen_core.datasets.open import open_project_dataset
from seggen_core.datasets.scan_masks import scan_classes
from seggen_core.errors import DatasetError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "project"
    for path in ROOT.glob("profiles/own*/params.yaml"):
        (folder / "profiles" / path.parent.name).mkdir(parents=True)
        shutil.copy(path, folder / "profiles" / path.parent.name)
    return folder


def write(folder: Path, count: int, *, split: str = "") -> None:
    """Write photos of 24 x 16 and masks of the ids 0, 1 and 2."""
    for kind in ("photos", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        mask = np.zeros((16, 24), np.uint8)
        mask[8:], mask[4:12, i % 20 :][:, :6] = 1, 2
        image = np.array([[200, 190, 180], [90, 60, 40], [20, 90, 160]])[mask]
        image = image + np.random.default_rng(i).integers(0, 40, image.shape)
        name = f"im{i:04d}"
        Image.fromarray(image.astype(np.uint8)).save(folder / "photos" / split / f"{name}.jpg")
        Image.fromarray(mask).save(folder / "labels" / split / f"{name}.png")


def init(project: Path, *arguments: str) -> int:
    data = project.parent / "data"
    folders = ["--images", str(data / "photos"), "--masks", str(data / "labels")]
    return main(["--params", str(project / "params.yaml"), "init", *folders, *arguments])


@pytest.mark.parametrize("count", [10, 60, 300])
@pytest.mark.parametrize("gpu", ["0", "24"])
def test_a_flat_folder_becomes_a_project_that_fits(
    project: Path, count: int, gpu: str, capsys: pytest.CaptureFixture
) -> None:
    write(project.parent / "data", count)
    assert init(project, "--gpu-memory", gpu) == 0
    config = load_config(project / "params.yaml")
    splits = {10: (8, 1, 1), 60: (49, 5, 6), 300: (243, 27, 30)}[count]
    assert "train {}, val {}, test {} samples".format(*splits) in capsys.readouterr().out
    assert config.profile == ("own_cpu" if gpu == "0" else "own")
    assert {"baseline", "shuffled", "masksyn_imgsyn"} <= set(config.variants)
    assert config.classes == ("background", "class_1", "class_2")
    assert config.dataset.subset_size is None, "generators and segmenters see the same samples"
    assert (config.text2mask.lora is not None) == (gpu == "24")
    for command in ("validate", "plan"):
        assert main(["--params", str(project / "params.yaml"), command]) == 0
    text = capsys.readouterr().out
    assert "no problems" in text and f"plan of the profile {config.profile}" in text
    reader = open_project_dataset(config, base=project)
    build_dataset(reader, config=config, folder=project / "real", log_metrics=lambda _: None)


def test_settings_grow_with_the_data_and_end_somewhere() -> None:
    counts = (8, 48, 240, 1000, 10_000, 100_000)
    for gpu_gb in (None, 12, 24, 80):
        steps = [own_settings(n, gpu_gb=gpu_gb)["text2mask", "num_steps"] for n in counts]
        common = ("train_seg", "common", "num_steps")
        segmenter = [own_settings(n, gpu_gb=gpu_gb)[common] for n in counts]
        samples = [own_settings(n, gpu_gb=gpu_gb)["masksyn", "samples_per_source"] for n in counts]
        assert max(steps) <= 30_000 and min(steps) >= 600
        assert segmenter == sorted(segmenter) and max(segmenter) <= 40_000
        assert samples == sorted(samples, reverse=True) and samples[0] == 20 and samples[-1] == 1
    assert own_settings(240, gpu_gb=80)["text2mask", "lora"] is None
    assert ("text2mask", "lora") not in own_settings(240, gpu_gb=24)


def test_splits_and_a_class_list_are_taken(project: Path, capsys: pytest.CaptureFixture) -> None:
    data = project.parent / "data"
    for split, count in (("train", 9), ("valid", 2), ("test", 3)):
        write(data, count, split=split)
    (data / "classes.csv").write_text("id,name\n0,wall\n1,floor\n2,chair\n")
    assert init(project, "--gpu-memory", "0") == 0
    assert "train 9, val 2, test 3" in capsys.readouterr().out
    config = load_config(project / "params.yaml")
    assert config.classes == ("wall", "floor", "chair") and not config.dataset.class_list
    # A list in the parameters has to agree with the file.
    text = (project / "params.yaml").read_text()
    rows = [{"id": i, "name": n} for i, n in enumerate(("wall", "floor", "table"))]
    (project / "params.yaml").write_text(set_path(text, ("dataset", "class_list"), rows))
    assert main(["--params", str(project / "params.yaml"), "validate"]) == 2
    assert "differ: id 2 is table and chair" in capsys.readouterr().err


def move(folder: Path, name: str, to: str) -> None:
    (folder / name).rename(folder / to)


def rename_all(data: Path, *names: str) -> None:
    for kind in ("photos", "labels"):
        for split, name in zip(("train", "val", "test"), names, strict=True):
            move(data, f"{kind}/{split}", f"{kind}/{name}")


def rename_train(data: Path) -> None:
    for kind in ("photos", "labels"):
        move(data, f"{kind}/train", f"{kind}/rest")


def remove_masks_of_test(data: Path) -> None:
    shutil.rmtree(data / "labels" / "test")


def loosen_one_image(data: Path) -> None:
    (data / "photos" / "train" / "im0000.jpg").rename(data / "photos" / "loose.jpg")
    (data / "labels" / "train" / "im0000.png").unlink()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda data: move(data, "photos/val", "photos/valid"), "train 9, val 2, test 3"),
        (lambda data: move(data, "labels/train", "labels/training"), "train 9, val 2, test 3"),
        (lambda data: rename_all(data, "Train", "Valid", "TEST"), "train 9, val 2, test 3"),
        (lambda data: rename_all(data, "trn", "dev", "x"), "(dev, trn, x) are called as no split"),
        (remove_masks_of_test, "photos/test has no masks and isn't read"),
        (loosen_one_image, "photos holds 1 more beside the splits, which isn't read"),
        (lambda data: move(data, "labels/val", "labels/extra"), "photos/val has no counterpart in"),
        (lambda data: move(data, "photos/val", "photos/extra"), "labels/val has no counterpart in"),
        (
            lambda data: [move(data, f"{k}/train", f"{k}/rest") for k in ("photos", "labels")],
            "none",
        ),
    ],
)
def test_no_split_disappears_in_silence(
    project: Path, change: Callable[[Path], object], words: str, capsys: pytest.CaptureFixture
) -> None:
    data = project.parent / "data"
    for split, count in (("train", 9), ("val", 2), ("test", 3)):
        write(data, count, split=split)
    change(data)
    code = init(project, "--gpu-memory", "0")
    out, err = capsys.readouterr()
    assert words in (err if code else out)
    if code:
        assert "train" in err and not (project / "params.yaml").exists()


def test_data_without_a_sound_sample_make_no_project(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    data = project.parent / "data"
    write(data, 10)
    for path in (data / "photos").iterdir():
        Image.open(path).save(path.with_suffix(".webp"))
        path.unlink()
    assert init(project, "--gpu-memory", "0") == 2
    message = capsys.readouterr().err
    assert "none of 8 training samples that were tried can be read" in message
    assert ".webp (.webp is no suffix that is read for images)" in message
    assert "nothing was written" in message and not (project / "params.yaml").exists()


def test_masks_of_one_file_a_class_need_a_list(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    data = project.parent / "data"
    write(data, 10)
    for path in sorted((data / "labels").iterdir()):
        mask = np.asarray(Image.open(path))
        for value in (1, 2):
            place = data / "labels" / f"c{value}" / path.name
            place.parent.mkdir(exist_ok=True)
            Image.fromarray((mask == value).astype(np.uint8) * 255).save(place)
        path.unlink()
    assert init(project, "--gpu-memory", "0") == 2
    assert "list the classes in a file (classes.csv)" in capsys.readouterr().err
    (data / "classes.csv").write_text("id,name\n1,c1\n2,c2\n")
    assert init(project, "--gpu-memory", "0") == 0


def test_a_list_of_another_name_is_named_or_noted(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    data = project.parent / "data"
    write(data, 10)
    (data / "classes.txt").write_text("wall\nfloor\nchair\n")
    assert init(project, "--gpu-memory", "0") == 0
    assert "--set classes_file=classes.txt" in capsys.readouterr().out
    more = ("--force", "--set", "classes_file=classes.txt")
    assert init(project, "--gpu-memory", "0", *more) == 0
    assert load_config(project / "params.yaml").classes == ("wall", "floor", "chair")


def test_masks_beside_the_images_and_two_places_that_share_nothing(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    data = project.parent / "data"
    write(data, 10)
    for path in (data / "labels").iterdir():
        path.rename(data / "photos" / f"{path.stem}_mask.png")
    arguments = ["--params", str(project / "params.yaml"), "init", "--gpu-memory", "0"]
    both = ["--images", str(data / "photos"), "--masks", str(data / "photos")]
    assert main([*arguments, *both]) == 0
    assert "train 8, val 1, test 1 samples, 3 classes" in capsys.readouterr().out
    for wrong, words in (
        (["--images", str(data)], "--images and --masks go together"),
        ([*both, "--root", str(data)], "leave --root out"),
        (["--images", str(data / "x"), "--masks", str(data)], "is not a folder"),
        (["--images", "/usr/bin", "--masks", "/etc/ssl"], "have only / in common"),
        ([*both[:2], "--masks", str(data / "labels")], "holds no masks"),
    ):
        assert main([*arguments, "--force", *wrong]) == 2
        assert words in capsys.readouterr().err


def test_a_segmenter_is_a_folder_a_repository_or_none(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    write(project.parent / "data", 10)
    folder = project / "mine"
    folder.mkdir()
    assert init(project, "--gpu-memory", "24", "--segmenter", str(folder)) == 0
    assert load_config(project / "params.yaml").train_seg.mask2former.source == str(folder)
    assert init(project, "--force", "--gpu-memory", "24", "--segmenter", "none") == 0
    assert load_config(project / "params.yaml").train_seg.mask2former.source is None
    assert init(project, "--force", "--gpu-memory", "24") == 0
    assert "trained from scratch, since the Hub can't be asked for" in capsys.readouterr().out
    assert init(project, "--force", "--gpu-memory", "24", "--segmenter", "some/repository") == 2
    assert "the Hub can't be asked for its commit" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        init(project, "--force", "--gpu-memory", "x")


def masks(folder: Path, *values: object) -> list[Path]:
    paths = []
    for i, value in enumerate(values):
        folder.mkdir(exist_ok=True)
        paths.append(folder / f"{i}.png")
        Image.fromarray(np.array(value, np.uint8)).save(paths[-1])
    return paths


def test_classes_are_the_values_of_the_masks(tmp_path: Path) -> None:
    rows = scan_classes(masks(tmp_path / "a", [[0, 255]], [[0, 0]]))
    assert [(row["id"], row["name"]) for row in rows] == [(0, "background"), (255, "object")]
    rows = scan_classes(masks(tmp_path / "b", [[0, 1]], [[2, 255]]))
    assert [row["id"] for row in rows] == [0, 1, 2], "255 among ids is unlabelled"
    for levels in ([0, 128], [0, 85, 170]):
        paths = masks(tmp_path / f"l{len(levels)}", [levels], [[255] * len(levels)])
        assert [row["id"] for row in scan_classes(paths)] == [*levels, 255], "levels of grey"
    rows = scan_classes(masks(tmp_path / "c", [[[0, 0, 0], [9, 8, 7]]], [[[1, 2, 3], [0, 0, 0]]]))
    assert [row["color"] for row in rows] == [[0, 0, 0], [1, 2, 3], [9, 8, 7]]
    rows = scan_classes(masks(tmp_path / "d", [[[0, 0, 0], [9, 9, 9]]]))
    assert [row["id"] for row in rows] == [0, 9]
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    with pytest.raises(DatasetError, match="hold more than 255 values"):
        scan_classes(masks(tmp_path / "e", noise))
    with pytest.raises(DatasetError, match="some masks hold colours and others ids"):
        scan_classes(masks(tmp_path / "f", [[0, 1]], [[[1, 2, 3], [0, 0, 0]]]))


def test_palettes_that_number_colours_as_they_meet_them_are_refused(tmp_path: Path) -> None:
    for i, colors in enumerate(([0, 0, 0, 200, 0, 0], [0, 0, 0, 0, 200, 0])):
        image = Image.fromarray(np.eye(20, dtype=np.uint8))
        image.putpalette(colors)
        image.save(tmp_path / f"{i}.png")
    with pytest.raises(DatasetError, match=r"1 is \(200, 0, 0\) in the palette of .*0\.png, but"):
        scan_classes(sorted(tmp_path.glob("*.png")))


@pytest.mark.parametrize("kind", ["ids", "colours"])
def test_mixtures_of_classes_are_no_classes(tmp_path: Path, kind: str) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[8:30, 10:40], mask[20:44, 30:60] = 1, 2
    values = np.array([[0, 0, 0], [200, 40, 40], [40, 60, 200]], np.uint8)[mask]
    sharp = Image.fromarray(values if kind == "colours" else values[..., 0])
    (tmp_path / "a").mkdir()
    sharp.save(tmp_path / "a" / "0.png")
    assert len(scan_classes([tmp_path / "a" / "0.png"])) == 3
    # Every way to change sizes but the nearest neighbour mixes.
    sharp.resize((90, 70), Image.Resampling.NEAREST).save(tmp_path / "a" / "1.png")
    assert len(scan_classes([tmp_path / "a" / "1.png"])) == 3
    for index, (size, way) in enumerate(
        [((90, 70), "BILINEAR"), ((90, 70), "BICUBIC"), ((40, 30), "LANCZOS"), ((40, 30), "BOX")]
    ):
        path = tmp_path / "a" / f"m{index}.png"
        sharp.resize(size, Image.Resampling[way]).save(path)
        with pytest.raises(DatasetError, match="hold mixtures"):
            scan_classes([path])


def test_thin_classes_are_classes(tmp_path: Path) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[16:], mask[:, 5] = 1, 2  # a crack of one pixel
    Image.fromarray(mask).save(tmp_path / "0.png")
    assert [row["id"] for row in scan_classes([tmp_path / "0.png"])] == [0, 1, 2]


def test_set_path_keeps_comments_and_everything_else() -> None:
    text = "a:\n  b: # here\n    c: 1 # why\n    d: {e: 2}\n  f: 3\ng: [1,\n  2]\nh: 4\n"
    assert set_path(text, ("a", "b", "c"), 9) == text.replace("c: 1 # why", "c: 9 # why")
    assert set_path(text, ("a", "b", "new"), "x") == text.replace("here\n", 'here\n    new: "x"\n')
    assert set_path(text, ("g",), None) == text.replace("[1,\n  2]", "null")
    assert set_path(text, ("a", "f"), True) == text.replace("f: 3", "f: true")
