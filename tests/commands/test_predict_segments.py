"""`seggen predict` with segmenters that find segments: COCO's files, read back by its tools."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from seggen_core.cli import main
from seggen_core.colors.panoptic import EDGE_COLOR, PanopticMap
from seggen_core.config import PostprocessConfig, SegmenterConfig, Task
from seggen_core.metrics.instance import Instances
from seggen_core.segmentation import prediction_job
from seggen_core.segmentation.input_size import InputSize
from seggen_core.segmentation.model_task import ModelTask
from seggen_core.segmentation.models import build_segmenter, load_segmenter, save_segmenter
from seggen_core.segmentation.predict_segments import predict_sample
from seggen_core.segmentation.segment_pictures import painted_segments, segment_overlay
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy
from tests.commands.videos import write_video
from tests.segmentation.tiny import TINY_EOMT, TINY_MASK2FORMER

TAXONOMY = Taxonomy.from_names(stuff=["sky", "grass"], things=["car", "bus"])
MODELS: dict[Task, tuple[str, dict[str, Any]]] = {
    "panoptic": ("eomt", {"architecture": TINY_EOMT}),
    "instance": ("mask2former", {"architecture": TINY_MASK2FORMER}),
}
EVERY_QUERY = PostprocessConfig(object_mask_threshold=0.0, overlap_threshold=0.0, num_instances=6)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "b").mkdir()
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (32, 32), "b/c.jpg": (40, 70)}.items():
        small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size[::-1]).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], Path]:
    """Give the folder of a segmenter for a task, with random weights."""
    root = tmp_path_factory.mktemp("models")

    def saved(task: Task) -> Path:
        folder, (name, settings) = root / task, MODELS[task]
        if not folder.is_dir():
            torch.manual_seed(3)
            config = SegmenterConfig(model=name, **settings)
            save_segmenter(build_segmenter(config, id2label=TAXONOMY.id2label), folder=folder)
            InputSize(square=32).write(folder)
            ModelTask(task, TAXONOMY, EVERY_QUERY).write(folder)
        return folder

    return saved


@pytest.fixture(scope="module")
def panoptic(model: Callable[[Task], Path], photos: Path) -> Path:
    """The predictions of a panoptic segmenter."""
    out = photos.with_name("panoptic")
    assert main(["predict", str(photos), "--model", str(model("panoptic")), "--out", str(out)]) == 0
    return out


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def expected(folder: Path, picture: Path) -> dict[str, Any]:
    """What evaluation's code predicts of a picture."""
    image, size = np.array(Image.open(picture).convert("RGB")), InputSize.read(folder)
    task = ModelTask.read(folder)
    assert task is not None
    return predict_sample(
        load_segmenter(folder),
        image=size.resize(image),
        task=task.segment_task(size.protocol()),
        size=(image.shape[0], image.shape[1]),
    )


def test_panoptic_files_hold_what_evaluation_would_score(
    panoptic: Path, model: Callable[[Task], Path], photos: Path
) -> None:
    tree = read(panoptic / "panoptic.json")
    assert [c["isthing"] for c in tree["categories"]] == [0, 0, 1, 1]
    assert [(i["file_name"], i["width"], i["height"]) for i in tree["images"]] == [
        ("a.png", 32, 32),
        ("b/c.png", 70, 40),
    ]
    num_segments = 0
    for row, picture in zip(tree["annotations"], ("a.png", "b/c.jpg"), strict=True):
        prediction = expected(model("panoptic"), photos / picture)
        rgb = np.array(Image.open(panoptic / "panoptic" / row["file_name"]), int)
        ids = rgb @ [1, 256, 65536]  # panopticapi.utils.rgb2id
        listed = {s["id"]: s for s in row["segments_info"]}
        assert set(np.unique(ids).tolist()) - {0} == set(listed)
        classes = np.full(ids.shape, IGNORE_INDEX)
        for segment_id, segment in listed.items():
            classes[ids == segment_id] = segment["category_id"] - 1
            assert segment["area"] == (ids == segment_id).sum() and segment["iscrowd"] == 0
        np.testing.assert_array_equal(classes, prediction["panoptic"].segmentation_map)
        assert len(np.unique(ids)) == len(np.unique(prediction["panoptic"].segment_ids()))
        num_segments += len(listed)
        mask = np.asarray(Image.open(panoptic / "masks" / row["file_name"]))
        np.testing.assert_array_equal(mask, prediction["semantic"])
        part = read(panoptic / "segments" / row["file_name"].replace(".png", ".json"))
        assert part["segments_info"] == row["segments_info"]
        assert Image.open(panoptic / "overlays" / row["file_name"]).size == rgb.shape[1::-1]
    assert num_segments > 2, "nothing to compare"
    rows = [json.loads(line) for line in (panoptic / "predictions.jsonl").read_text().splitlines()]
    assert sum(sum(row["segments"].values()) for row in rows) == num_segments
    assert [c["is_thing"] for c in read(panoptic / "classes.json")] == [False, False, True, True]


