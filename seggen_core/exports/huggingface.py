"""A dataset folder of the Hugging Face Hub: Parquet files a split, and a card.

    data/<split>-00000.parquet ...    key, image, mask, instances, source, prompt, metadata
    id2label.json                     names of the classes by train id
    README.md                         card: licence, classes, colours, methods, models, quality

`datasets.load_dataset(folder)` reads it, on disk and as a repository of the Hub. Pixels of `mask`
are train ids, 255 where they are ignored; pixels of `instances` (16 bit) are 0 where there is no
instance. Source: https://huggingface.co/docs/datasets/image_dataset
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seggen_core.exports.job import ExportJob, Writer
from seggen_core.exports.sample import ExportSample
from seggen_core.project.publish import write_json

GROUP_BYTES = 64 * 2**20
"""Pictures that are in memory at a time."""
FILE_BYTES = 512 * 2**20
"""Size from which on a new file is begun."""
_MAX_GROUP = 100
"""Most samples of a row group: the Hub's viewer reads whole groups."""

_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_COLUMNS = {
    "key": pa.string(),
    "image": _PICTURE,
    "mask": _PICTURE,
    "instances": _PICTURE,
    "source": pa.string(),
    "prompt": pa.string(),
    "metadata": pa.string(),
}


def schema() -> pa.Schema:
    """Return the columns, with the features that `datasets` reads."""
    features = {
        name: {"_type": "Image"} if kind == _PICTURE else {"dtype": "string", "_type": "Value"}
        for name, kind in _COLUMNS.items()
    }
    about = json.dumps({"info": {"features": features}})
    return pa.schema(list(_COLUMNS.items()), metadata={"huggingface": about})


class HuggingFaceFolder(Writer):
    """Writes Parquet files."""

    opening = """```python
import datasets

samples = datasets.load_dataset("<this folder>", split="{split}")
```"""

    def __init__(self, job: ExportJob, folder: Path) -> None:
        """Begin the files of all splits at their first sample."""
        super().__init__(job, folder)
        (folder / "data").mkdir()
        self._schema = schema()
        self._splits = {
            split: _SplitFiles(folder / "data", split) for split in job.selection.splits
        }

    def add(self, sample: ExportSample) -> None:
        """Append one row."""
        image, suffix = sample.image_as(None if self.job.images == "stored" else self.job.images)
        instances = sample.instances
        row = {
            "key": sample.key,
            "image": {"bytes": image, "path": f"{sample.key}.{suffix}"},
            "mask": {"bytes": sample.mask, "path": f"{sample.key}.mask.png"},
            "instances": None
            if instances is None
            else {"bytes": instances, "path": f"{sample.key}.instances.png"},
            "source": sample.source,
            "prompt": sample.metadata.get("prompt"),
            "metadata": sample.metadata_json(),
        }
        size = len(image) + len(sample.mask) + len(instances or b"")
        self._splits[sample.split].append(row, size=size, schema=self._schema)

    def finish(self) -> list[str]:
        """End the files."""
        for files in self._splits.values():
            files.finish(self._schema)
        names = {c.train_id: c.name for c in self.job.selection.taxonomy}
        write_json(self.folder / "id2label.json", names)
        return []

    def close(self) -> None:
        """Give up the files."""
        for files in self._splits.values():
            files.close()


class _SplitFiles:
    """The Parquet files of one split, of which one grows."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._rows: list[dict[str, Any]] = []
        self._group_bytes = self._file_bytes = self._num_files = 0
        self._writer: pq.ParquetWriter | None = None

    def append(self, row: dict[str, Any], *, size: int, schema: pa.Schema) -> None:
        """Append a row with pictures of `size` bytes."""
        self._rows.append(row)
        self._group_bytes += size
        if self._group_bytes >= GROUP_BYTES or len(self._rows) >= _MAX_GROUP:
            self._write_group(schema)

    def finish(self, schema: pa.Schema) -> None:
        """Write the rows that are left."""
        if self._rows:
            self._write_group(schema)
        self.close()

    def _write_group(self, schema: pa.Schema) -> None:
        if self._writer is None:
            file = self._folder / f"{self._split}-{self._num_files:05d}.parquet"
            self._writer = pq.ParquetWriter(file, schema, compression="none")
            self._num_files += 1
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=schema))
        self._file_bytes += self._group_bytes
        self._rows, self._group_bytes = [], 0
        if self._file_bytes >= FILE_BYTES:
            self.close()
            self._file_bytes = 0

    def close(self) -> None:
        """End the file that grows."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
