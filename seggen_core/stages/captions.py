"""Stage `captions`: one caption for each real training sample, and the prompts that each class partition is sampled with.

Held-out samples get none; only `evaluate` reads them.
"""

import shutil
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from seggen_core.captions.captioner import make_captioner
from seggen_core.captions.table import read_caption_table, refuse
from seggen_core.config import SegGenConfig
from seggen_core.datasets.subset import rarest_class_partition
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import track_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write the captions that generators are trained on and the prompts that they are sampled with.

    data/captions/captions.parquet: sample_key, caption, captioner, revision; one row a training
    sample, in the store's order. data/prompts/<class>.parquet: sample_key, caption, for the samples
    whose rarest class it is, with `captions.edits` in place of the captions that they replace. A
    table a class, so that an edit leaves the partitions of all other classes alone.

    Raises:
        ConfigError, CaptionError: the captioner can't be had, a sample gets no caption, or an edit
            is of no training sample.
    """
    assert item is None, item
    store = SampleStore(paths.real("train"))
    taxonomy = Taxonomy.read(paths.taxonomy)
    with track_stage(
        "captions",
        item=None,
        params=config.captions.model_dump(mode="json"),
        runtime=config.runtime,
        paths=paths,
    ) as tracked:
        tracked.log_input(name="train", path=paths.real("train"))

        # 1. Captions.
        keys = store.keys()
        edits = _read_edits(config.captions.edits, base=paths.root, keys=keys)
        captioner = make_captioner(
            config.captions,
            taxonomy=taxonomy,
            device=config.runtime.device,
            base=paths.root,
            cache=paths.caption_cache,
        )
        captions = list(
            tqdm(
                captioner.captions(store, keys=keys),
                total=len(keys),
                desc="captions",
                unit="image",
                disable=None,
            )
        )
        table = pd.DataFrame(
            {
                "sample_key": keys,
                "caption": captions,
                "captioner": captioner.name,
                "revision": captioner.revision,
            }
        )

        # 2. Prompts.
        prompt_of = dict(zip(keys, captions, strict=True)) | edits
        counts = dict(zip(store.index["key"], store.index["class_pixel_counts"], strict=True))
        partition = rarest_class_partition(counts, taxonomy)

        # 3. Into place.
        unfinished = paths.scratch / "captions"
        shutil.rmtree(unfinished, ignore_errors=True)
        for folder in ("captions", "prompts"):
            (unfinished / folder).mkdir(parents=True)
        table.to_parquet(unfinished / "captions" / paths.captions.name, index=False)
        for slug, members in partition.items():
            prompts = pd.DataFrame(
                {"sample_key": members, "caption": [prompt_of[k] for k in members]}, dtype=str
            )
            prompts.to_parquet(unfinished / "prompts" / paths.prompts(slug).name, index=False)
        paths.data.mkdir(parents=True, exist_ok=True)
        for folder in ("captions", "prompts"):
            shutil.rmtree(paths.data / folder, ignore_errors=True)
            (unfinished / folder).replace(paths.data / folder)
        unfinished.rmdir()
        tracked.log_metrics(
            {
                "captions": float(len(table)),
                "distinct_captions": float(table["caption"].nunique()),
                "edits": float(len(edits)),
            }
        )
        tracked.set_tags({"captioner": captioner.name, "captioner_revision": captioner.revision})
        tracked.log_artifact(paths.captions)


def _read_edits(path: Path | None, *, base: Path, keys: list[str]) -> dict[str, str]:
    """Return the captions that replace others in sampling, by sample; none where no table is named."""
    if path is None:
        return {}
    edits = read_caption_table(base / path)
    known = set(keys)
    foreign = [key for key in edits if key not in known]
    refuse(
        base / path,
        "has an edit of what is no training sample:",
        foreign,
        remedy="remove the rows (captions.edits)",
    )
    return edits
