"""Captions from the user's file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seggen_core.captions.captioner import make_captioner
from seggen_core.captions.table import FileCaptioner
from seggen_core.config import CaptionsConfig
from seggen_core.errors import CaptionError, ConfigError
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from tests.captions.conftest import CAMVID_TAXONOMY


def _table(path: Path, rows: Sequence[tuple[str | None, str | None]]) -> FileCaptioner:
    table = pd.DataFrame(rows, columns=["sample_key", "caption"])
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)
    return FileCaptioner(path)


def _names(names: dict[str, str], tmp_path: Path) -> SampleStore:
    """A store whose samples come from files of these names, in this order."""
    image, mask = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)
    with SampleStoreWriter(tmp_path / "-".join(names), num_classes=2) as writer:
        for key, name in names.items():
            writer.add(Sample(key, image, mask, None, {"source_key": name}))
        writer.finish(manifest={})
    return SampleStore(writer.folder)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_file_gives_the_users_captions_in_the_order_asked_for(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    named = _names({"train-00000": "haus", "train-00001": "b/NA"}, tmp_path)
    rows = [("b/NA", "None"), ("haus", "ein Haus, «grün»"), ("zoo", "not asked for")]
    captioner = _table(tmp_path / f"captions{suffix}", rows)
    assert list(captioner.captions(named, keys=["train-00000", "train-00001"])) == [
        "ein Haus, «grün»",
        "None",
    ]
    assert "has 1 row(s) of no training sample: zoo; they are not used" in caplog.text
    before = captioner.revision
    assert _table(tmp_path / f"captions{suffix}", rows).revision == before
    changed = [*rows[1:], ("b/NA", "a house")]
    assert _table(tmp_path / f"captions{suffix}", changed).revision != before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_captions_follow_their_images(tmp_path: Path, suffix: str) -> None:
    """One image more at the front, one less at the end: every position is another image's."""
    before = _names({"train-00000": "b", "train-00001": "c"}, tmp_path / "before")
    captioner = _table(tmp_path / f"captions{suffix}", [("b", "a bus"), ("c", "a car")])
    assert list(captioner.captions(before, keys=before.keys())) == ["a bus", "a car"]

    after = _names({"train-00000": "a", "train-00001": "b"}, tmp_path / "after")
    with pytest.raises(
        CaptionError,
        match=r"has no caption for 1 sample\(s\): a; add the missing rows "
        r"\(the table has 1 row\(s\) of no training sample: c\)",
    ):
        next(captioner.captions(after, keys=after.keys()))
    rows = [("b", "a bus"), ("c", "a car"), ("a", "an arm")]
    captioner = _table(tmp_path / f"captions{suffix}", rows)
    assert list(captioner.captions(after, keys=after.keys())) == ["an arm", "a bus"]


def test_positions_are_refused_as_names(tmp_path: Path) -> None:
    named = _names({"train-00000": "haus"}, tmp_path)
    captioner = _table(tmp_path / "captions.csv", [("train-00000", "a house")])
    with pytest.raises(CaptionError, match=r"by position \(train-00000\).* such as 'haus'"):
        next(captioner.captions(named, keys=named.keys()))


def test_zeros_that_a_spreadsheet_drops_are_put_back(tmp_path: Path) -> None:
    named = _names({"train-00000": "00012", "train-00001": "7", "train-00002": "07"}, tmp_path)
    rows = [("12", "twelve"), ("7", "seven"), ("07", "other")]
    captioner = _table(tmp_path / "captions.csv", rows)
    assert list(captioner.captions(named, keys=named.keys())) == ["twelve", "seven", "other"]


def test_names_of_files_are_understood_in_either_form_of_unicode(tmp_path: Path) -> None:
    named = _names({"train-00000": "b/Stra\u00dfe \u00fc", "train-00001": "v1.jpg"}, tmp_path)
    rows = [("b/Stra\u00dfe u\u0308.JPG", "a road"), ("v1.jpg", "a bus")]
    captioner = _table(tmp_path / "captions.csv", rows)
    assert list(captioner.captions(named, keys=named.keys())) == ["a road", "a bus"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_spreadsheet_may_write_other_separators(tmp_path: Path, mark: str) -> None:
    named = _names({"train-00000": "a", "train-00001": "b"}, tmp_path)
    text = f'sample_key{mark}caption\na{mark}"a car, a bus; grass"\nb{mark}a bus\n'
    (tmp_path / "captions.csv").write_text(text, encoding="utf-8-sig")
    captions = FileCaptioner(tmp_path / "captions.csv").captions(named, keys=named.keys())
    assert list(captions) == ["a car, a bus; grass", "a bus"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_file_with_gaps_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"captions{suffix}"
    with pytest.raises(CaptionError, match=r"repeats 1 sample\(s\): a;"):
        _table(path, [("a", "a"), ("b", "b"), ("a", "c")])
    with pytest.raises(CaptionError, match=r"has an empty caption for 2 sample\(s\): b, c;"):
        _table(path, [("a", "a"), ("b", "  "), ("c", None)])
    named = _names({f"train-{i:05d}": name for i, name in enumerate("abcd")}, tmp_path)
    captioner = _table(path, [("a", "a"), ("c", "b")])
    with pytest.raises(CaptionError, match=r"has no caption for 2 sample\(s\): b, d;"):
        next(captioner.captions(named, keys=named.keys()))


def test_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptionError, match=r"nowhere\.csv is not a file"):
        FileCaptioner(tmp_path / "nowhere.csv")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CaptionError, match=r"ends in '\.txt'; expected \.parquet or \.csv"):
        FileCaptioner(tmp_path / "a.txt")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(CaptionError, match=r"a\.parquet can't be read"):
        FileCaptioner(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("image,text\n1,2\n")
    with pytest.raises(
        CaptionError, match="has the columns image, text; expected sample_key and caption"
    ):
        FileCaptioner(tmp_path / "a.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(CaptionError, match=r"empty\.csv can't be read"):
        FileCaptioner(tmp_path / "empty.csv")
    with pytest.raises(ConfigError, match=r"captions\.reads is not set"):
        make_captioner(CaptionsConfig(captioner="file"), taxonomy=CAMVID_TAXONOMY, device="cpu")