@pytest.mark.parametrize("task", MODELS)
def test_pycocotools_reads_instances_as_evaluation_scores_them(
    task: Task, model: Callable[[Task], Path], photos: Path, tmp_path: Path
) -> None:
    out, folder = tmp_path / "out", model(task)
    assert main(["predict", str(photos), "--model", str(folder), "--out", str(out)]) == 0
    results = COCO(str(out / "images.json")).loadRes(str(out / "instances.json"))
    for image_id, picture in ((1, "a.png"), (2, "b/c.jpg")):
        instances = expected(folder, photos / picture)["instances"]
        rows = results.loadAnns(results.getAnnIds(imgIds=[image_id]))
        assert [r["category_id"] - 1 for r in rows] == instances.class_ids.tolist()
        assert [r["score"] for r in rows] == pytest.approx(instances.scores.tolist())
        for row, mask in zip(rows, instances.masks, strict=True):
            np.testing.assert_array_equal(coco_mask.decode(row["segmentation"]), mask)
    assert (out / "masks").exists() == (out / "panoptic.json").exists() == (task == "panoptic")
    assert {c["name"] for c in results.loadCats(results.getCatIds())} == {"car", "bus"}


def test_a_second_run_goes_on_and_other_settings_are_refused(
    panoptic: Path,
    model: Callable[[Task], Path],
    photos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {p: p.read_bytes() for p in panoptic.rglob("*") if p.is_file()}
    (panoptic / "panoptic" / "b" / "c.png").unlink()
    folder = model("panoptic")
    command = ["predict", str(photos), "--model", str(folder), "--out", str(panoptic)]
    capsys.readouterr()
    assert main(command) == 0 and "1 of them by this run" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in panoptic.rglob("*") if p.is_file()} == before
    assert main([*command, "--multi-scale"]) == 2
    assert "it is predicted at one scale" in capsys.readouterr().err
    ModelTask("panoptic", TAXONOMY, PostprocessConfig()).write(folder)
    assert main(command) == 2 and "of other settings" in capsys.readouterr().err
    ModelTask("panoptic", TAXONOMY, EVERY_QUERY).write(folder)


def test_frames_of_a_video_have_files_of_their_own(
    model: Callable[[Task], Path], tmp_path: Path
) -> None:
    write_video(tmp_path / "v.mp4", num_frames=3)
    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "v.mp4"), "--model", str(model("instance"))]
    assert main([*command, "--out", str(out), "--every", "2", "--no-overlays"]) == 0
    names = [f"v/frame_{k:06d}" for k in (0, 2)]
    assert all((out / "segments" / f"{name}.json").is_file() for name in names)
    assert [i["file_name"] for i in read(out / "images.json")["images"]] == [
        f"{name}.png" for name in names
    ]
    assert {r["image_id"] for r in read(out / "instances.json")} == {1, 2}
    assert not (out / "overlays").exists()


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_segments_of_large_pictures_are_decided_smaller_and_enlarged(
    model: Callable[[Task], Path],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prediction_job, "MAX_PIXELS", 20 * 35)
    command = ["predict", str(photos / "b" / "c.jpg"), "--model", str(model("panoptic"))]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "c.png"))
    assert mask.shape == (40, 70)
    np.testing.assert_array_equal(mask, mask[::2, ::2].repeat(2, 0).repeat(2, 1))
    row = read(tmp_path / "out" / "instances.json")[0]
    assert row["segmentation"]["size"] == [40, 70]


def test_outlines_part_things_that_touch_and_the_rest_stays_a_photo() -> None:
    image = np.full((6, 8, 3), 40, np.uint8)
    masks = np.zeros((3, 6, 8), bool)
    masks[0, 1:5, 1:4] = masks[1, 1:5, 4:7] = masks[2, 0] = True
    instances = Instances(masks, np.array([2, 2, 2]), scores=np.array([0.9, 0.8, 0.1]))
    painted = painted_segments({"instances": instances})
    assert (painted.segmentation_map[0] == IGNORE_INDEX).all(), "a low score"
    assert painted.instance_map[2, 2] != painted.instance_map[2, 5]
    palette, things = np.full((4, 3), 200, np.uint8), np.array([False, False, True, True])
    shown = segment_overlay(image, painted, palette=palette, things=things, opacity=1.0)
    assert (shown[0, 0] == 40).all() and (shown[2, 2] == 200).all()
    border = shown[2, 3:5].reshape(-1, 3)
    assert (border == EDGE_COLOR).all(1).any()
    empty = PanopticMap(np.full((6, 8), IGNORE_INDEX, np.uint8), np.zeros((6, 8), np.uint16))
    drawn = segment_overlay(image, empty, palette=palette, things=things, opacity=1.0)
    np.testing.assert_array_equal(drawn, image)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "task.json"),
        ('{"task": "odd", "classes": [], "postprocess": {}}', "is damaged"),
        ('{"task": "panoptic", "classes": [], "postprocess": {}}', "is damaged"),
        (
            json.dumps(
                {
                    "task": "panoptic",
                    "classes": [{"train_id": 0, "name": "x", "is_thing": True}],
                    "postprocess": {},
                }
            ),
            "has other classes in config.json than in task.json",
        ),
    ],
)
def test_a_damaged_task_is_one_message(
    content: str,
    message: str,
    model: Callable[[Task], Path],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = model("panoptic")
    whole = (folder / "task.json").read_text()
    (folder / "task.json").write_text(content)
    command = ["predict", str(photos), "--model", str(folder), "--out", str(tmp_path / "out")]
    try:
        assert main(command) == 2 and message in capsys.readouterr().err
    finally:
        (folder / "task.json").write_text(whole)
