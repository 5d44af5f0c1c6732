"""Stage `captions`: one caption for each real training sample, and the prompts of each class.

Held-out samples get none; only `evaluate` reads them.
"""

from seggen_core.captions.captioner import make_captioner
from seggen_core.captions.tables import caption_store, read_edits
from seggen_core.config import SegGenConfig
from seggen_core.project.artefacts import read_artefact
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
        edits = read_edits(settings, base=paths.root, store=store)
        captioner = make_captioner(
            settings,
            taxonomy=stage.taxonomy,
            device=config.runtime.device,
            base=paths.root,
            cache=paths.caption_cache,
        )
        tables = caption_store(
            store,
            captioner=captioner,
            taxonomy=stage.taxonomy,
            subsets=read_artefact(paths.subsets, dict[str, list[str]], stage="dataset"),
            edits=edits,
        )
        folder = stage.empty_scratch()
        tables.write(folder)
        stage.publish_all({out: paths.data / out.name for out in sorted(folder.iterdir())})
        stage.run.log_metrics(tables.metrics)
        stage.run.set_tags({"captioner": captioner.name, "captioner_revision": captioner.revision})
        stage.run.log_artifact(paths.captions)
