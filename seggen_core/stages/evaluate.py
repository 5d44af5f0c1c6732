"""Stage `evaluate`: one arm's segmenters on the held-out test split. Nothing else reads that split."""

import json
import shutil
from typing import Any

import numpy as np
import pandas as pd

from seggen_core.colors.semantic import class_palette
from seggen_core.config import SegGenConfig
from seggen_core.evaluation.semantic import average, summarize, zero_shot_scores
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.reports.grids import colorize, image_grid
from seggen_core.segmentation.models import load_segmenter
from seggen_core.segmentation.predict import predict_store, score_store
from seggen_core.stages.train_seg import find_variant, read_training
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import track_stage

_PICTURE_SIDE = 128


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/evaluate/<variant>: metrics.json, confusion.json, confusion.csv and predictions.png.

    metrics.json has the means over the subset seeds (`semantic.summarize`, percent), "miou_std",
    their sample standard deviation (null for one seed), and "seeds": the same for each. Confusion
    matrices count pixels, rows are true classes; confusion.csv is their sum over the seeds, with
    each count's share of its row in percent. Pictures are of the first seed. Under
    `zero_shot.unseen` there are also "miou_seen", "miou_unseen" and "miou_harmonic".
    """
    find_variant(config, item)
    assert item is not None
    settings = config.evaluate
    limit_threads(config.runtime)
    device = pick_device(config.runtime)
    params = settings.model_dump(mode="json")
    with track_stage(
        "evaluate", item=item, params=params, runtime=config.runtime, paths=paths
    ) as tracked:
        taxonomy = Taxonomy.read(paths.taxonomy)
        test = SampleStore(paths.real("test"))
        tracked.log_input(name="real_test", path=paths.real("test"))
        trained = read_training(paths, variant=item)
        scratch = paths.scratch / "evaluate" / item
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)

        # 1. Scores of each seed.
        things = [c.is_thing for c in taxonomy]
        confusions: dict[str, np.ndarray] = {}
        for seed in trained["seeds"]:
            segmenter = load_segmenter(paths.checkpoint(item) / f"seed{seed}").to(device)
            confusions[seed] = score_store(
                segmenter,
                store=test,
                batch_size=settings.batch_size,
                device=device,
                description=f"evaluate {item} seed {seed}",
            )
        seeds = {
            s: summarize(c, slugs=taxonomy.slugs, things=things) for s, c in confusions.items()
        }
        if config.zero_shot.unseen:
            seeds = {
                s: summary | zero_shot_scores(summary, unseen=config.zero_shot.unseen)
                for s, summary in seeds.items()
            }
        values = [s["miou"] for s in seeds.values()]
        metrics: dict[str, Any] = {
            "model": trained["model"],
            "num_images": len(test),
            **average(list(seeds.values())),
            "miou_std": round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else None,
            "seeds": seeds,
        }
        total = np.sum(list(confusions.values()), axis=0)
        shares = 100 * total / np.maximum(total.sum(1, keepdims=True), 1)
        table = pd.DataFrame(
            {
                "truth": np.repeat(taxonomy.slugs, len(taxonomy)),
                "prediction": np.tile(taxonomy.slugs, len(taxonomy)),
                "pixels": total.ravel(),
                "share": shares.ravel().round(4),
            }
        )
        table.to_csv(scratch / "confusion.csv", index=False)
        matrices = {
            "classes": taxonomy.slugs,
            "seeds": {s: c.tolist() for s, c in confusions.items()},
        }
        for name, tree in (("metrics.json", metrics), ("confusion.json", matrices)):
            (scratch / name).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")

        # 2. Pictures: samples at equal distances through the split.
        first = load_segmenter(paths.checkpoint(item) / f"seed{next(iter(confusions))}").to(device)
        places = (
            np.linspace(0, len(test) - 1, min(settings.num_pictures, len(test))).round().astype(int)
        )
        shown = list(
            predict_store(
                first,
                store=test,
                keys=[test.keys()[i] for i in places],
                batch_size=settings.batch_size,
                device=device,
                description=f"evaluate {item}: pictures",
            )
        )
        palette = class_palette(len(taxonomy))
        rows = [
            [p.image for p in shown],
            [colorize(p.truth, palette) for p in shown],
            [colorize(p.predicted, palette) for p in shown],
        ]
        scale = max(1, _PICTURE_SIDE // config.dataset.image_size)
        image_grid(rows, scale=scale, labels=["image", "truth", "prediction"]).save(
            scratch / "predictions.png"
        )

        # 3. Report, and into place.
        tracked.log_metrics(
            {name: value for name, value in metrics.items() if isinstance(value, float)}
        )
        tracked.log_metrics(
            {f"iou/{slug}": v for slug, v in metrics["per_class_iou"].items() if v is not None}
        )
        for name in ("predictions.png", "confusion.csv"):
            tracked.log_artifact(scratch / name)
        out = paths.report("evaluate", item)
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch.replace(out)
