"""Captions as tables that people read and edit: Parquet or CSV, one row a sample."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seggen_core.errors import CaptionError

if TYPE_CHECKING:
    import pandas as pd

    from seggen_core.store.reader import SampleStore


def read_caption_table(path: Path) -> dict[str, str]:
    """Read a table with the columns sample_key ("train-00012") and caption.

    Raises:
        CaptionError: it is missing or unreadable, or repeats a key, or holds an empty caption.
    """
    table = _read(path)
    if not {"sample_key", "caption"} <= set(table.columns):
        raise CaptionError(
            f"{path} has the columns {', '.join(map(str, table.columns))}; "
            "expected sample_key and caption"
        )
    keys = table["sample_key"].fillna("").astype(str).str.strip()
    texts = table["caption"].fillna("").astype(str).str.split().str.join(" ")
    refuse(
        path,
        "repeats",
        keys[keys.duplicated()].unique().tolist(),
        remedy="give each sample one caption",
    )
    refuse(
        path,
        "has an empty caption for",
        keys[texts == ""].tolist(),
        remedy="write one, or remove the row",
    )
    return dict(zip(keys, texts, strict=True))


def write_caption_table(path: Path, captions: Mapping[str, str]) -> None:
    """Write such a table, as CSV or Parquet by the suffix.

    CSV gets the mark that tells Excel it is UTF-8.
    """
    import pandas as pd

    table = pd.DataFrame(
        {"sample_key": list(captions), "caption": list(captions.values())}, dtype=str
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False, encoding="utf-8-sig")
    else:
        raise _wrong_suffix(path)


def refuse(path: Path, problem: str, keys: Sequence[str], *, remedy: str) -> None:
    """Raise CaptionError where there are `keys`, the first ten by name."""
    if keys:
        named = ", ".join(k or "(no key)" for k in keys[:10]) + (" ..." if len(keys) > 10 else "")
        raise CaptionError(f"{path} {problem} {len(keys)} sample(s): {named}; {remedy}")


class FileCaptioner:
    """Captions that the user wrote."""

    name = "file"

    def __init__(self, path: Path) -> None:
        """Read and check the table; CaptionError as `read_caption_table`."""
        self._path = path
        self._caption = read_caption_table(path)
        self.revision = hashlib.sha256(path.read_bytes()).hexdigest()[:12]

    def captions(
        self,
        store: "SampleStore",  # noqa: ARG002 (the interface's)
        *,
        keys: Sequence[str],
    ) -> Iterator[str]:
        """Yield one caption a key, once all are known to be there.

        Rows of other samples are not used.
        """
        missing = [k for k in keys if k not in self._caption]
        refuse(self._path, "has no caption for", missing, remedy="add the missing rows")
        yield from (self._caption[k] for k in keys)


def _read(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not path.is_file():
        raise CaptionError(
            f"{path} is not a file; expected a table with sample_key and caption: "
            "see captions in params.yaml"
        )
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            # Every cell is text: a caption "None" or "NA" stays what it is.
            return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # pandas' parser and pyarrow's errors are among these
        raise CaptionError(
            f"{path} can't be read: {error}; expected a Parquet or UTF-8 CSV table"
        ) from None
    raise _wrong_suffix(path)


def _wrong_suffix(path: Path) -> CaptionError:
    return CaptionError(f"{path} ends in {path.suffix!r}; expected .parquet or .csv")
