"""What a store says about itself: its classes in the manifest, and a dataset card, README.md.

`datasets.load_dataset(folder)` takes the first files that it knows for the data, JSON among them.
The front matter of the card names the shards, so that a folder loads as it is, on disk and as a
repository of the Hugging Face Hub.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seggen_core.colors.class_colors import colored_classes
from seggen_core.store.format import METADATA_COLUMNS, QUALITY_PREFIX
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

CARD = "README.md"

_HUB_LICENSES = re.compile(
    r"(apache-2\.0|mit|bsd(-[23]-clause)?|cc0-1\.0|cc-by(-nc)?(-[sn][ad])?-[234]\.[05]|"
    r"(creativeml-|bigscience-)?openrail(\+\+|-m)?|odc-by|pddl|odbl|c-uda)"
)
"""Licences as the Hub's cards name them; every other one is "other" there."""


def describe_classes(
    taxonomy: Taxonomy, *, colors: np.ndarray, license_text: str | None
) -> dict[str, Any]:
    """Return what a manifest says about its masks: classes, ignore_index, license and taxonomy.

    Args:
        taxonomy: the classes.
        colors: of the classes in pictures, uint8 [num_classes, 3].
        license_text: licence of the samples, or of the data behind them; None where it is unknown.
    """
    return {
        "classes": colored_classes(taxonomy, colors),
        "ignore_index": IGNORE_INDEX,
        "license": license_text,
        "taxonomy": taxonomy.digest,
    }


def samples_digest(*indices: bytes) -> str:
    """Return a digest of the samples of stores, from their index.parquet, which has checksums."""
    digest = hashlib.sha256()
    for index in indices:
        digest.update(hashlib.sha256(index).digest())
    return digest.hexdigest()[:16]


def front_matter(
    license_text: str | None,
    *,
    data_files: Mapping[str, str],
    digest: str,
    features: Sequence[str] = (),
) -> str:
    """Return the YAML at the head of a card.

    Args:
        license_text: as in `describe_classes`.
        data_files: pattern of the files of each split.
        digest: of the samples. `datasets` keeps what it has read under the name of the folder and
            the front matter: without a digest, other samples in a folder of the same name would
            come from its cache.
        features: lines of YAML that type the columns.
    """
    lines = ["---", f"license: {hub_license(license_text)}"]
    lines += ["task_categories:", "- image-segmentation", "tags:", "- seggen"]
    lines += ["dataset_info:", *(f"  {line}" for line in features)] if features else []
    lines += ["configs:", "- config_name: default"]
    lines += [f"  description: {json.dumps(f'samples {digest}')}", "  data_files:"]
    for split, pattern in data_files.items():
        lines += [f"  - split: {json.dumps(split)}", f"    path: {json.dumps(pattern)}"]
    return "\n".join([*lines, "---", ""])


def hub_license(license_text: str | None) -> str:
    """Return a licence as the Hub's cards name it: "unknown" for None, "other" for foreign ones."""
    name = (license_text or "unknown").strip().lower()
    return name if name == "unknown" or _HUB_LICENSES.fullmatch(name) else "other"


def _features(indices: Sequence[bytes], *, image_format: str) -> list[str]:
    """Return the columns that `datasets` makes of shards, in YAML.

    Without them, it guesses them from the first five samples. An instance map or a score that
    comes later is then dropped, fails, or is cut to a whole number.

    Args:
        indices: index.parquet of each store.
        image_format: suffix of the images.
    """
    columns = {
        str(name)
        for index in indices
        for name in pq.ParquetFile(pa.BufferReader(index)).schema_arrow.names
    }
    lines = ["features:"]
    for name in (image_format, "mask.png", "instances.png"):
        lines += [f"- name: {name}", "  dtype: image"]
    lines += ["- name: json", "  struct:"]
    for name, kind in METADATA_COLUMNS.items():
        lines += [f"  - name: {name}", f"    dtype: {'string' if kind is str else 'int64'}"]
    scores = sorted(c.removeprefix(QUALITY_PREFIX) for c in columns if c.startswith(QUALITY_PREFIX))
    if scores:
        lines += ["  - name: quality", "    struct:"]
        for name in scores:
            lines += [f"    - name: {json.dumps(name)}", "      dtype: float64"]
    for name in ("__key__", "__url__"):
        lines += [f"- name: {name}", "  dtype: string"]
    return lines


