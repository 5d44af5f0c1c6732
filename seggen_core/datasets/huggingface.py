"""A dataset of the Hugging Face Hub as Parquet files, with an image and a mask in each row.

    root/**/<split>-*.parquet   (or root/**/<split>/*.parquet, root/<split>.parquet)
    root/id2label.json          (or another class list: `class_list`)

The files are those of a downloaded repository (`hf download --repo-type dataset`), of
`Dataset.to_parquet` or of `seggen export`. `dataset.columns` names the columns where their names
don't tell. A sample is called by its key or id, by the name of its image's file, or else by a
digest of its image. Row groups are read one at a time, so they have to fit into memory.
Source: https://huggingface.co/docs/hub/datasets-image (Image columns hold {bytes, path})
"""

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.config.data import ColumnNames
from seggen_core.datasets.annotated_files import SPLIT_NAMES, check_has_train, find_class_file
from seggen_core.datasets.class_list import read_class_file
from seggen_core.datasets.decode import SampleFiles
from seggen_core.datasets.files import (
    MAX_SAMPLES,
    brief,
    cut,
    describe_folder,
    inside,
    normal,
    read_key_list,
    regular_size,
)
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader
from seggen_core.datasets.packed import PackedFile
from seggen_core.datasets.reader import SPLITS, Conventions
from seggen_core.datasets.sample import CHECK
from seggen_core.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_CLASS_FILES = ("id2label.json", "classes.json", "classes.csv", "class_names.txt")
_IMAGES = ("image", "pixel_values", "img", "images")
_MASKS = (
    "mask",
    "label",
    "labels",
    "annotation",
    "segmentation_mask",
    "semantic_mask",
    "segmentation",
)
_INSTANCES = ("instances", "instance_map")
_KEYS = ("key", "id", "image_id", "file_name", "filename")
_MAX_GROUP_BYTES = 1 << 30
"""Largest row group that is read: 1 GiB of pictures."""

_MAX_UNLISTED_SHARE = 0.1
_Row = tuple[Path, int, int]
"""File, row group, and row in the group."""


@dataclass(frozen=True)
class _Rows:
    """The samples of a split, by key; several rows where a key is taken twice."""

    rows: dict[str, list[_Row]]
    columns: ColumnNames
    keys: list[str]

    @property
    def instances(self) -> str | None:
        """The column of instance maps; None where there is none."""
        return self.columns.instances


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> "ParquetReader":
    """Read the class list and the keys; DatasetError where a file is missing."""
    path = find_class_file(config, root, _CLASS_FILES)
    if path is None:
        raise DatasetError(
            f"{root} has no {', '.join(_CLASS_FILES)}; expected the names of the classes by id "
            '({"0": "wall", ...}): write one, or set dataset.classes_file '
            f"({describe_folder(root)})"
        )
    form = IdMapFormat(
        dataset="huggingface",
        table=read_class_file(path),
        mask_modes=("L", "P", "I;16", "RGB", "1"),
        instances_modes=("I;16", "L"),
        instance_ids=_instance_ids,
        conventions=Conventions(
            max_unlisted_share=_MAX_UNLISTED_SHARE,
            unlisted=(
                f"They hold 255, which {path.name} doesn't list. If 255 is an object, list it; if "
                "nobody labelled it, set dataset.max_unlisted_share to allow it."
            ),
            has_own_classes=True,
        ),
    )
    by_split = _find_files(root)
    check_has_train(
        config, {s: s if s in by_split else None for s in SPLITS}, where=root, kind="split"
    )
    layout: dict[Split, SplitFiles] = {split: SplitFiles() for split in config.files}
    layout |= {split: SplitFiles(annotations=split) for split in by_split}
    unread = _unread_files(root, by_split)
    if unread:
        form = replace(form, table=replace(form.table, notes=(*form.table.notes, unread)))
    return ParquetReader(config, form=form, layout=layout, root=root, seed=seed)


