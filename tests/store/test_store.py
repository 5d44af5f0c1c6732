import json
import os
import pickle
import random
import subprocess
import sys
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from seggen_core.errors import SampleStoreError
from seggen_core.store import format as sample_store_format
from seggen_core.store.reader import SampleStore, SampleStoreWriter, open_partitions
from tests.store.samples import (
    NUM_SAMPLES,
    SHARD_BYTES,
    assert_same,
    make_sample,
)

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
    quality = ["quality_ambiguous", "quality_score"]
    assert list(index.columns) == [
        "key",
        "shard",
        *members,
        "height",
        "width",
        *metadata,
        "class_pixel_counts",
        *quality,
    ]
    assert index["quality_ambiguous"].isna().tolist() == [
        position % 2 == 0 for position in range(NUM_SAMPLES)
    ]
    for position, row in enumerate(index.to_dict("records")):
        sample = make_sample(position)
        expected = [int((sample.segmentation_map == c).sum()) for c in range(3)]
        assert list(row["class_pixel_counts"]) == expected
        assert (row["height"], row["width"]) == sample.segmentation_map.shape
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
    code = """if True:
        import pickle, sys, zlib
        store = pickle.load(sys.stdin.buffer)
        print([zlib.crc32(sample.image) for sample in store])"""
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


def test_only_the_listed_partitions_are_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for slug in ("tree", "bus", "sky"):
        with SampleStoreWriter(tmp_path / "masksyn" / slug, num_classes=3) as writer:
            writer.finish(manifest={"class": slug})
    opened = open_partitions(tmp_path / "masksyn", classes=["tree", "bus"])
    assert [store.folder.name for store in opened] == ["bus", "tree"]
    assert "they are ignored: sky" in caplog.text
    with pytest.raises(SampleStoreError, match=r"lacks 1 of the 2 .*: car; run: dvc repro"):
        open_partitions(tmp_path / "masksyn", classes=["tree", "car"])
    with pytest.raises(SampleStoreError, match="no class partition; run: dvc repro masksyn"):
        open_partitions(tmp_path / "masksyn", classes=["car"])


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
    folder = tmp_path / "data" / "real" / "val"
    with pytest.raises(SampleStoreError, match=r"run: dvc repro dataset$"):
        SampleStore(folder)
    folder.mkdir(parents=True)
    with pytest.raises(SampleStoreError, match=r"run: dvc repro -f -s dataset$"):
        SampleStore(folder)


@pytest.mark.parametrize(
    "folder, advice",
    [
        ("data/synthetic/masksyn/car", "run: dvc repro masksyn@car"),
        ("data/synthetic/sharp/car", "run: dvc repro mask_recipe@sharp"),
        ("photos/car", "expected the folder of a split or class, such as data/real/train"),
        ("above", "those in it are: car, sky"),
    ],
)
def test_a_folder_that_is_no_store_gets_advice_that_can_be_followed(
    tmp_path: Path, folder: str, advice: str
) -> None:
    for name in ("car", "sky"):
        (tmp_path / "above" / name).mkdir(parents=True)
        (tmp_path / "above" / name / "manifest.json").touch()
    with pytest.raises(SampleStoreError, match=rf"is no sample store: .*; {advice}$"):
        SampleStore(tmp_path / folder)
    with pytest.raises(SampleStoreError, match="no stage of a project writes this folder; copy it"):
        SampleStore(tmp_path / "above" / "car")


# Bad samples


# Determinism, and what a killed writer leaves
