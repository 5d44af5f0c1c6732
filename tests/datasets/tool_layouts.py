"""Tiny exports of annotation tools, as the tools write them, with the samples of `layouts`.

Each sample has a car (two shapes of one group, where the tool has groups), a wall behind it, and
pixels that nobody labelled.
"""

import base64
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HEIGHT, WIDTH = 16, 24
STEMS = {"train": ["a_000000", "a_000001", "b_000000"], "val": ["c_000000", "c_000001"]}
WALL = [0, 0, 16, 0, 16, 16, 0, 16]
CAR = [2, 2, 10, 2, 10, 6, 2, 6]


def _image(path: Path, *, seed: int) -> None:
    colors = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colors.repeat(8, 0).repeat(8, 1)).save(path)


def _images(root: Path, pattern: str) -> None:
    for split, stems in STEMS.items():
        for i, stem in enumerate(stems):
            _image(root / pattern.format(split=split, stem=stem), seed=len(split) * 10 + i)


def _points(outline: list[int]) -> list[list[int]]:
    return [outline[i : i + 2] for i in range(0, len(outline), 2)]


def cvat(root: Path) -> dict[str, Any]:
    """One file with subsets, as CVAT exports a project."""
    _images(root, "images/{split}/{stem}.jpg")
    labels = "".join(
        f"<label><name>{name}</name><color>{color}</color><type>any</type>"
        "<attributes></attributes></label>"
        for name, color in (("wall", "#0a141e"), ("car", "#010203"))
    )
    images = ""
    for split, subset in (("train", "train"), ("val", "Validation")):
        for stem in STEMS[split]:
            wall = ";".join(f"{x:.2f},{y:.2f}" for x, y in _points(WALL))
            car = ";".join(f"{x:.2f},{y:.2f}" for x, y in _points(CAR))
            images += (
                f'<image id="{len(images)}" name="{stem}.jpg" subset="{subset}" '
                f'task_id="1" width="{WIDTH}" height="{HEIGHT}">'
                f'<polygon label="car" source="manual" occluded="0" points="{car}" z_order="1" '
                'group_id="7"><attribute name="colour">red</attribute></polygon>'
                '<mask label="car" source="manual" occluded="0" rle="1, 2, 1" left="12" top="3" '
                'width="2" height="2" z_order="1" group_id="7"></mask>'
                f'<polygon label="wall" source="manual" occluded="0" points="{wall}" z_order="0">'
                "</polygon></image>\n"
            )
    (root / "annotations.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task>'
        f"<labels>{labels}</labels></task></meta>\n{images}</annotations>\n",
        encoding="utf-8",
    )
    return {"name": "cvat"}


def labelme(root: Path) -> dict[str, Any]:
    """A JSON file beside each image, the image in it, too."""
    _images(root, "{split}/{stem}.jpg")
    png = io.BytesIO()
    Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).save(png, format="PNG")
    for split, stems in STEMS.items():
        for stem in stems:
            image = root / split / f"{stem}.jpg"
            shapes: list[dict[str, Any]] = [
                {"label": "wall", "points": _points(WALL), "group_id": None},
                {"label": "car", "points": _points(CAR), "group_id": 7},
                {"label": "car", "points": [[12, 3], [13, 4]], "group_id": 7, "shape_type": "mask"},
            ]
            shapes[2]["mask"] = base64.b64encode(png.getvalue()).decode()
            tree = {
                "version": "5.5.0",
                "flags": {},
                "shapes": [
                    {"shape_type": "polygon", "flags": {}, "mask": None} | s for s in shapes
                ],
                "imagePath": f"..\\{split}\\{stem}.jpg",
                "imageData": base64.b64encode(image.read_bytes()).decode(),
                "imageHeight": HEIGHT,
                "imageWidth": WIDTH,
            }
            image.with_suffix(".json").write_text(json.dumps(tree))
    (root / "labels.txt").write_text("__ignore__\nwall\ncar\n")
    return {"name": "labelme"}


def label_studio(root: Path) -> dict[str, Any]:
    """Exports of two projects, whose images were uploaded."""
    for split, stems in STEMS.items():
        tasks = []
        for i, stem in enumerate(stems):
            _image(root / "images" / split / f"{stem}.jpg", seed=len(split) * 10 + i)
            about = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
            regions: list[dict[str, Any]] = [
                about
                | {
                    "type": "polygonlabels",
                    "value": {
                        "points": [[x / 0.24, y / 0.16] for x, y in _points(outline)],
                        "closed": True,
                        "polygonlabels": [label],
                    },
                }
                for label, outline in (("wall", WALL), ("car", CAR))
            ]
            brush = np.zeros((HEIGHT, WIDTH), bool)
            brush[[3, 4], [13, 12]] = True
            value = {"format": "rle", "rle": brush_runs(brush), "brushlabels": ["car"]}
            regions.append(about | {"type": "brushlabels", "value": value})
            tasks.append(
                {
                    "id": i,
                    "data": {"image": f"/data/upload/3/0123abcd-{stem}.jpg"},
                    "annotations": [{"id": 9, "was_cancelled": False, "result": regions}],
                    "predictions": [],
                }
            )
        (root / f"{split}.json").write_text(json.dumps(tasks))
    return {"name": "label_studio"}