class ParquetReader(IdMapReader):
    """Images and masks are columns of Parquet files; the row group read last is kept."""

    _listings: dict[Split, _Rows]  # type: ignore[assignment]

    def __init__(self, config: DatasetConfig, **options: Any) -> None:
        """List the rows; the options are those of `IdMapReader`."""
        self._columns = config.columns
        self._group: tuple[tuple[Path, int], pa.Table] | None = None
        self._lock = threading.Lock()
        super().__init__(config, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the lock, and the pictures that were read last."""
        return self.__dict__ | {"_group": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a new lock."""
        self.__dict__.update(state, _lock=threading.Lock())

    def _list(self, files: SplitFiles) -> _Rows:  # type: ignore[override]
        by_split = _find_files(self._root)
        paths = by_split.get(files.annotations or "", [])  # type: ignore[call-overload]
        if files.annotations is not None and not paths:
            paths = [self._root / files.annotations]
        rows: dict[str, list[_Row]] = {}
        columns = ColumnNames()
        for path in paths:
            file = _open(inside(path, root=self._root))
            columns = _choose_columns(file, self._columns, path=path)
            for key, row in _keys(file, columns, path=path):
                rows.setdefault(key, []).append(row)
                if len(rows) > MAX_SAMPLES:
                    raise DatasetError(f"{path} has more than {MAX_SAMPLES} rows; expected fewer")
        keys = list(rows)
        if files.keys is not None:
            keys = read_key_list(self._root / files.keys)
        return _Rows(rows, columns, keys)

    def _files(self, split: Split, key: str) -> SampleFiles:
        listing, form = self._listings[split], self._form
        rows = listing.rows.get(key, [])
        if len(rows) != 1:
            where = brief(", ".join(f"{path.name}, row {row}" for path, _, row in rows))
            raise DatasetError(
                f"{self._root} has {len(rows)} rows called {brief(key)}{': ' if rows else ''}"
                f"{where}; expected one: set dataset.columns.key to a column that differs {CHECK}"
            )
        path, group, row = rows[0]
        table = self._read_group(path, group, columns=listing.columns)
        get = partial(_picture, table, row, path=path, key=key)
        columns = listing.columns
        assert columns.image is not None
        assert columns.mask is not None
        instances = get(columns.instances, may_lack=True) if columns.instances else None
        image, mask = get(columns.image), get(columns.mask)
        assert image is not None
        assert mask is not None
        return SampleFiles(image, mask, instances, form.mask_modes, form.instances_modes)

    def _read_group(self, path: Path, group: int, *, columns: ColumnNames) -> "pa.Table":
        import pyarrow as pa

        with self._lock:
            if self._group is not None and self._group[0] == (path, group):
                return self._group[1]
            wanted = [c for c in (columns.image, columns.mask, columns.instances) if c is not None]
            try:
                file = _open(path)
                size = _group_bytes(file, group, wanted)
                if size > _MAX_GROUP_BYTES:
                    raise DatasetError(
                        f"{path} has a row group of {size} bytes; expected at most "
                        f"{_MAX_GROUP_BYTES}: write it again with fewer rows a group "
                        "(Dataset.to_parquet, batch_size=100)"
                    )
                table = file.read_row_group(group, columns=wanted)
            except (pa.ArrowException, OSError, MemoryError) as error:
                raise DatasetError(
                    f"{path}, row group {group} can't be read ({brief(error)}); expected a whole "
                    f"Parquet file: download it again {CHECK}"
                ) from None
            self._group = ((path, group), table)
            return table


def _find_files(root: Path) -> dict[Split, list[Path]]:
    """Return the Parquet files of each split; files of no split are train where there is none."""
    paths = sorted(p for p in root.rglob("*.parquet") if not _is_hidden(p.relative_to(root)))
    by_split: dict[Split, list[Path]] = {}
    for path in paths:
        names = [re.split(r"[-._]", path.name)[0].lower(), path.parent.name.lower()]
        split = next((s for s, known in SPLIT_NAMES.items() if set(names) & set(known)), None)
        if split is not None:
            by_split.setdefault(split, []).append(path)
    if not paths:
        raise DatasetError(
            f"{root} has no *.parquet; expected a dataset of the Hub as Parquet files: download "
            "it (hf download --repo-type dataset), or write it by Dataset.to_parquet "
            f"({describe_folder(root)})"
        )
    return by_split or {"train": paths}


def _unread_files(root: Path, by_split: Mapping[Split, Sequence[Path]]) -> str:
    """Return a note on Parquet files that are called as no split; "" where there is none."""
    read = {path for paths in by_split.values() for path in paths}
    paths = [p for p in sorted(root.rglob("*.parquet")) if not _is_hidden(p.relative_to(root))]
    others = [p.relative_to(root).as_posix() for p in paths if p not in read]
    if not others:
        return ""
    return f"{brief(', '.join(others))}: called as no split (train, val, test), so not read"


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _open(path: Path) -> "pq.ParquetFile":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        regular_size(path)
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(
            f"{path} can't be read ({brief(error)}); expected a Parquet file: download it again"
        ) from None


def _group_bytes(file: "pq.ParquetFile", group: int, columns: Sequence[str]) -> int:
    about = file.metadata.row_group(group)
    parts = [about.column(i) for i in range(about.num_columns)]
    read = [p for p in parts if p.path_in_schema.split(".")[0] in columns]
    return sum(p.total_uncompressed_size for p in read)


def _choose_columns(file: "pq.ParquetFile", given: ColumnNames, *, path: Path) -> ColumnNames:
    """Return the columns to read: those that are given, else those whose names tell."""
    import pyarrow as pa

    kinds = {field.name: field.type for field in file.schema_arrow}
    pictures = [
        name
        for name, kind in kinds.items()
        if pa.types.is_struct(kind)
        and {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    ]

    def choose(what: str, names: Sequence[str], among: Sequence[str]) -> str | None:
        name = getattr(given, what)
        if name is not None and name not in among:
            raise DatasetError(
                f"{path} has no column {brief(name)!r} for dataset.columns.{what}; it has: "
                f"{brief(', '.join(among) or 'none')}"
            )
        return name or next((n for n in names if n in among), None)

    image, mask = choose("image", _IMAGES, pictures), choose("mask", _MASKS, pictures)
    if image is None or mask is None or image == mask:
        raise DatasetError(
            f"{path} has the columns {brief(', '.join(kinds))}, of which "
            f"{brief(', '.join(pictures) or 'none')} hold pictures; expected an image and a mask: "
            "set dataset.columns to {image: NAME, mask: NAME}"
        )
    is_name = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
    plain = [name for name, kind in kinds.items() if any(test(kind) for test in is_name)]
    return ColumnNames(
        image=image,
        mask=mask,
        instances=choose("instances", _INSTANCES, pictures),
        key=choose("key", _KEYS, plain),
    )


def _keys(
    file: "pq.ParquetFile", columns: ColumnNames, *, path: Path
) -> Iterator[tuple[str, _Row]]:
    """Yield the key and place of each row, in the order of the file."""
    import pyarrow as pa

    try:
        for group in range(file.num_row_groups):
            if columns.key is not None:
                table = file.read_row_group(group, columns=[columns.key])
                names = [None if v is None else str(v) for v in table[columns.key].to_pylist()]
            else:
                assert columns.image is not None
                table = file.read_row_group(group, columns=[f"{columns.image}.path"])
                names = [(v or {}).get("path") for v in table[columns.image].to_pylist()]
                if not all(names):
                    names = _digests(file, group, columns.image, path=path)
            for row, name in enumerate(names):
                stem = PurePosixPath(normal(name or "")).stem if columns.key is None else name
                yield cut(stem or f"{path.stem}-{group}-{row}"), (path, group, row)
    except (pa.ArrowException, OSError, KeyError, MemoryError) as error:
        raise DatasetError(
            f"{path} can't be read ({brief(error)}); expected a whole Parquet file: download it "
            "again"
        ) from None


def _digests(file: "pq.ParquetFile", group: int, column: str, *, path: Path) -> list[str | None]:
    """Return a name for each row of a group whose images have none: a digest of the image."""
    if _group_bytes(file, group, [column]) > _MAX_GROUP_BYTES:
        raise DatasetError(f"{path} has a row group of more than {_MAX_GROUP_BYTES} bytes")
    table = file.read_row_group(group, columns=[f"{column}.bytes"])
    values = [(v or {}).get("bytes") for v in table[column].to_pylist()]
    return [None if v is None else hashlib.sha256(v).hexdigest()[:16] for v in values]


def _picture(
    table: "pa.Table", row: int, column: str, *, path: Path, key: str, may_lack: bool = False
) -> PackedFile | None:
    value = table[column][row].as_py()
    data = (value or {}).get("bytes")
    if data is None and may_lack:
        return None
    if data is None:
        raise DatasetError(
            f"{path}, row of {brief(key)} has no {column}; expected its bytes in the file: embed "
            f"them (datasets: Dataset.to_parquet) {CHECK}"
        )
    return PackedFile(path, f"{column} of {brief(key)}", data)


def _instance_ids(instances: np.ndarray, segmentation_map: np.ndarray) -> np.ndarray:  # noqa: ARG001 (the interface's)
    return instances.astype(np.int64)
