"""Stage `judge`: how well a method's masks fit its images, by a segmenter trained on all real samples."""

import json
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from seggen_core.colors.semantic import class_palette
from seggen_core.config import SYNTHESIS_METHODS, SegGenConfig
from seggen_core.errors import ConfigError, SampleStoreError
from seggen_core.evaluation.semantic import confusion_matrix, mean_iou, pixel_accuracy, summarize
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.reports.grids import colorize, image_grid
from seggen_core.segmentation.models import load_segmenter
from seggen_core.segmentation.predict import Prediction, predict_store
from seggen_core.stages.train_seg import find_variant, read_training
from seggen_core.store.reader import open_partitions
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import track_stage

_PICTURE_SIDE = 96
_NUM_PICTURES = 6


@dataclass(frozen=True)
class MaskOverlap:
    """Pixels of one class over full images: in the mask and in the prediction of it, and in either.

    Ignored pixels lie outside of the mask like any other: attention methods label one class, and
    the rest of the image has to be free of it.
    """

    intersection: int = 0
    union: int = 0

    @classmethod
    def of(cls, prediction: Prediction, *, train_id: int) -> "MaskOverlap":
        """Count one sample."""
        mask, predicted = prediction.truth == train_id, prediction.predicted == train_id
        return cls(int((mask & predicted).sum()), int((mask | predicted).sum()))

    def __add__(self, other: "MaskOverlap") -> "MaskOverlap":
        return MaskOverlap(self.intersection + other.intersection, self.union + other.union)

    @property
    def iou(self) -> float:
        """Intersection over union in percent; 0 where both are empty."""
        return 100 * self.intersection / max(self.union, 1)


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/judge/<method>: metrics.json, scores.csv, and pairs.png with the best and the worst pairs.

    The judge predicts every synthetic image and is scored against its mask. metrics.json has
    `semantic.summarize` (percent) over all labelled pixels, and for each class partition "samples",
    "miou" and "pixel_accuracy". For methods that label one class at a time (samples without a
    source), "mask_iou" is the mean over class partitions of the IoU between that class's masks and
    the judge's prediction of it, over full images; "per_class_mask_iou" has its terms. scores.csv
    has the same for each pair: mask IoU for such methods, else mIoU.

    Raises:
        ConfigError: there is no such method, or no such variant as `judge.variant`.
        SampleStoreError: the method has no sample.
    """
    if item not in SYNTHESIS_METHODS:
        raise ConfigError(
            f"there is no synthetic method {item!r}; known: {', '.join(SYNTHESIS_METHODS)}"
        )
    settings = config.judge
    find_variant(config, settings.variant)
    limit_threads(config.runtime)
    device = pick_device(config.runtime)
    with track_stage(
        "judge",
        item=item,
        params=settings.model_dump(mode="json"),
        runtime=config.runtime,
        paths=paths,
    ) as tracked:
        # 1. Predict every partition.
        taxonomy = Taxonomy.read(paths.taxonomy)
        first_seed = next(iter(read_training(paths, variant=settings.variant)["seeds"]))
        segmenter = load_segmenter(paths.checkpoint(settings.variant) / f"seed{first_seed}").to(
            device
        )
        tracked.log_input(name=item, path=paths.synthetic(item))
        stores = {
            store.folder.name: store
            for store in open_partitions(paths.synthetic(item))
            if len(store)
        }
        if not stores:
            raise SampleStoreError(
                f"{paths.synthetic(item)} holds no sample in any class partition; run: dvc repro {item}"
            )
        one_class = all(store.index["source_key"].isna().all() for store in stores.values())
        confusions: dict[str, np.ndarray] = {}
        overlaps: dict[str, MaskOverlap] = {}
        scores: list[tuple[str, str, float]] = []
        for slug, store in stores.items():
            train_id = taxonomy.by_slug(slug).train_id
            confusions[slug], overlaps[slug] = (
                np.zeros((len(taxonomy), len(taxonomy)), np.int64),
                MaskOverlap(),
            )
            for prediction in predict_store(
                segmenter,
                store=store,
                batch_size=settings.batch_size,
                device=device,
                description=f"judge {item} {slug}",
            ):
                confusion = confusion_matrix(
                    prediction.predicted, truth=prediction.truth, num_classes=len(taxonomy)
                )
                overlap = MaskOverlap.of(prediction, train_id=train_id)
                confusions[slug] += confusion
                overlaps[slug] += overlap
                scores.append(
                    (slug, prediction.key, overlap.iou if one_class else mean_iou(confusion))
                )

        # 2. Scores.
        metrics: dict[str, Any] = {
            "judge": f"{settings.variant}/seed{first_seed}",
            "samples": sum(len(store) for store in stores.values()),
            **summarize(
                np.sum(list(confusions.values()), axis=0),
                slugs=taxonomy.slugs,
                things=[c.is_thing for c in taxonomy],
            ),
        }
        if one_class:
            metrics["mask_iou"] = round(
                float(np.mean([overlap.iou for overlap in overlaps.values()])), 4
            )
            metrics["per_class_mask_iou"] = {
                slug: round(overlap.iou, 4) for slug, overlap in overlaps.items()
            }
        metrics["partitions"] = {
            slug: {
                "samples": len(stores[slug]),
                "miou": round(mean_iou(confusion), 4),
                "pixel_accuracy": round(pixel_accuracy(confusion), 4),
            }
            for slug, confusion in confusions.items()
        }
        scratch = paths.scratch / "judge" / item
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        (scratch / "metrics.json").write_text(
            json.dumps(metrics, indent=1) + "\n", encoding="utf-8"
        )
        ranking = pd.DataFrame(scores, columns=["class_slug", "key", "score"]).sort_values(
            ["score", "key"], ascending=[False, True], kind="stable"
        )
        ranking.round(4).to_csv(scratch / "scores.csv", index=False)

        # 3. The best and the worst pairs.
        palette = class_palette(len(taxonomy))
        rows: list[list[np.ndarray]] = []
        for chosen in (ranking[:_NUM_PICTURES], ranking[: -_NUM_PICTURES - 1 : -1]):
            shown = [
                prediction
                for slug, key in zip(chosen["class_slug"], chosen["key"], strict=True)
                for prediction in predict_store(
                    segmenter,
                    store=stores[slug],
                    keys=[key],
                    batch_size=1,
                    device=device,
                    description="judge: pictures",
                )
            ]
            rows.append([p.image for p in shown])
            rows.append([colorize(p.truth, palette) for p in shown])
            rows.append([colorize(p.predicted, palette) for p in shown])
        scale = max(1, _PICTURE_SIDE // config.dataset.image_size)
        labels = [
            f"{which} {what}" for which in ("best", "worst") for what in ("image", "mask", "judge")
        ]
        image_grid(rows, scale=scale, labels=labels).save(scratch / "pairs.png")

        # 4. Report, and into place.
        tracked.log_metrics(
            {name: value for name, value in metrics.items() if isinstance(value, float)}
        )
        for name in ("pairs.png", "scores.csv"):
            tracked.log_artifact(scratch / name)
        out = paths.report("judge", item)
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch.replace(out)
