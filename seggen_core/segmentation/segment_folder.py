"""The folder that `seggen predict` fills with segments (tasks "panoptic" and "instance").

model.json, classes.json   which model made it; ids, names, colours and things
segments/<name>.json       segments_info and instances of one picture, in COCO's formats
overlays/<name>.png        the picture with the segments' colours and outlines
predictions.jsonl          size and number of segments of each class, a line for each picture
images.json                COCO's images and categories: `COCO("images.json")` of pycocotools
instances.json             COCO's results of all pictures: `loadRes("instances.json")`

and for "panoptic"

masks/<name>.png           a palette PNG of train ids, which gives every pixel a class
panoptic/<name>.png        the colour (R, G, B) is segment R + 256 G + 65536 B; black is none
panoptic.json              COCO's panoptic annotations of all pictures

`file_name` is that of the files here, <name>.png, whatever kind of file the picture is.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.exports.coco_panoptic import segment_png
from seggen_core.exports.coco_results import (
    category_rows,
    instance_rows,
    panoptic_segment_map,
    segment_rows,
)
from seggen_core.exports.folder import GrowingJson
from seggen_core.metrics.instance import Instances
from seggen_core.project.publish import read_json
from seggen_core.project.storage import (
    save_png_whole,
    storage_errors,
    write_text_whole,
    written_whole,
)
from seggen_core.segmentation.model_task import ModelTask
from seggen_core.segmentation.prediction_folder import OPACITY, PREDICTIONS, PredictionFolder
from seggen_core.segmentation.segment_pictures import MIN_SHOWN, painted_segments, segment_overlay

IMAGES, INSTANCES, PANOPTIC = "images.json", "instances.json", "panoptic.json"


class SegmentFolder(PredictionFolder):
    """Writes segments; see `PredictionFolder`."""

    def __init__(
        self,
        folder: Path,
        *,
        task: ModelTask,
        palette: np.ndarray,
        identity: Mapping[str, Any],
        with_overlays: bool,
    ) -> None:
        """Create the folder, or continue one of the same model; see `PredictionFolder`.

        Args:
            folder: where to write.
            task: of the segmenter.
            palette: colours of the classes, uint8 [C, 3].
            identity: JSON-ready: all that a prediction depends on, besides its picture.
            with_overlays: write overlays, too.
        """
        self._task, taxonomy = task, task.taxonomy
        self._things = np.array([c.is_thing for c in taxonomy])
        super().__init__(
            folder,
            id2label=taxonomy.id2label,
            palette=palette,
            identity=identity,
            with_overlays=with_overlays,
            things=self._things.tolist(),
        )

    @property
    def _is_panoptic(self) -> bool:
        return self._task.task == "panoptic"

    def has(self, name: str) -> bool:
        """Return whether a picture is predicted already."""
        files = [self._part(name)]
        if self._is_panoptic:
            files += [self.folder / kind / f"{name}.png" for kind in ("masks", "panoptic")]
        if self._with_overlays:
            files.append(self.folder / "overlays" / f"{name}.png")
        return all(file.is_file() for file in files)

    def add_segments(self, name: str, *, image: np.ndarray, predicted: dict[str, Any]) -> None:
        """Write the prediction of one picture; the JSON file comes last.

        Args:
            name: of the picture.
            image: uint8 [H, W, 3].
            predicted: what `predict_segments.predict_sample` gave, at this size or a smaller one.

        Raises:
            StorageError: the disk is full or not writable.
        """
        size: tuple[int, int] = image.shape[:2]
        if self._with_overlays:
            painted = painted_segments(predicted)
            shown = segment_overlay(
                image,
                PanopticMap(
                    at_size(painted.segmentation_map, size), at_size(painted.instance_map, size)
                ),
                palette=self._palette,
                things=self._things,
                opacity=OPACITY,
            )
            save_png_whole(self.folder / f"overlays/{name}.png", Image.fromarray(shown))
        part: dict[str, Any] = {"height": size[0], "width": size[1]}
        if self._is_panoptic:
            self._write_mask(name, at_size(predicted["semantic"], size))
            panoptic_map: PanopticMap = predicted["panoptic"]
            panoptic = PanopticMap(
                at_size(panoptic_map.segmentation_map, size),
                at_size(panoptic_map.instance_map, size),
            )
            segments = panoptic_segment_map(panoptic, things=self._things)
            picture = self.folder / "panoptic" / f"{name}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(picture) as file:
                file.write_bytes(segment_png(segments))
            part["segments_info"] = segment_rows(segments, with_crowds=False)
        part["instances"] = list(_rows(predicted["instances"], size))
        write_text_whole(self._part(name), json.dumps(part) + "\n")

    def record(self, names: Iterable[str]) -> None:
        """Write the files about all of these pictures.

        Raises:
            StorageError: the disk is full or not writable.
        """
        names = list(names)
        lines = (json.dumps(self._row(name), ensure_ascii=False) + "\n" for name in names)
        write_text_whole(self.folder / PREDICTIONS, "".join(lines))
        categories = category_rows(self._task.taxonomy)
        things = [category for category in categories if category["isthing"]]
        with storage_errors(self.folder, remains="The predictions are kept."):
            self._record_instances(names, categories=things)
            if self._is_panoptic:
                with self._growing(PANOPTIC, ("images", "annotations")) as file:
                    for image, part in self._parts(names):
                        file.append("images", image)
                        rows = part["segments_info"]
                        entry = {"image_id": image["id"], "file_name": image["file_name"]}
                        file.append("annotations", entry | {"segments_info": rows})
                    file.finish({"categories": categories})

    def _record_instances(self, names: Sequence[str], *, categories: list[dict[str, Any]]) -> None:
        with self._growing(IMAGES, ("images", "annotations")) as file:
            for image, _ in self._parts(names):
                file.append("images", image)
            file.finish({"categories": categories})
        with self._growing(INSTANCES, ("annotations",)) as file:
            for image, part in self._parts(names):
                for row in part["instances"]:
                    file.append("annotations", {"image_id": image["id"], **row})
            file.finish(None)

    @contextmanager
    def _growing(self, name: str, lists: tuple[str, ...]) -> Iterator[GrowingJson]:
        file = GrowingJson(self.folder / name, lists=lists)
        try:
            yield file
        finally:
            file.close()

    def _parts(self, names: Sequence[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield COCO's entry of each image, with ids from 1, and its own file."""
        for image_id, name in enumerate(names, start=1):
            part = read_json(self._part(name))
            size = {"width": part["width"], "height": part["height"]}
            yield {"id": image_id, "file_name": f"{name}.png", **size}, part

    def _part(self, name: str) -> Path:
        return self.folder / "segments" / f"{name}.json"

    def _row(self, name: str) -> dict[str, Any]:
        part = read_json(self._part(name))
        rows = part.get("segments_info")
        if rows is None:
            rows = [row for row in part["instances"] if row["score"] >= MIN_SHOWN]
        counts = Counter(self._names[row["category_id"] - 1] for row in rows)
        if self._is_panoptic:
            return super()._row(name) | {"segments": counts}
        return {
            "name": name,
            "width": part["width"],
            "height": part["height"],
            "instances": counts,
        }


def at_size(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return ids or a mask [h, w] at another size, nearest neighbours."""
    if ids.shape == size:
        return ids
    rows, columns = (
        (np.arange(new_side) * old_side // new_side)
        for new_side, old_side in zip(size, ids.shape, strict=True)
    )
    return ids[rows[:, None], columns]


def _rows(instances: Instances, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Yield the rows of instances at a size, one by one: those of a photograph are large."""
    assert instances.scores is not None
    for place in range(len(instances.masks)):
        mask = at_size(instances.masks[place], size)[None]
        one = Instances(mask, instances.class_ids[[place]], scores=instances.scores[[place]])
        yield from instance_rows(one)
