"""Stage `captions`: one caption for each real training sample, and the prompts of each class.

Held-out samples get none; only `evaluate` reads them.
"""

import shutil

from seggen_core.captions.captioner import make_captioner
from seggen_core.captions.tables import caption_store, read_edits
from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage
from seggen_core.store.reader import SampleStore


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/captions/captions.parquet and data/prompts/<class>.parquet.

    `CaptionTables` says what is in them.

    Raises:
        ConfigError, CaptionError: the captioner can't be had, a sample gets no caption, or an edit
            is of no training sample.
    """
    settings, store = config.captions, SampleStore(paths.real("train"))
    with open_stage("captions", item=item, config=config, paths=paths) as stage:
        stage.run.log_input(name="train", path=paths.real("train"))
        edits_file = None if settings.edits is None else paths.root / settings.edits
        edits = read_edits(edits_file, store=store)
        captioner = make_captioner(
            settings,
            taxonomy=stage.taxonomy,
            device=config.runtime.device,
            base=paths.root,
            cache=paths.caption_cache,
        )
        tables = caption_store(store, captioner=captioner, taxonomy=stage.taxonomy, edits=edits)
        folder = stage.scratch(["tables"])
        shutil.rmtree(folder)
        for place, table in {
            paths.captions: tables.captions,
            **{paths.prompts(slug): prompts for slug, prompts in tables.prompts.items()},
        }.items():
            unfinished = folder / place.relative_to(paths.data)
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(unfinished, index=False)
        stage.publish_all({out: paths.data / out.name for out in sorted(folder.iterdir())})
        stage.run.log_metrics(
            {
                "captions": float(len(tables.captions)),
                "distinct_captions": float(tables.captions["caption"].nunique()),
                "edits": float(len(edits)),
            }
        )
        stage.run.set_tags({"captioner": captioner.name, "captioner_revision": captioner.revision})
        stage.run.log_artifact(paths.captions)
