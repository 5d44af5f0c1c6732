"""The captions that generators are trained on, and the prompts that they are sampled with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from seggen_core.captions.captioner import Captioner
from seggen_core.captions.table import (
    match_captions,
    read_caption_table,
    refuse,
    sample_names,
)
from seggen_core.config import CaptionsConfig
from seggen_core.datasets.subset import class_partitions, subset_union
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class CaptionTables:
    """One caption for each training sample, and the prompts of each class partition.

    Attributes:
        captions: sample_key, caption, captioner, revision; one row a sample, in the store's order.
        prompts: by class slug: sample_key, caption, for the sources of its partition
            (`class_partitions`). A table a class, so that an edit leaves the partitions of all
            other classes alone.
        num_edits: number of the prompts that stand in place of a caption.
    """

    captions: "pd.DataFrame"
    prompts: dict[str, "pd.DataFrame"]
    num_edits: int

    def write(self, folder: Path) -> None:
        """Write captions/captions.parquet and prompts/<class slug>.parquet below `folder`."""
        for name in ("captions", "prompts"):
            (folder / name).mkdir()
        self.captions.to_parquet(folder / "captions" / "captions.parquet", index=False)
        for slug, prompts in self.prompts.items():
            prompts.to_parquet(folder / "prompts" / f"{slug}.parquet", index=False)

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers of captions, of different ones and of edits."""
        return {
            "captions": float(len(self.captions)),
            "distinct_captions": float(self.captions["caption"].nunique()),
            "edits": float(self.num_edits),
        }


def read_edits(settings: CaptionsConfig, *, base: Path, store: SampleStore) -> dict[str, str]:
    """Return the captions that replace others in sampling, by key in the store.

    Args:
        settings: `edits` names the table of edits, by the dataset's own names; None for no edits.
        base: where a relative path starts.
        store: the real training samples.

    Raises:
        CaptionError: the table can't be read, or has an edit of what is no training sample.
    """
    if settings.edits is None or not read_caption_table(path := base / settings.edits):
        return {}
    edits, unused = match_captions(path, names=sample_names(store))
    refuse(
        path,
        "has an edit of what is no training sample:",
        unused,
        remedy="remove the rows (captions.edits)",
    )
    return edits


def caption_store(
    store: SampleStore,
    *,
    captioner: Captioner,
    taxonomy: Taxonomy,
    subsets: Mapping[str, Sequence[str]],
    edits: Mapping[str, str],
) -> CaptionTables:
    """Caption every sample of a store.

    Args:
        store: the real training samples.
        captioner: writes the captions.
        taxonomy: the classes.
        subsets: keys of the real samples by subset; sampling starts from these samples alone.
        edits: what stands in place of captions in sampling.

    Raises:
        CaptionError: a sample gets no caption.
    """
    import pandas as pd

    keys = store.keys()
    answers = captioner.captions(store, keys=keys)
    captions = list(tqdm(answers, total=len(keys), desc="captions", unit="image", disable=None))
    table = pd.DataFrame(
        {
            "sample_key": keys,
            "caption": captions,
            "captioner": captioner.name,
            "revision": captioner.revision,
        }
    )
    prompt_of = dict(zip(keys, captions, strict=True)) | dict(edits)
    partition = class_partitions(
        store.class_pixel_counts(), taxonomy, sources=subset_union(subsets)
    )
    prompts = {
        slug: pd.DataFrame(
            {"sample_key": members, "caption": [prompt_of[key] for key in members]}, dtype=str
        )
        for slug, members in partition.items()
    }
    return CaptionTables(table, prompts, len(edits))
