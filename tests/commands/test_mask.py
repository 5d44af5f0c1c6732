"""`seggen mask`: images and masks of words, with no dataset; the shipped defaults and odd input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.cli import main
from seggen_core.datasets.class_list import read_class_file
from seggen_core.synthesis import mask_images

FAST = ("--steps", "2", "--device", "cpu")


@pytest.fixture
def mask(
    tiny_foundation_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Run the command with the tiny pipeline; return its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["mask", "--model", str(tiny_foundation_folder), *FAST, *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def contents(folder: Path, kind: str) -> dict[str, np.ndarray]:
    return {p.stem: np.asarray(Image.open(p)) for p in sorted((folder / kind).glob("*.png"))}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["seediff", "dataset-diffusion", "cross-attention", "diffumask"])
def test_every_method_writes_images_masks_and_previews(mask: Any, method: str) -> None:
    settings = ("--set", "affinity_net=null") if method == "diffumask" else ()
    code, out, _ = mask(
        "a photo of a car and a bus",
        "A PHOTO OF A CAR",
        *("--word", "car", "--word", "bus"),
        *("--num", "2", "--method", method, "--out", "new/masks", "--maps", *settings),
    )
    folder = Path("new/masks")
    names = ["a_photo_of_a_car_0", "a_photo_of_a_car_1"]
    names += ["a_photo_of_a_car_and_a_bus_0", "a_photo_of_a_car_and_a_bus_1"]
    assert code == 0 and "masks of 4 images" in out
    for kind in ("images", "masks", "previews", "maps"):
        assert list(contents(folder, kind)) == names, kind
    for name, ids in contents(folder, "masks").items():
        assert ids.shape == (32, 32) and set(np.unique(ids)) <= {0, 1, 2, 255}, name
        assert "bus" in name or 2 not in ids
    assert {row["name"]: list(row["words"]) for row in rows(folder)} == {
        name: ["car", "bus"] if "bus" in name else ["car"] for name in names
    }
    # The folder is a dataset: ids and colours of the words are beside the masks.
    table = read_class_file(folder / "classes.json")
    assert [c.name for c in table.taxonomy] == ["background", "car", "bus"]
    assert table.ignored_ids == (255,) or set(table.ignored_ids) == {255}
    assert all((p.stat().st_mode & 0o777) == 0o644 for p in folder.rglob("*.png"))


def test_other_masks_draw_no_image_and_load_no_network(
    mask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = ("a photo of a car", "--word", "car", "--out", "out")
    mask(*prompt)
    first = {kind: contents(Path("out"), kind) for kind in ("images", "masks")}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image is drawn again")

    monkeypatch.setattr(mask_images, "capture_kept", refuse)
    again = mask(*prompt)
    assert again[0] == 0 and "0 drawn" in again[1]
    assert np.array_equal(contents(Path("out"), "masks")["a_photo_of_a_car_0"],
                          first["masks"]["a_photo_of_a_car_0"])  # fmt: skip
    sizes = {}
    for name, changes in {
        "threshold": ("--threshold", "0.45"),
        "pamr": ("--threshold", "0.45", "--no-pamr"),
        "affinity": ("--set", "affinity=cosine"),
        "method": ("--method", "diffumask", "--set", "affinity_net=null"),
    }.items():
        assert mask(*prompt, *changes)[0] in (0, 1)
        assert np.array_equal(*(kind["a_photo_of_a_car_0"] for kind in (
            contents(Path("out"), "images"), first["images"])))  # fmt: skip
        sizes[name] = int(contents(Path("out"), "masks")["a_photo_of_a_car_0"].sum())
    before = int(first["masks"]["a_photo_of_a_car_0"].sum())
    assert sizes["threshold"] < before and sizes["pamr"] != sizes["threshold"]
    assert len(rows(Path("out"))) == 1


def test_an_image_depends_on_its_prompt_and_seed_alone(mask: Any) -> None:
    mask("a photo of a bus", "a photo of a car", "--word", "car", "--word", "bus", "--num", "2")
    mask("a photo of a car", "--word", "car", "--word", "bus", "--seed", "1", "--out", "alone")
    together, alone = (contents(Path(p), "images") for p in ("masks/car_bus", "alone"))
    assert np.array_equal(alone["a_photo_of_a_car_1"], together["a_photo_of_a_car_1"])
    assert not np.array_equal(alone["a_photo_of_a_car_1"], together["a_photo_of_a_car_0"])
    mask("a photo of a car", "--word", "car", "--seed", "1", "--negative", "a bus", "--out", "less")
    less = contents(Path("less"), "images")["a_photo_of_a_car_1"]
    assert not np.array_equal(less, alone["a_photo_of_a_car_1"])


def test_synonyms_and_plurals_stand_for_their_word(mask: Any) -> None:
    Path("prompts.txt").write_text('a potted plant\n\n{"prompt": "two buses and a house"}\n')
    code, _, _ = mask(
        "--prompts", "prompts.txt", "--word", "bus", "--word", "thing: potted plant, house"
    )
    words = {row["prompt"]: list(row["words"]) for row in rows(Path("masks/bus_thing"))}
    assert code == 0
    assert words == {"a potted plant": ["thing"], "two buses and a house": ["bus", "thing"]}


def test_a_file_of_prompts_is_checked_whole_before_the_first_image(mask: Any) -> None:
    long = " ".join(["a"] * 30)
    Path("prompts.txt").write_text(f"a car\na house\n{long} car\n")
    code, _, err = mask("--prompts", "prompts.txt", "--word", "car", "--out", "out")
    assert code == 2 and not Path("out").exists()
    assert "2 prompts can't be used" in err and "line 2" in err and "line 3" in err
    assert "names none of the words (car, cars)" in err and "past the text encoder's 16" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--word", "car"), "there is no prompt"),
        (("a car", "--word", ":x"), "is no word"),
        (("a car", "--word", "car", "--word", "CAR"), "given twice"),
        (("a car", "--word", "background"), "id 0 of every mask"),
        (("a car", "--word", "car", "--num", "0"), "--num has to be"),
        (("a car", "--word", "car", "--size", "50"), "multiple of 8"),
        (("a car", "--word", "car", "--steps", "0"), "num_inference_steps"),
        (("a car", "--word", "car", "--set", "nope=1"), "nope: there is no such key"),
        (("a car", "--word", "car", "--threshold", "2"), "--threshold is 2; expected 0 to 1"),
        (("a car", "--word", "car", "--out", "file"), "file is a file; expected a folder"),
        (("a car", "--word", "car", "--out", "file/x"), "file is a file; expected a folder"),
        (("a car", "--word", "car", "--set", "cross_attention_resolution=9"), "have 8, 16"),
        (("a car", "--word", "car", "--set", 'cross_attention_layers=["x"]'), "layer is called x"),
        (("--prompts", "nope.txt", "--word", "car"), "no file of prompts"),
        (("a car", "--word", "car", "--model", "me/sd"), "--revision"),
        (("a car", "--word", "car", "--model", "./nope"), "there is no folder"),
    ],
)
def test_odd_input_is_one_message(mask: Any, arguments: tuple[str, ...], message: str) -> None:
    Path("file").touch()
    code, _, err = mask(*arguments)
    assert code == 2 and message in err and "Traceback" not in err


def test_a_folder_has_masks_of_one_list_of_words(mask: Any) -> None:
    assert mask("a car", "--word", "car", "--out", "out")[0] == 0
    code, _, err = mask("a bus", "--word", "bus", "--out", "out")
    assert code == 2 and "lists other classes than these words (bus)" in err


def test_without_a_model_the_shipped_foundation_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["mask", "a photo of a house", "--word", "house", "--device", "cpu"])
    folder = tmp_path / "masks" / "house"
    ids = contents(folder, "masks")["a_photo_of_a_house_0"]
    assert code == 0 and ids.shape == (64, 64) and 0.02 < (ids == 1).mean() < 0.8
    assert str(Path("masks/house/previews/a_photo_of_a_house_0.png")) in capsys.readouterr().out
