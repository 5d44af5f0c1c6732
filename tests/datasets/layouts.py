"""Tiny datasets on disk, laid out as the real ones are, made of random blocks.

Every writer makes three train and two val samples of 24x16 pixels and returns the dataset section
that reads them.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seggen_core.datasets.class_table import load_class_rows
from tests.datasets import tool_layouts

WIDTH, HEIGHT, BLOCK = 24, 16, 8
STEMS = {"train": ["a_000000", "a_000001", "b_000000"], "val": ["c_000000", "c_000001"]}


def blocks(values: list[int], *, dtype: Any = np.uint8) -> np.ndarray:
    """[16, 24]: six blocks of 8x8 that hold `values`, row by row."""
    return np.array(values, dtype).reshape(2, 3).repeat(BLOCK, 0).repeat(BLOCK, 1)


def picture(*, seed: int) -> Image.Image:
    colors = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    return Image.fromarray(colors.repeat(BLOCK, 0).repeat(BLOCK, 1))


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def with_palette(values: np.ndarray, *, colors: dict[int, list[int]]) -> Image.Image:
    """A palette picture; ids without a colour get a random one."""
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    palette[list(colors)] = list(colors.values())
    image = Image.fromarray(values).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette(palette.tobytes())
    return image


def write_pairs(
    root: Path,
    *,
    image: str,
    mask: str,
    values: list[int],
    encode: Callable[[np.ndarray], Image.Image] = Image.fromarray,
    names: dict[str, str] | None = None,
    more: dict[str, tuple[list[int], Any]] | None = None,
) -> None:
    """Write all samples; `image`, `mask` and the keys of `more` are paths with {split}, {stem}."""
    for split, stems in STEMS.items():
        for i, stem in enumerate(stems):
            at = {"split": (names or {}).get(split, split), "stem": stem, "city": stem[0]}
            save(picture(seed=len(split) * 10 + i), root / image.format(**at))
            save(encode(blocks(values)), root / mask.format(**at))
            for pattern, (numbers, dtype) in (more or {}).items():
                save(Image.fromarray(blocks(numbers, dtype=dtype)), root / pattern.format(**at))


def camvid(root: Path) -> dict[str, Any]:
    write_pairs(
        root, image="{split}/{stem}.jpg", mask="{split}annot/{stem}.png", values=[0, 1, 2, 3, 8, 11]
    )
    return {"name": "camvid"}


def ade20k(root: Path) -> dict[str, Any]:
    names = {"train": "training", "val": "validation"}
    write_pairs(
        root,
        image="images/{split}/{stem}.jpg",
        mask="annotations/{split}/{stem}.png",
        values=[0, 1, 13, 13, 150, 1],
        names=names,
    )
    return {"name": "ade20k"}


def voc2012(root: Path) -> dict[str, Any]:
    below = root / "VOCdevkit" / "VOC2012"
    encode = partial(with_palette, colors={r["id"]: r["color"] for r in load_class_rows("voc2012")})
    write_pairs(
        below,
        image="JPEGImages/{stem}.jpg",
        mask="SegmentationClass/{stem}.png",
        values=[0, 15, 255, 15, 1, 0],
        encode=encode,
    )
    for stems in STEMS.values():
        for stem in stems:
            save(
                encode(blocks([0, 1, 255, 2, 3, 0])),
                below / "SegmentationObject" / f"{stem}.png",
            )
    lists = below / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, stems in STEMS.items():
        (lists / f"{split}.txt").write_text("\n".join(stems) + "\n")
    return {"name": "voc2012"}


def cityscapes(root: Path) -> dict[str, Any]:
    write_pairs(
        root,
        image="leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png",
        mask="gtFine/{split}/{city}/{stem}_gtFine_labelIds.png",
        values=[7, 26, 26, 24, 3, 26],
        more={
            "gtFine/{split}/{city}/{stem}_gtFine_instanceIds.png": (
                [7, 26001, 26000, 24000, 3, 26],
                np.uint16,
            ),
            "gtFine/{split}/{city}/{stem}_gtFine_color.png": ([0] * 6, np.uint8),
        },
    )
    return {"name": "cityscapes"}


def coco_stuff(root: Path) -> dict[str, Any]:
    write_pairs(
        root,
        image="{split}2017/{stem}.jpg",
        mask="stuffthingmaps/{split}2017/{stem}.png",
        values=[0, 89, 91, 181, 255, 0],
    )
    return {"name": "coco_stuff"}


def mapillary(root: Path) -> dict[str, Any]:
    write_pairs(
        root,
        image="{split}/images/{stem}.jpg",
        mask="{split}/labels/{stem}.png",
        values=[0, 1, 2, 1, 0, 0],
        encode=partial(with_palette, colors={0: [128, 64, 128], 1: [0, 0, 142], 2: [0, 0, 0]}),
        names={"train": "training", "val": "validation"},
        more={"{split}/instances/{stem}.png": ([0, 256, 512, 257, 0, 0], np.uint16)},
    )
    labels = [
        {"readable": "Road", "color": [128, 64, 128], "instances": False, "evaluate": True},
        {"readable": "Car", "color": [0, 0, 142], "instances": True, "evaluate": True},
        {"readable": "Unlabeled", "color": [0, 0, 0], "instances": False, "evaluate": False},
    ]
    (root / "config.json").write_text(json.dumps({"labels": labels}))
    return {"name": "mapillary"}


def folder(root: Path) -> dict[str, Any]:
    write_pairs(
        root,
        image="images/{split}/{city}/{stem}.jpg",
        mask="masks/{split}/{city}/{stem}.png",
        values=[7, 9, 9, 255, 7, 0],
    )
    (root / "classes.csv").write_text(
        "id,name,is_thing,color,ignore\n"
        "7,wall,no,10 20 30,\n9,hot dog,yes,1 2 3,\n0,nothing,,,yes\n"
    )
    return {"name": "folder"}


def coco_panoptic(root: Path) -> dict[str, Any]:
    segments = [
        {"id": 1000000, "category_id": 1, "iscrowd": 0},
        {"id": 300, "category_id": 1, "iscrowd": 0},
        {"id": 7, "category_id": 3, "iscrowd": 1},
        {"id": 8, "category_id": 187},
    ]
    ids = blocks([1000000, 300, 7, 8, 0, 8], dtype=np.int64)
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    _write_coco(
        root,
        kind="panoptic",
        annotations=lambda i, stem: [
            {"image_id": i, "file_name": f"{stem}.png", "segments_info": segments}
        ],
    )
    for split, stems in STEMS.items():
        for stem in stems:
            save(
                Image.fromarray(rgb), root / "annotations" / f"panoptic_{split}2017" / f"{stem}.png"
            )
    return {"name": "coco_panoptic"}


def coco_instance(root: Path) -> dict[str, Any]:
    def annotations(i: int, stem: str) -> list[dict]:
        box = {"segmentation": [[0, 0, 16, 0, 16, 16, 0, 16]], "category_id": 3, "iscrowd": 0}
        small = {"segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]], "category_id": 90, "iscrowd": 0}
        crowd = {
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": [320, 64]},
            "category_id": 1,
            "iscrowd": 1,
        }
        return [
            {"id": 10 * i + n, "image_id": i, **a}
            for n, a in enumerate((small, box, crowd), start=1)
        ]

    _write_coco(root, kind="instances", annotations=annotations)
    return {"name": "coco_instance"}


def published_categories(name: str) -> list[dict[str, Any]]:
    """COCO's `categories`, as its files have them."""
    return [
        {
            "id": row["id"],
            "name": row.get("official_name", row["name"]),
            "isthing": int(row["is_thing"]),
            "color": row["color"],
        }
        for row in load_class_rows(name)
    ]


def _write_coco(root: Path, *, kind: str, annotations: Callable[[int, str], list[dict]]) -> None:
    (root / "annotations").mkdir(parents=True)
    for split, stems in STEMS.items():
        images = [
            {"id": i, "file_name": f"{s}.jpg", "width": WIDTH, "height": HEIGHT}
            for i, s in enumerate(stems, start=5)
        ]
        listed = [a for i, s in enumerate(stems, start=5) for a in annotations(i, s)]
        tree = {
            "info": {"year": 2017},
            "annotations": listed,
            "images": images,
            "categories": published_categories(f"coco_{kind.removesuffix('s')}"),
        }
        (root / "annotations" / f"{kind}_{split}2017.json").write_text(json.dumps(tree))
        for i, stem in enumerate(stems):
            save(picture(seed=len(split) * 10 + i), root / f"{split}2017" / f"{stem}.jpg")


WRITERS = {
    writer.__name__: writer
    for writer in (
        ade20k,
        camvid,
        cityscapes,
        coco_instance,
        coco_panoptic,
        coco_stuff,
        folder,
        mapillary,
        voc2012,
    )
} | tool_layouts.WRITERS
