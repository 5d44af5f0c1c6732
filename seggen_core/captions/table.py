"""Captions as tables that people read and edit: Parquet or CSV, one row a sample."""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from seggen_core.datasets.files import IMAGE_SUFFIXES, normal
from seggen_core.errors import CaptionError
from seggen_core.project.storage import written_whole

if TYPE_CHECKING:
    import pandas as pd

    from seggen_core.store.reader import SampleStore

logger = logging.getLogger(__name__)

_POSITION = re.compile(r"(train|val|test)-\d{5,}")
"""A key of a sample store: the position among the samples of a split, which files added move."""


class MatchedCaptions(NamedTuple):
    """The captions of a user's table, by sample.

    Attributes:
        captions: caption by key in the store ("train-00012").
        unused: rows of the table that belong to no sample of the store.
    """

    captions: dict[str, str]
    unused: list[str]


def sample_names(store: "SampleStore") -> dict[str, str]:
    """Return the dataset's own name of each sample (the stem of its file), by key in the store.

    A user's table names samples so: a position ("train-00012") is another image's as soon as a file
    is added.

    Raises:
        CaptionError: the store doesn't hold the names.
    """
    names = store.index["source_key"]
    if names.isna().any():
        raise CaptionError(
            f"{store.folder} doesn't say from which files its samples were made; run: "
            "dvc repro -f -s dataset"
        )
    return dict(zip(store.keys(), names, strict=True))


def match_captions(path: Path, *, names: Mapping[str, str]) -> MatchedCaptions:
    """Read a user's table and find the sample that each row is of.

    A spreadsheet takes "00012" for a number and writes "12". Such a name counts as the only one
    that is the same number. A name may have its image's suffix ("00012.jpg"), and letters in the
    other form of Unicode.

    Args:
        path: the table.
        names: as `sample_names` returns them.

    Raises:
        CaptionError: as `read_caption_table`, or the rows are keyed by position.
    """
    table = read_caption_table(path)
    key_of = {name: key for key, name in names.items()}
    numbers: dict[int, list[str]] = {}
    for name in key_of:
        if name.isdecimal():
            numbers.setdefault(int(name), []).append(name)
    captions: dict[str, str] = {}
    unused: list[str] = []
    for row, text in table.items():
        same_number = numbers.get(int(row), []) if row.isdecimal() else []
        name = normal(row)
        if name not in key_of and name.lower().endswith(IMAGE_SUFFIXES):
            name = name.rpartition(".")[0]
        name = name if name in key_of or len(same_number) != 1 else same_number[0]
        if name not in key_of or key_of[name] in captions:
            unused.append(row)
        else:
            captions[key_of[name]] = text
    example = next(iter(key_of), "")
    positions = [row for row in unused if _POSITION.fullmatch(row)]
    if positions and not _POSITION.fullmatch(example):
        raise CaptionError(
            f"{path} names samples by position ({positions[0]}), which is another image's as soon "
            f"as a file is added; expected the names of the dataset's files, such as {example!r}: "
            "write the table again with: seggen captions-export --out captions.csv"
        )
    return MatchedCaptions(captions, unused)


def read_caption_table(path: Path) -> dict[str, str]:
    """Read a table with the columns sample_key and caption.

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

    CSV gets the mark that tells Excel it is UTF-8. A table that was there stays if this fails.

    Raises:
        CaptionError: the suffix is another one.
        StorageError: the table can't be written.
    """
    import pandas as pd

    if path.suffix not in (".csv", ".parquet"):
        raise _wrong_suffix(path)
    table = pd.DataFrame(
        {"sample_key": list(captions), "caption": list(captions.values())}, dtype=str
    )
    with written_whole(path) as file:
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            table.to_parquet(file, index=False)
        else:
            table.to_csv(file, index=False, encoding="utf-8-sig")


def refuse(path: Path, problem: str, keys: Sequence[str], *, remedy: str) -> None:
    """Raise CaptionError where there are `keys`, the first ten by name."""
    if keys:
        raise CaptionError(f"{path} {problem} {len(keys)} sample(s): {_some(keys)}; {remedy}")


def _some(keys: Sequence[str]) -> str:
    return ", ".join(k or "(no key)" for k in keys[:10]) + (" ..." if len(keys) > 10 else "")


class FileCaptioner:
    """Captions that the user wrote."""

    name = "file"

    def __init__(self, path: Path) -> None:
        """Read and check the table; CaptionError as `read_caption_table`."""
        read_caption_table(path)
        self._path = path
        self.revision = hashlib.sha256(path.read_bytes()).hexdigest()[:12]

    def captions(self, store: "SampleStore", *, keys: Sequence[str]) -> Iterator[str]:
        """Yield one caption a key, once all are known to be there.

        Rows of other samples are not used; a warning names them.
        """
        names = sample_names(store)
        captions, unused = match_captions(self._path, names=names)
        missing = [names[k] for k in keys if k not in captions]
        no_sample = f"{len(unused)} row(s) of no training sample: {_some(unused)}"
        refuse(
            self._path,
            "has no caption for",
            missing,
            remedy="add the missing rows" + (f" (the table has {no_sample})" if unused else ""),
        )
        if unused:
            logger.warning("%s has %s; they are not used", self._path, no_sample)
        yield from (captions[k] for k in keys)


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
            with path.open(encoding="utf-8-sig") as file:
                separator = _separator(file.readline())
            return pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig"
            )
    except (OSError, ValueError) as error:  # pandas' parser and pyarrow's errors are among these
        reason = " ".join(str(error).split())
        raise CaptionError(
            f"{path} can't be read: {reason}; expected a Parquet or UTF-8 CSV table"
        ) from None
    raise _wrong_suffix(path)


def _separator(header: str) -> str:
    """Return what separates the columns: many spreadsheets write ";" or tabs instead of ","."""
    names = header.replace('"', "")
    return next((mark for mark in ";\t" if mark in names and "," not in names), ",")


def _wrong_suffix(path: Path) -> CaptionError:
    return CaptionError(f"{path} ends in {path.suffix!r}; expected .parquet or .csv")
