"""`seggen show`: sheets of the dataset and of stores, as PNG and HTML."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from seggen_core.cli import main
from seggen_core.reports.contact_sheet import SheetSample, draw_sheet, legend, sheet_panels
from seggen_core.store.reader import Sample, SampleStoreWriter

ROOT = Path(__file__).parents[2]
PALETTE = np.array([[200, 0, 0], [0, 200, 0]], np.uint8)


def sample(title: str = "a", *, instances: bool = False) -> SheetSample:
    ids = np.zeros((20, 30), np.uint8)
    ids[:, 15:] = 1
    ids[10:, :6] = 255
    numbers = np.zeros((20, 30), np.uint16)
    numbers[:, 15:20], numbers[:, 20:] = 1, 300
    return SheetSample(
        title, np.full((20, 30, 3), 100, np.uint8), ids, numbers if instances else None
    )


def test_panels_show_the_image_the_colours_and_both() -> None:
    picture, colors, mixed = (
        np.asarray(p) for p in sheet_panels(sample(instances=True), palette=PALETTE, height=40)
    )
    assert picture.shape == colors.shape == mixed.shape == (40, 60, 3)
    assert (picture == 100).all()
    assert (colors[0, 0] == [200, 0, 0]).all() and (colors[0, 59] == [0, 200, 0]).all()
    assert len(np.unique(colors[30:, :10].reshape(-1, 3), axis=0)) == 2, "stripes"
    assert (mixed[0, 0] == [155, 45, 45]).all() and (mixed[39, 0] == 100).all()
    white = (mixed == 255).all(-1)
    assert white[20].nonzero()[0].tolist() == [30, 39, 40], (
        "outlines of two instances, the second touching the first and the rim"
    )


def test_legend_lists_what_occurs_largest_first_with_shares() -> None:
    entries = legend(
        [sample(), sample()],
        class_names=["left", "right", "never"],
        palette=np.vstack([PALETTE, [[1, 2, 3]]]),
    )
    assert [(e.name, e.share, e.color) for e in entries] == [
        ("right", 50.0, (0, 200, 0)),
        ("left", 40.0, (200, 0, 0)),
        ("(ignored)", 10.0, None),
    ]


def test_a_sheet_holds_every_sample_and_cuts_long_titles() -> None:
    short = draw_sheet([sample()], class_names=["left", "right"], palette=PALETTE, heading="h")
    both = draw_sheet(
        [sample(), sample("b\n" + "prompt " * 200)],
        class_names=["left", "right"],
        palette=PALETTE,
        heading="h",
    )
    assert both.width == short.width and both.height > short.height + 200


@pytest.fixture
def params(tmp_path: Path) -> Path:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tree["dataset"] |= {
        "image_size": 16,
        "num_train": 6,
        "num_val": 2,
        "num_test": 2,
        "subset_size": 2,
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return tmp_path / "params.yaml"


def test_show_draws_splits_and_stores(params: Path, capsys: pytest.CaptureFixture) -> None:
    out = params.parent / "sheet.png"
    assert main(["--params", str(params), "show", "--out", str(out), "--num", "3"]) == 0
    assert "3 samples in" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.height > 3 * 200
    folder = params.parent / "data" / "synthetic" / "masksyn" / "car"
    with SampleStoreWriter(folder, num_classes=8) as writer:
        for i in range(3):
            image = np.zeros((16, 16, 3), np.uint8)
            writer.add(Sample(f"s-{i}", image, image[..., 0], None, {"prompt": "a <b> & c"}))
        writer.finish(manifest={})
    page = params.parent / "sheet.html"
    store = "data/synthetic/masksyn/car"
    assert (
        main(["--params", str(params), "show", store, "--out", str(page), "--keys", "s-2", "s-0"])
        == 0
    )
    text = page.read_text(encoding="utf-8")
    assert (
        text.index("s-2") < text.index("s-0")
        and "a &lt;b&gt; &amp; c" in text
        and text.count("data:image/png") == 6
    )
    assert "sky 100.0%" in text
    # On a machine without the dataset's own files, a store is shown by the taxonomy that lies
    # beside it.
    tree = yaml.safe_load(params.read_text(encoding="utf-8"))
    tree["dataset"] = {"name": "camvid", "root": "nowhere"}
    params.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert main(["--params", str(params), "show", store, "--out", str(page)]) == 2
    assert "is not a folder" in capsys.readouterr().err
    classes = [{"train_id": i, "name": f"class {i}", "is_thing": False} for i in range(8)]
    (params.parent / "data" / "real").mkdir()
    (params.parent / "data" / "real" / "taxonomy.json").write_text(json.dumps(classes))
    assert main(["--params", str(params), "show", store, "--out", str(page)]) == 0
    assert "class 0 100.0%" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--out", "sheet.gif"], "ends in .png or .html"),
        (["--num", "0"], "expected at least 1"),
        (["data/nothing"], "is no sample store"),
        (["--keys", "99999"], "scenes has no train sample '99999'"),
    ],
)
def test_what_can_not_be_shown_is_a_user_error(
    params: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["--params", str(params), "show", *arguments]) == 2
    assert words in capsys.readouterr().err