def class_table(classes: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the rows in a manifest."""
    lines = ["| id | class | kind | colour (RGB) |", "|---:|---|---|---|"]
    for row in classes:
        kind = "thing" if row["is_thing"] else "stuff"
        color = ", ".join(map(str, row["color"])) if "color" in row else ""
        lines.append(f"| {row['train_id']} | {escape(row['name'])} | {kind} | {color} |")
    return "\n".join(lines) + "\n"


def escape(text: object) -> str:
    """Return text as it stands in a Markdown table."""
    return re.sub(r"([|\\`*_<>\[\]])", r"\\\1", " ".join(str(text).split()))


def store_card(manifest: Mapping[str, Any], *, index: bytes) -> str:
    """Return README.md of a store.

    Args:
        manifest: all of it.
        index: its index.parquet.
    """
    store, split = manifest["store"], manifest.get("split", "train")
    card = _head(manifest, [index], split=split, pattern="shard-*.tar")
    title = " ".join(
        str(manifest[name])
        for name in ("dataset", "method", "class_slug", "split")
        if name in manifest
    )
    card += f"\n# {escape(title) or 'Samples'}\n\n"
    card += f"{store['num_samples']} images with masks of {store['num_classes']} classes.\n"
    if not store["num_samples"]:
        card += "There is no shard, because no sample belongs to this partition.\n"
    return card + _body(manifest, split=split)


def method_card(manifest: Mapping[str, Any], *, indices: Sequence[bytes]) -> str:
    """Return README.md of the folder of a method's class partitions.

    Args:
        manifest: of one partition; any of them gives the same text.
        indices: index.parquet of all partitions, in the order of their names.
    """
    pattern = "*/shard-*.tar"
    card = _head(manifest, indices, split="train", pattern=pattern)
    card += f"\n# {escape(manifest['method'])}\n\n"
    card += "Synthetic images with masks, a folder for each class partition.\n"
    return card + _body(manifest, split="train")


def _head(
    manifest: Mapping[str, Any], indices: Sequence[bytes], *, split: str, pattern: str
) -> str:
    return front_matter(
        manifest.get("license"),
        data_files={split: pattern},
        digest=samples_digest(*indices),
        features=_features(indices, image_format=manifest["store"]["image_format"]),
    )


def _body(manifest: Mapping[str, Any], *, split: str) -> str:
    text = _models(manifest.get("models", {}))
    classes = manifest.get("classes")
    ignored = manifest.get("ignore_index", IGNORE_INDEX)
    if classes is not None:
        text += f"\n## Classes\n\nMasks hold the id; {ignored} is ignored.\n\n"
        text += class_table(classes)
        text += f"\n## Licence\n\n{license_sentence(manifest.get('license'))}\n"
    return text + _READING.format(split=split, image=manifest["store"]["image_format"])


def license_sentence(license_text: str | None) -> str:
    """Return what a card says about the licence."""
    if license_text is None:
        return "Nothing says under which licence the data behind these samples are."
    return f"Of the data behind these samples: {license_text}"


def _models(models: Mapping[str, Mapping[str, Any]]) -> str:
    if not models:
        return ""
    lines = ["\n## Models\n", "| model | source | revision |", "|---|---|---|"]
    for name, model in models.items():
        source, revision = model.get("source") or "", model.get("revision") or ""
        lines.append(f"| {escape(name)} | {escape(source)} | {escape(revision)} |")
    return "\n".join(lines) + "\n"


_READING = """
## Reading

```python
import datasets

samples = datasets.load_dataset("<this folder>", split="{split}")
```

`datasets` takes the types of the columns from this card, and keeps a copy in its cache as long as
the card stays the same. In the columns `mask.png` and `instances.png`, pixels are ids.

WebDataset's own image decoders ("pil", "rgb8", "torchrgb") turn masks into RGB pictures, scale ids
and cut instance ids above 255. So name a decoder for the masks before the one for images:

```python
import io
import numpy as np
import webdataset as wds
from PIL import Image

ids = wds.handle_extension("mask.png instances.png", lambda d: np.array(Image.open(io.BytesIO(d))))
samples = wds.WebDataset("shard-00000.tar", shardshuffle=False).decode(ids, "rgb8")
for sample in samples:
    image, mask = sample["{image}"], sample["mask.png"]  # uint8 [H, W, 3], uint8 [H, W]
```
"""
