"""Files that one stage reads from another: read with their types, or refused with the cure.

DVC compares hashes when it runs a stage or `dvc status`. A stage that somebody runs by hand, and a
file that was damaged after DVC looked at it, are not covered by that; here the form of a file is
checked whenever it is read. Values of the right form that are other values only DVC's hashes find.
"""

import stat
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from seggen_core.errors import ArtefactError

if TYPE_CHECKING:
    import pandas as pd

MAX_JSON_BYTES = 1 << 28
"""Largest JSON file that is read: 256 MiB. Subsets of four million samples have 100 MB."""


def read_artefact(path: Path, kind: Any, *, stage: str) -> Any:
    """Read a JSON file of an earlier stage.

    Args:
        path: the file.
        kind: the type that it holds, for pydantic; values are strict ("3" is no number).
        stage: that made it, as DVC names it ("evaluate@baseline").

    Raises:
        ArtefactError: it is no JSON of this type.
        FileNotFoundError: there is no such file.
    """
    try:
        return parse_typed(read_regular(path, max_bytes=MAX_JSON_BYTES), kind)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise damaged(path, str(error), stage=stage) from None


def read_regular(path: Path, *, max_bytes: int) -> bytes:
    """Read a regular file.

    Raises:
        OSError: it can't be read.
        ValueError: it is a folder, FIFO or device, or has more than `max_bytes`.
    """
    status = path.stat()  # opening a FIFO would wait for somebody who writes to it
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    return path.read_bytes()


def parse_typed(data: bytes, kind: Any) -> Any:
    """Parse JSON of a type; ValueError says in one line what is wrong.

    The depth is bounded by pydantic's parser.
    """
    try:
        return _adapter(kind).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:60] for part in first["loc"][:8])
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {message}" if where else message) from None


def read_table(path: Path, *, text_columns: Sequence[str], stage: str) -> "pd.DataFrame":
    """Read a Parquet file of an earlier stage.

    Args:
        path: the file.
        text_columns: columns that it needs, with text in every row.
        stage: that made it.

    Raises:
        ArtefactError: it is no Parquet file, or a column is missing or holds something else.
        FileNotFoundError: there is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise damaged(path, "it is no regular file", stage=stage)
        # Pages have checksums: a bit that flipped is found.
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (ArtefactError, FileNotFoundError):
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise damaged(path, " ".join(str(error).split())[:300], stage=stage) from None
    for name in text_columns:
        if table.column_names.count(name) != 1:
            raise damaged(path, f"it has no column {name!r}", stage=stage)
        column = table[name]
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise damaged(path, f"its column {name!r} holds {column.type}, not text", stage=stage)
        if column.null_count:
            raise damaged(path, f"its column {name!r} has empty places", stage=stage)
    try:
        frame: pd.DataFrame = table.to_pandas()
    except (KeyError, TypeError, ValueError) as error:  # pandas' notes in it have no checksum
        raise damaged(path, f"pandas can't read its notes: {error}", stage=stage) from None
    return frame


def damaged(path: Path, problem: str, *, stage: str) -> ArtefactError:
    """Return the error for a damaged file: what is wrong, and what brings it back."""
    return ArtefactError(
        f"{path} is damaged: {problem}; the stage {stage} made it: run: dvc checkout --force "
        f"{place(path)}, or dvc repro -f -s {stage}"
    )


def stage_of(path: Path) -> str:
    """Return the stage that made data/checkpoints/<arm>/... or data/reports/<kind>/<name>/..."""
    parts = path.parts
    kind, *rest = parts[len(parts) - parts[::-1].index("data") :]
    return f"train_seg@{rest[0]}" if kind == "checkpoints" else f"{rest[0]}@{rest[1]}"


def is_there(path: Path) -> bool:
    """Return whether there is anything at a path, if only a link to nothing.

    Optional inputs are left out only where there is nothing.
    """
    return path.is_symlink() or path.exists()


def place(path: Path) -> str:
    """Return the path from the project's folder, where `data` lies."""
    parts = path.parts
    return (
        str(Path(*parts[len(parts) - 1 - parts[::-1].index("data") :]))
        if "data" in parts
        else (str(path))
    )


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
