import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from seggen_core.errors import SampleStoreError, StorageError
from seggen_core.store import format as sample_store_format
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter, open_partitions

NUM_SAMPLES = 11
SHARD_BYTES = 40_000  # a few samples a shard
MANIFEST = {"stage": "masksyn", "params": {"seed": 0}}


def make_sample(index: int) -> Sample:
    rng = np.random.default_rng(index)
    segmentation_map = rng.integers(0, 3, (40, 48), np.uint8)
    segmentation_map[:2] = 255
    metadata = {
        "source_key": f"train-{index:05d}",
        "class_slug": "car",
        "seed": 2**62 + index,
        "prompt": f"a phöto of {index} cars",
        "model_hash": "abc",
        "quality": {"score": index / 7, "off_palette": 0} if index % 2 else {"score": 1},
        "layout": {"things": [{"x": 0.5}]},
    }
    instance_map = rng.integers(0, 60_000, (40, 48), np.uint16) if index % 3 else None
    return Sample(
        f"train-{index:05d}-masksyn_{index}",
        rng.integers(0, 256, (40, 48, 3), np.uint8),
        segmentation_map,
        instance_map,
        metadata,
    )


def write_store(
    folder: Path, *, pause: float = 0, linger: float = 0, commit_every: int = 2
) -> None:
    """Write or go on writing the store that all tests compare with."""
    with SampleStoreWriter(folder, num_classes=3, shard_bytes=SHARD_BYTES) as writer:
        done = set(writer.committed)
        for index, sample in enumerate(map(make_sample, range(NUM_SAMPLES))):
            if sample.key not in done:
                writer.add(sample)
                time.sleep(pause)
                if index % commit_every == 0:
                    writer.commit()
        time.sleep(linger)
        writer.finish(manifest=MANIFEST)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_python(*arguments: str | Path, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store; read only."""
    folder = tmp_path_factory.mktemp("store") / "synthetic" / "masksyn" / "car"
    write_store(folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished store that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "synthetic" / "masksyn" / "car"))


def assert_same(found: Sample, expected: Sample) -> None:
    assert found.key == expected.key
    assert found.metadata == expected.metadata
    for name in ("image", "segmentation_map", "instance_map"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None)
        if b is not None:
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


# Reading


def test_round_trip_by_position_and_by_key(finished: Path) -> None:
    store = SampleStore(finished)
    assert len(store) == NUM_SAMPLES
    assert store.keys() == [make_sample(i).key for i in range(NUM_SAMPLES)]
    for index in random.Random(0).sample(range(NUM_SAMPLES), NUM_SAMPLES):
        expected = make_sample(index)
        assert_same(store[index], expected)
        assert_same(store[expected.key], expected)
        assert np.array_equal(store.read_image(index), expected.image)
        assert np.array_equal(store.read_mask(expected.key), expected.segmentation_map)
        assert store.read_metadata(index) == expected.metadata
    assert_same(store[-1], make_sample(NUM_SAMPLES - 1))
    assert [sample.key for sample in store] == store.keys()
    assert store.keys()[3] in store
    assert "absent" not in store
    assert store[0].image.flags.writeable


def test_unknown_samples_are_named(finished: Path) -> None:
    store = SampleStore(finished)
    with pytest.raises(SampleStoreError, match="no sample 'absent' among the 11"):
        store["absent"]
    with pytest.raises(IndexError, match="position 11 of 11"):
        store[NUM_SAMPLES]


def test_index_columns(finished: Path) -> None:
    index = SampleStore(finished).index
    members = [
        f"{m}_{what}"
        for m in ("image", "mask", "instances", "json")
        for what in ("offset", "bytes", "crc32")
    ]
    metadata = ["source_key", "class_slug", "seed", "prompt", "model_hash"]
    quality = ["quality_off_palette", "quality_score"]
    assert list(index.columns) == [
        "key",
        "shard",
        *members,
        *metadata,
        "class_pixel_counts",
        *quality,
    ]
    assert index["quality_off_palette"].isna().tolist() == [
        position % 2 == 0 for position in range(NUM_SAMPLES)
    ]
    for position, row in enumerate(index.to_dict("records")):
        sample = make_sample(position)
        expected = [int((sample.segmentation_map == c).sum()) for c in range(3)]
        assert list(row["class_pixel_counts"]) == expected
        assert row["seed"] == 2**62 + position
        assert row["prompt"] == sample.metadata["prompt"]
        assert row["quality_score"] == pytest.approx(sample.metadata["quality"]["score"], abs=0)
        assert (row["instances_bytes"] == 0) == (sample.instance_map is None)
    assert index["shard"].nunique() > 2
    assert np.stack(index["class_pixel_counts"]).shape == (NUM_SAMPLES, 3)


def test_missing_metadata_stays_missing_and_seeds_exact(tmp_path: Path) -> None:
    with SampleStoreWriter(tmp_path / "s", num_classes=3) as writer:
        writer.add(replace(make_sample(0), metadata={"seed": 2**62 + 1}))
        writer.add(replace(make_sample(1), metadata={}))
        writer.finish(manifest={})
    index = SampleStore(tmp_path / "s").index
    assert int(index["seed"][0]) == 2**62 + 1
    assert index.loc[1, ["source_key", "class_slug", "seed", "prompt", "model_hash"]].isna().all()


def test_any_tar_reader_sees_a_webdataset(finished: Path) -> None:
    seen: list[str] = []
    for shard in sorted(finished.glob("shard-*.tar")):
        assert shard.stat().st_size <= SHARD_BYTES
        assert shard.read_bytes().endswith(bytes(1024))
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.mode, member.uname) == (
                    0,
                    0,
                    0,
                    0o644,
                    "",
                )
                key, _, suffix = member.name.partition(".")
                if suffix == "png":
                    seen.append(key)
                    sample = make_sample(len(seen) - 1)
                assert key == seen[-1] == sample.key  # members of one key are adjacent
                file = tar.extractfile(member)
                assert file is not None
                if suffix == "json":
                    assert (
                        file.read()
                        == json.dumps(sample.metadata, sort_keys=True, ensure_ascii=False).encode()
                    )
                else:
                    arrays = {
                        "png": sample.image,
                        "mask.png": sample.segmentation_map,
                        "instances.png": sample.instance_map,
                    }
                    assert np.array_equal(np.asarray(Image.open(file)), arrays[suffix])
    assert seen == SampleStore(finished).keys()


def test_index_offsets_point_at_tar_members(finished: Path) -> None:
    store = SampleStore(finished)
    offsets = {}
    for shard in finished.glob("shard-*.tar"):
        with tarfile.open(shard) as tar:
            offsets |= {
                member.name: (shard.name, member.offset_data, member.size) for member in tar
            }
    for row in store.index.to_dict("records"):
        assert offsets.pop(f"{row['key']}.mask.png") == (
            row["shard"],
            row["mask_offset"],
            row["mask_bytes"],
        )
        assert offsets.pop(f"{row['key']}.json") == (
            row["shard"],
            row["json_offset"],
            row["json_bytes"],
        )


def test_jpeg_images(tmp_path: Path) -> None:
    image = np.broadcast_to(np.linspace(0, 255, 48).astype(np.uint8)[None, :, None], (40, 48, 3))
    with SampleStoreWriter(tmp_path, num_classes=3, image_format="jpg") as writer:
        writer.add(replace(make_sample(1), image=image))
        writer.finish(manifest={})
    with tarfile.open(tmp_path / "shard-00000.tar") as tar:
        assert tar.getnames()[0] == f"{make_sample(1).key}.jpg"
    sample = SampleStore(tmp_path)[0]
    assert np.abs(sample.image.astype(int) - image).max() < 4
    assert np.array_equal(sample.segmentation_map, make_sample(1).segmentation_map)


def test_pickled_store_reads_in_another_process_and_in_threads(finished: Path) -> None:
    store = SampleStore(finished)
    expected = [zlib.crc32(sample.image) for sample in store]
    code = "import pickle, sys, zlib; s = pickle.load(sys.stdin.buffer); print([zlib.crc32(s[i].image) for i in range(len(s))])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(store),
        env=environment,
        capture_output=True,
        check=True,
    )
    assert json.loads(child.stdout) == expected
    with ThreadPoolExecutor(4) as pool:
        fresh = SampleStore(finished)
        assert list(pool.map(lambda i: zlib.crc32(fresh[i].image), range(NUM_SAMPLES))) == expected


def test_empty_store(tmp_path: Path) -> None:
    with SampleStoreWriter(tmp_path, num_classes=3) as writer:
        writer.finish(manifest={})
    store = SampleStore(tmp_path)
    assert len(store) == 0
    assert store.keys() == list(store) == []
    assert "seed" in store.index


def test_open_partitions_in_order_of_slugs(tmp_path: Path) -> None:
    for slug in ("tree", "bus"):
        with SampleStoreWriter(tmp_path / "masksyn" / slug, num_classes=3) as writer:
            writer.finish(manifest={"class": slug})
    assert [store.manifest["class"] for store in open_partitions(tmp_path / "masksyn")] == [
        "bus",
        "tree",
    ]
    (tmp_path / "masksyn" / "car").mkdir()
    with pytest.raises(SampleStoreError, match="car is no sample store"):
        open_partitions(tmp_path / "masksyn")
    with pytest.raises(SampleStoreError, match="no class partition; run: dvc repro imgsyn"):
        open_partitions(tmp_path / "imgsyn")


# Damage


def test_corrupt_member_is_named_and_the_others_read(folder: Path) -> None:
    row = SampleStore(folder).index.iloc[4]
    with (folder / row["shard"]).open("r+b") as shard:
        shard.seek(row["mask_offset"] + row["mask_bytes"] // 2)
        byte = shard.read(1)[0]
        shard.seek(-1, os.SEEK_CUR)
        shard.write(bytes([byte ^ 1]))
    store = SampleStore(folder)
    with pytest.raises(
        SampleStoreError,
        match=rf"{row['key']}\.mask\.png in shard .*{row['shard']}.*dvc repro -f -s masksyn@car",
    ):
        store[4]
    with pytest.raises(SampleStoreError, match=row["key"]):
        store.read_mask(row["key"])
    assert np.array_equal(store.read_image(4), make_sample(4).image)
    assert_same(store[5], make_sample(5))


def test_truncated_shard(folder: Path) -> None:
    store = SampleStore(folder)
    last = folder / store.index["shard"].iloc[-1]
    os.truncate(last, int(store.index["json_offset"].iloc[-1]) + 1)
    with pytest.raises(
        SampleStoreError,
        match=rf"{last.name} has \d+ bytes, the manifest says .*dvc repro -f -s masksyn@car",
    ):
        SampleStore(folder)
    with pytest.raises(
        SampleStoreError, match=rf"{store.keys()[-1]}\.json in shard"
    ):  # truncated after it was opened
        store[-1]


def test_missing_shard(folder: Path) -> None:
    store = SampleStore(folder)
    (folder / "shard-00001.tar").unlink()
    with pytest.raises(
        SampleStoreError, match=r"shard-00001.tar is missing; run: dvc repro -f -s masksyn@car"
    ):
        SampleStore(folder)
    position = store.index["shard"].tolist().index("shard-00001.tar")
    with pytest.raises(
        SampleStoreError,
        match=rf"{store.keys()[position]}.*shard-00001.tar can't be read: No such file",
    ):
        store[position]


def test_index_of_another_store(folder: Path) -> None:
    table = pq.read_table(folder / "index.parquet")
    moved = table.set_column(
        table.column_names.index("mask_offset"), "mask_offset", table["image_offset"]
    )
    for wrong, message in [
        (table.slice(1), "10 samples .expected 11."),
        (table.drop_columns(["mask_offset"]), "missing columns .'mask_offset'"),
        (
            table.set_column(1, "shard", pa.array(["shard-00099.tar"] * NUM_SAMPLES)),
            "unknown shards .'shard-00099.tar'",
        ),
    ]:
        pq.write_table(wrong, folder / "index.parquet")
        with pytest.raises(
            SampleStoreError,
            match=rf"index.parquet disagrees.*{message}.*dvc repro -f -s masksyn@car",
        ):
            SampleStore(folder).keys()
    pq.write_table(moved, folder / "index.parquet")
    with pytest.raises(SampleStoreError, match=r"mask.png in shard .*index says"):
        SampleStore(folder)[0]


@pytest.mark.parametrize("name", ["index.parquet", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "garbled"])
def test_damaged_index_or_manifest(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            data[: len(data) // 2]
            if damage == "cut"
            else bytes(b ^ 0x55 for b in data[:200]) + data[200:]
        )
    with pytest.raises(SampleStoreError, match=rf"{name}.*dvc repro -f -s masksyn@car"):
        SampleStore(folder).keys()


def test_oversized_pictures_arent_decoded(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_store_format, "MAX_PIXELS", 40 * 48 - 1)
    with pytest.raises(SampleStoreError, match="48 x 40 pixels, at most 1919"):
        SampleStore(finished).read_image(0)


def test_real_splits_are_remade_by_the_dataset_stage(tmp_path: Path) -> None:
    with pytest.raises(SampleStoreError, match=r"run: dvc repro -f -s dataset$"):
        SampleStore(tmp_path / "data" / "real" / "val")


# Bad samples

GOOD = make_sample(1)
WRONG_ID = np.where(np.arange(48) == 7, 3, GOOD.segmentation_map).astype(np.uint8)


@pytest.mark.parametrize(
    "sample, message",
    [
        (
            replace(GOOD, segmentation_map=WRONG_ID),
            r"the mask holds 3 \(40 pixels\); allowed are 0-2 and 255",
        ),
        (
            replace(GOOD, segmentation_map=GOOD.segmentation_map.astype(np.int64)),
            r"segmentation_map is int64.*expected uint8",
        ),
        (
            replace(GOOD, segmentation_map=GOOD.image),
            r"segmentation_map is \(40, 48, 3\); expected \[H, W\]",
        ),
        (replace(GOOD, segmentation_map=np.zeros((0, 0), np.uint8)), "1 to 67108864 pixels"),
        (
            replace(GOOD, image=GOOD.image[:, :-1]),
            r"image is uint8 \[40, 47, 3\]; expected uint8 \[40, 48, 3\]",
        ),
        (replace(GOOD, image=GOOD.image / 255), r"image is float64 .*expected uint8"),
        (replace(GOOD, image=GOOD.image[..., 0]), r"image is uint8 \[40, 48\]"),
        (
            replace(GOOD, instance_map=GOOD.segmentation_map),
            r"instance_map is uint8 .*expected uint16",
        ),
        (replace(GOOD, key="train.1"), "'train.1' is not 1 to 80 of"),
        (replace(GOOD, key="../x"), "'../x' is not 1 to 80 of"),
        (replace(GOOD, key=""), "'' is not 1 to 80 of"),
        (replace(GOOD, key="k" * 81), "is not 1 to 80 of"),
        (replace(GOOD, key="k\n"), "is not 1 to 80 of"),
        (replace(GOOD, metadata={"loss": float("nan")}), "can't be written as JSON"),
        (replace(GOOD, metadata={"loss": np.float32(1)}), "can't be written as JSON"),
        (replace(GOOD, metadata={"prompt": "\ud800"}), "can't be written as JSON"),
        (replace(GOOD, metadata={"seed": "7"}), r"metadata\['seed'\] is '7'; expected int"),
        (replace(GOOD, metadata={"seed": 2**63}), "expected int .64 bit."),
        (
            replace(GOOD, metadata={"quality": {"score": "good"}}),
            "quality 'score' is 'good'; expected a number",
        ),
        (replace(GOOD, metadata={"quality": 0.5}), r"metadata\['quality'\] is 0.5"),
    ],
)
def test_bad_sample_is_refused_and_nothing_of_it_stored(
    tmp_path: Path, sample: Sample, message: str
) -> None:
    with SampleStoreWriter(tmp_path, num_classes=3) as writer:
        with pytest.raises(SampleStoreError, match=message) as caught:
            writer.add(sample)
        assert repr(sample.key) in str(caught.value)
        writer.add(make_sample(2))
        writer.finish(manifest={})
    store = SampleStore(tmp_path)
    assert len(store) == 1
    assert_same(store[0], make_sample(2))


def test_duplicate_key(tmp_path: Path) -> None:
    for _ in range(2):  # the second time the first sample comes from the journal
        with SampleStoreWriter(tmp_path, num_classes=3) as writer:
            if not writer.committed:
                writer.add(GOOD)
            with pytest.raises(SampleStoreError, match=f"{GOOD.key!r} is already in"):
                writer.add(GOOD)
    assert writer.committed == [GOOD.key]


# Determinism and resuming


def test_same_samples_give_the_same_bytes_however_they_are_committed(
    finished: Path, tmp_path: Path
) -> None:
    write_store(tmp_path / "again", commit_every=1)
    assert contents(tmp_path / "again") == contents(finished)
    assert len(list(finished.glob("shard-*.tar"))) > 2
    assert not (finished / "journal.jsonl").exists()


@pytest.mark.parametrize("whole_samples", [0, 2, 5, 9])
def test_resumes_after_kill_9(finished: Path, tmp_path: Path, whole_samples: int) -> None:
    journal = tmp_path / "journal.jsonl"
    child = run_python(
        __file__, tmp_path, "--linger=60"
    )  # it can't finish first, however busy the machine
    try:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 1 + whole_samples:
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.03))  # anywhere in the work on a sample
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    with SampleStoreWriter(tmp_path, num_classes=3, shard_bytes=SHARD_BYTES) as writer:
        assert whole_samples <= len(writer.committed)
    write_store(tmp_path)
    assert contents(tmp_path) == contents(finished)


def test_resumes_from_a_journal_torn_at_any_byte(finished: Path, tmp_path: Path) -> None:
    with SampleStoreWriter(tmp_path / "torn", num_classes=3, shard_bytes=SHARD_BYTES) as writer:
        for index in range(4):
            writer.add(make_sample(index))
    journal = (tmp_path / "torn" / "journal.jsonl").read_bytes()
    lines = journal.splitlines(keepends=True)
    cuts = {
        0,
        1,
        len(lines[0]) - 1,
        len(lines[0]),
        len(journal),
        *(len(journal) - n for n in (1, 2, 40, len(lines[-1]), 600)),
    }
    for cut in sorted(cuts):
        store = Path(shutil.copytree(tmp_path / "torn", tmp_path / str(cut)))
        (store / "journal.jsonl").write_bytes(journal[:cut] + b"\0" * (cut % 3))
        with max(store.glob("shard-*.tar")).open("ab") as shard:
            shard.write(b"half a sample" * SHARD_BYTES)
        (store / "shard-00007.tar").write_bytes(b"begun, never committed")
        with SampleStoreWriter(store, num_classes=3, shard_bytes=SHARD_BYTES) as writer:
            whole = max(journal[:cut].count(b"\n"), 1)
            assert len(writer.committed) == whole - 1
        assert (store / "journal.jsonl").read_bytes() == b"".join(lines[:whole])
        write_store(store)
        assert contents(store) == contents(finished), f"torn at {cut}"


def test_resumes_when_killed_while_finishing(finished: Path, tmp_path: Path) -> None:
    with SampleStoreWriter(tmp_path, num_classes=3, shard_bytes=SHARD_BYTES) as writer:
        for index in range(NUM_SAMPLES):
            writer.add(make_sample(index))
        writer.commit()
        journal = (tmp_path / "journal.jsonl").read_bytes()
        writer.finish(manifest={"not": "this one"})
    (tmp_path / "journal.jsonl").write_bytes(journal)  # the kill came just before its removal
    (tmp_path / "index.parquet.tmp").write_bytes(b"half")
    with pytest.raises(SampleStoreError, match="isn't finished"):
        SampleStore(tmp_path)
    write_store(tmp_path)
    assert contents(tmp_path) == contents(finished)


def test_finished_store_can_be_reopened_but_not_added_to(finished: Path, folder: Path) -> None:
    write_store(folder)  # a stage killed between finish and the move to its out runs again
    assert contents(folder) == contents(finished)
    with SampleStoreWriter(folder, num_classes=3, shard_bytes=SHARD_BYTES) as writer:
        assert writer.finished
        with pytest.raises(SampleStoreError, match="is finished, 'new' can't be added"):
            writer.add(replace(GOOD, key="new"))


def test_error_in_the_work_keeps_what_was_added(tmp_path: Path) -> None:
    def work() -> None:
        with SampleStoreWriter(tmp_path, num_classes=3) as writer:
            writer.add(make_sample(0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    with SampleStoreWriter(tmp_path, num_classes=3) as writer:
        assert writer.committed == [make_sample(0).key]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    with SampleStoreWriter(tmp_path, num_classes=3):
        pass
    with pytest.raises(
        SampleStoreError, match=r"was begun with .*'num_classes': 3.*'num_classes': 4"
    ):
        SampleStoreWriter(tmp_path, num_classes=4)
    with SampleStoreWriter(
        tmp_path, num_classes=3
    ) as writer:  # the refused writer let go of the folder
        writer.finish(manifest={})
    with pytest.raises(SampleStoreError, match="was begun with"):
        SampleStoreWriter(tmp_path, num_classes=3, image_format="jpg")


def test_a_shard_shorter_than_the_journal_says(tmp_path: Path) -> None:
    with SampleStoreWriter(tmp_path, num_classes=3) as writer:
        writer.add(GOOD)
    os.truncate(tmp_path / "shard-00000.tar", 512)
    with pytest.raises(
        SampleStoreError, match=r"shard-00000.tar has 512 bytes, journal.jsonl says \d+; delete"
    ):
        SampleStoreWriter(tmp_path, num_classes=3)


def test_two_processes_cant_write_one_store(tmp_path: Path) -> None:
    with SampleStoreWriter(tmp_path, num_classes=3, shard_bytes=SHARD_BYTES):
        child = run_python(__file__, tmp_path)
        _, errors = child.communicate(timeout=300)
    assert child.returncode != 0
    assert f"another process is writing {tmp_path}" in errors


# A disk that is full or not writable


def test_full_disk_keeps_what_was_committed(finished: Path, tmp_path: Path) -> None:
    rows = SampleStore(finished).index.query("shard == 'shard-00000.tar'")
    limit, fitting = int(rows["image_offset"].iloc[2]), 2  # full in the midst of the third sample
    child = run_python(__file__, tmp_path, f"--file-limit={limit}", "--commit-every=100")
    _, errors = child.communicate(timeout=300)
    assert child.returncode == StorageError.exit_code, errors
    assert f"can't write {tmp_path / 'shard-00000.tar'}: File too large" in errors
    with SampleStoreWriter(tmp_path, num_classes=3, shard_bytes=SHARD_BYTES) as writer:
        assert len(writer.committed) == fitting
    assert f"kept ({fitting} samples)" in errors
    write_store(tmp_path)  # with room again
    assert contents(tmp_path) == contents(finished)


@pytest.mark.parametrize("kib", [60, 112, 160])
def test_full_file_system(tmp_path: Path, kib: int) -> None:
    """The real thing, where the machine lets us mount a small file system: ENOSPC in shard, journal or index."""
    disk, saved = tmp_path / "disk", tmp_path / "saved"
    disk.mkdir()
    script = f"""mount -t tmpfs -o size={kib}k none "$1" || exit 77
        "$2" "$3" "$1/store" --commit-every=3; code=$?
        cp -r "$1/store" "$4"; exit $code"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = ["unshare", "-rm", "sh", "-c", script, "sh", disk, sys.executable, __file__, saved]
    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this machine")
    child = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    if child.returncode == 77 or "unshare" in child.stderr:
        pytest.skip(f"can't mount a file system here: {child.stderr}")
    assert child.returncode == StorageError.exit_code, child.stderr
    assert "No space left on device" in child.stderr
    with SampleStoreWriter(saved, num_classes=3, shard_bytes=SHARD_BYTES) as writer:
        kept = len(writer.committed)
    assert kept > 0
    assert f"kept ({kept} samples)" in child.stderr
    write_store(tmp_path / "whole")
    write_store(saved)
    assert contents(saved) == contents(tmp_path / "whole")


def test_folder_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"can't write .*file/store: Not a directory"):
        SampleStoreWriter(tmp_path / "file" / "store", num_classes=3)


if __name__ == "__main__":  # the child process of the tests above: write the store slowly
    options = dict(argument.removeprefix("--").split("=") for argument in sys.argv[2:])
    if "file-limit" in options:
        limit = int(options["file-limit"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        linger, commit_every = (
            float(options.get("linger", "0")),
            int(options.get("commit-every", "1")),
        )
        write_store(Path(sys.argv[1]), pause=0.02, linger=linger, commit_every=commit_every)
    except StorageError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
