"""Writing a store: what is refused, and what an interruption leaves."""

import resource
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seggen_core.errors import SampleStoreError, StorageError
from seggen_core.store.format import encode_sample
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from tests.store.samples import (
    MANIFEST,
    NUM_SAMPLES,
    SHARD_BYTES,
    assert_same,
    contents,
    make_sample,
    run_python,
    write_store,
)

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
    with SampleStoreWriter(tmp_path, num_classes=3) as writer:
        writer.add(GOOD)
        with pytest.raises(SampleStoreError, match=f"{GOOD.key!r} is already in"):
            writer.add(GOOD)
        writer.finish(manifest={})
    assert SampleStore(tmp_path).keys() == [GOOD.key]


def test_samples_of_many_sizes_lie_in_one_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for index, size in enumerate([(1, 1), (3, 200), (128, 7), (64, 64), (97, 31)]):
        mask = rng.integers(0, 3, size, np.uint8)
        instances = rng.integers(0, 9, size, np.uint16) if index % 2 else None
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        samples.append(Sample(f"s{index}", image, mask, instances, {"seed": index}))
    with SampleStoreWriter(tmp_path, num_classes=3) as writer:
        for sample in samples:
            writer.add(sample)
        writer.finish(manifest={})
    store = SampleStore(tmp_path)
    for sample, stored in zip(samples, store, strict=True):
        assert_same(stored, sample)
        assert store.read_mask(sample.key).shape == sample.segmentation_map.shape
    sizes = [int(np.sum(counts)) for counts in store.index["class_pixel_counts"]]
    assert sizes == [sample.segmentation_map.size for sample in samples]


def test_same_samples_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(finished)
    assert len(list(finished.glob("shard-*.tar"))) > 2
    assert set(contents(finished)) >= {"index.parquet", "manifest.json"}
    assert not (finished / "rows.jsonl").exists()


def test_encoded_samples_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    with SampleStoreWriter(tmp_path, num_classes=3, shard_bytes=SHARD_BYTES) as writer:
        for index in range(NUM_SAMPLES):
            writer.append(encode_sample(make_sample(index), num_classes=3))
        writer.finish(manifest=MANIFEST)
    assert contents(tmp_path) == contents(finished)


@pytest.mark.parametrize("num_samples", [0, 3, NUM_SAMPLES])
def test_an_unfinished_store_is_no_store_and_is_begun_again(
    finished: Path, tmp_path: Path, num_samples: int
) -> None:
    with SampleStoreWriter(tmp_path, num_classes=3, shard_bytes=200) as writer:
        for index in range(num_samples):
            writer.add(make_sample(index))
    (tmp_path / "index.parquet.tmp").write_bytes(b"half")
    with pytest.raises(SampleStoreError, match=r"isn't finished; no stage"):
        SampleStore(tmp_path)
    write_store(tmp_path)
    assert contents(tmp_path) == contents(finished)


def test_a_finished_store_is_not_written_again(finished: Path, folder: Path) -> None:
    with pytest.raises(SampleStoreError, match="is finished; delete the folder"):
        SampleStoreWriter(folder, num_classes=3)
    assert contents(folder) == contents(finished)


def test_two_processes_cant_write_one_store(tmp_path: Path) -> None:
    with SampleStoreWriter(tmp_path, num_classes=3, shard_bytes=SHARD_BYTES):
        child = run_python(__file__, tmp_path)
        _, errors = child.communicate(timeout=300)
    assert child.returncode != 0
    assert f"another process is writing {tmp_path}" in errors


def test_a_full_disk_is_one_error(finished: Path, tmp_path: Path) -> None:
    rows = SampleStore(finished).index.query("shard == 'shard-00000.tar'")
    limit = int(rows["image_offset"].iloc[2])  # full in the midst of the third sample
    child = run_python(__file__, tmp_path, f"--file-limit={limit}")
    _, errors = child.communicate(timeout=300)
    assert child.returncode == StorageError.exit_code, errors
    assert f"can't write {tmp_path}: File too large. The store isn't finished." in errors
    write_store(tmp_path)  # with room again
    assert contents(tmp_path) == contents(finished)


def test_folder_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"can't write .*file/store: Not a directory"):
        SampleStoreWriter(tmp_path / "file" / "store", num_classes=3)


if __name__ == "__main__":  # the child process of the tests above
    options = dict(argument.removeprefix("--").split("=") for argument in sys.argv[2:])
    if "file-limit" in options:
        limit = int(options["file-limit"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write_store(Path(sys.argv[1]))
    except StorageError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