def brush_runs(mask: np.ndarray) -> list[int]:
    """Write bool [H, W] as Label Studio's brush does: four equal values a pixel, in runs."""
    values = np.repeat(mask.ravel(), 4).astype(np.uint8) * 255
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    for first, last in itertools.pairwise(starts):
        if last - first <= 8:  # written out, in the shortest size
            bits += "000" + f"{last - first - 1:03b}"
            bits += "".join(f"{v:08b}" for v in values[first:last])
        else:
            bits += f"111{last - first - 1:016b}{values[first]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def yolo(root: Path) -> dict[str, Any]:
    """Roboflow's folders."""
    names = {"train": "train", "val": "valid"}
    for split, stems in STEMS.items():
        for i, stem in enumerate(stems):
            folder = root / names[split]
            _image(folder / "images" / f"{stem}.jpg", seed=len(split) * 10 + i)
            (folder / "labels").mkdir(exist_ok=True)
            lines = [
                " ".join([str(class_id), *(f"{v / (WIDTH, HEIGHT)[i % 2]:.6f}" for i, v in e(o))])
                for class_id, o in ((1, CAR), (0, WALL))
                for e in (enumerate,)
            ]
            (folder / "labels" / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
        "names: ['wall', 'car']\n\nroboflow:\n  license: CC BY 4.0\n"
    )
    return {"name": "yolo"}


def voc(root: Path) -> dict[str, Any]:
    """CVAT's "Segmentation mask 1.1": colours in masks and in maps of objects."""
    _images(root, "JPEGImages/{stem}.jpg")
    colors = {0: (0, 0, 0), 1: (10, 20, 30), 2: (1, 2, 3)}
    for folder, values in (
        ("SegmentationClass", [1, 2, 2, 0, 1, 0]),
        ("SegmentationObject", [0, 1, 2, 0, 0, 0]),
    ):
        small = np.array([colors[v] for v in values], np.uint8).reshape(2, 3, 3)
        for stems in STEMS.values():
            for stem in stems:
                path = root / folder / f"{stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(small.repeat(8, 0).repeat(8, 1)).save(path)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, stems in STEMS.items():
        (lists / f"{split.capitalize()}.txt").write_text("\n".join(stems) + "\n")
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nwall:10,20,30::\ncar:1,2,3::\n"
    )
    return {"name": "voc"}


def huggingface(root: Path) -> dict[str, Any]:
    """Parquet files of the Hub, two rows a group."""
    (root / "data").mkdir()
    for split, name in (("train", "train"), ("val", "validation")):
        rows = []
        for i, stem in enumerate(STEMS[split]):
            _image(root / "scratch.jpg", seed=len(split) * 10 + i)
            mask = np.array([0, 1, 1, 0, 0, 0], np.uint8).reshape(2, 3).repeat(8, 0).repeat(8, 1)
            png = io.BytesIO()
            Image.fromarray(mask).save(png, format="PNG")
            image = (root / "scratch.jpg").read_bytes()
            rows.append(
                {
                    "image": {"bytes": image, "path": f"{stem}.jpg"},
                    "label": {"bytes": png.getvalue(), "path": None},
                }
            )
        (root / "scratch.jpg").unlink()
        _write_parquet(root / "data" / f"{name}-00000-of-00001.parquet", rows)
    (root / "id2label.json").write_text('{"0": "wall", "1": "car"}')
    return {"name": "huggingface"}


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", picture), ("label", picture)])
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path, row_group_size=2, compression="none")


def change_parquet(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the rows of all files."""
    for path in sorted((root / "data").glob("*.parquet")):
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            change(row)
        _write_parquet(path, rows)


def repaint_parquet(root: Path, paint: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the masks of all files."""

    def change(row: dict[str, Any]) -> None:
        mask = paint(np.array(Image.open(io.BytesIO(row["label"]["bytes"]))))
        png = io.BytesIO()
        Image.fromarray(mask).save(png, format="PNG")
        row["label"]["bytes"] = png.getvalue()

    change_parquet(root, change)


WRITERS = {
    writer.__name__: writer for writer in (cvat, huggingface, label_studio, labelme, voc, yolo)
}
