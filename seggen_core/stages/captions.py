"""Stage `captions`: one text prompt for each real training sample. Held-out samples get none; only `evaluate` reads them."""

import json

import pandas as pd
from tqdm import tqdm

from seggen_core.config import SegGenConfig
from seggen_core.generators.captioner import make_captioner
from seggen_core.paths import ProjectPaths
from seggen_core.synthesis.sample_store import SampleStore
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import track_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write the captions table: sample_key, caption, captioner, revision; one row a training sample, in the store's order.

    Raises:
        ConfigError, CaptionError: the captioner can't be had, or a sample gets no caption.
    """
    assert item is None, item
    store = SampleStore(paths.real("train"))
    taxonomy = Taxonomy.from_json(json.loads(paths.taxonomy.read_text(encoding="utf-8")))
    with track_stage(
        "captions", item=None, params=config.captions.model_dump(mode="json"), runtime=config.runtime, paths=paths
    ) as tracked:
        tracked.log_input(name="train", path=paths.real("train"))
        captioner = make_captioner(config.captions, taxonomy=taxonomy, device=config.runtime.device, base=paths.root)
        keys = store.keys()
        captions = list(tqdm(captioner.captions(store, keys=keys), total=len(keys), desc="captions", unit="image", disable=None))
        table = pd.DataFrame(
            {"sample_key": keys, "caption": captions, "captioner": captioner.name, "revision": captioner.revision}
        )

        unfinished = paths.scratch / "captions" / "captions.parquet"
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(unfinished, index=False)
        paths.captions.parent.mkdir(parents=True, exist_ok=True)
        unfinished.replace(paths.captions)
        unfinished.parent.rmdir()
        tracked.log_metrics({"captions": float(len(table)), "distinct_captions": float(table["caption"].nunique())})
        tracked.set_tags({"captioner": captioner.name, "captioner_revision": captioner.revision})
        tracked.log_artifact(paths.captions)
