"""With detectron2 itself, where it is installed; docs/detectron2.md says how."""

import itertools
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy
from tests.exports.project import COLORS, TAXONOMY, THINGS
from tests.exports.test_coco import expected_things
from tests.segmentation.detectron2_project import ARMS, make_detectron2_project

pytest.importorskip(
    "detectron2", reason="detectron2 isn't on the package index: docs/detectron2.md installs it"
)

from detectron2.config import CfgNode, get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.utils.events import EventStorage

from seggen_core.segmentation.dataset_dicts import TASKS
from seggen_core.segmentation.detectron2 import ArmStream, register

TRAINABLE = [name for name in ARMS if name not in ("augmented", "known")]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProjectPaths]:
    paths = make_detectron2_project(tmp_path_factory.mktemp("detectron2"))
    names = register(paths.root)
    yield paths
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def config(name: str, *, is_semantic: bool) -> CfgNode:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (name,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (24,), "none"
    cfg.MODEL.MASK_ON = not is_semantic
    return cfg


def test_what_is_registered(paths: ProjectPaths) -> None:
    names = set(register(paths.root))
    phases = ["pretrained_pretrain", "pretrained_finetune"]
    arms = [f"arm_{arm}" for arm in [*(a for a in ARMS if a != "pretrained"), *phases]]
    wanted = ["real_train", "real_val", "real_test", "data_masksyn", *arms]
    assert names == {f"seggen_{name}_{task}" for name in wanted for task in TASKS}
    assert names <= {*DatasetCatalog.list()}
    about = MetadataCatalog.get("seggen_real_val_instance")
    assert about.thing_classes == [TAXONOMY[i].name for i in THINGS]
    assert about.thing_colors == [tuple(color) for color in COLORS[list(THINGS)].tolist()]
    assert about.thing_dataset_id_to_contiguous_id == {3: 0, 4: 1}


def test_without_things_there_are_no_datasets_of_things(tmp_path: Path) -> None:
    paths = make_detectron2_project(tmp_path)
    stuff = Taxonomy.from_names(stuff=[c.name for c in TAXONOMY], things=[])
    paths.taxonomy.write_text(json.dumps(stuff.to_json()))
    tasks = {name.rsplit("_", 1)[1] for name in register(paths.root, prefix="stuff_")}
    assert tasks == {"semantic", "panoptic"}


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_detectron2s_own_mapper_reads_shards(paths: ProjectPaths, mask_format: str) -> None:
    cfg = config("seggen_real_val_panoptic_separated", is_semantic=False)
    cfg.INPUT.MASK_FORMAT, cfg.INPUT.FORMAT = mask_format, "RGB"
    mapper = DatasetMapper(cfg, is_train=True, augmentations=[])
    dicts = DatasetCatalog.get("seggen_real_val_panoptic_separated")
    for entry, sample in zip(dicts, SampleStore(paths.real("val")), strict=True):
        read = mapper(entry)
        np.testing.assert_array_equal(read["image"].permute(1, 2, 0), sample.image)
        mask = sample.segmentation_map
        stuff = np.select([mask == 0, mask == 1, mask == 255], [1, 2, 255], 0)
        np.testing.assert_array_equal(read["sem_seg"], stuff)
        things = [(c, m) for (c, k), m in sorted(expected_things(sample).items()) if k]
        assert [THINGS[i] for i in read["instances"].gt_classes] == [c for c, _ in things]
        if mask_format == "bitmask":
            masks = read["instances"].gt_masks.tensor.numpy()
            np.testing.assert_array_equal(masks, [m for _, m in things])


def places(paths: ProjectPaths, arm: str) -> list[str]:
    return ["pretrain", "finetune"] if ARMS[arm]["strategy"] == "pretrain" else ["all"]


@pytest.mark.parametrize("arm", TRAINABLE)
def test_an_arms_dicts_are_what_our_own_loop_trains_on(paths: ProjectPaths, arm: str) -> None:
    for phase in places(paths, arm):
        suffix = "" if phase == "all" else f"_{phase}"
        stream = DatasetCatalog.get(f"seggen_arm_{arm}{suffix}_semantic")
        run = stream.arm
        mapper = DatasetMapper(
            config(f"seggen_arm_{arm}{suffix}_semantic", is_semantic=True),
            is_train=True,
            augmentations=[],
            image_format="RGB",
        )
        entries = iter(stream)
        kinds = set()
        for step in range(6):
            slots = run.plan.slots(step)
            for slot, (image, mask) in zip(slots, run.pool.read_slots(slots), strict=True):
                read = mapper(next(entries))
                np.testing.assert_array_equal(read["image"].permute(1, 2, 0), np.array(image))
                np.testing.assert_array_equal(read["sem_seg"], mask)
                kinds.add(slot.synthetic is not None)
        assert (
            kinds
            == {
                "all": {False} if arm == "baseline" else {False, True},
                "pretrain": {True},
                "finetune": {False},
            }[phase]
        )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_the_arms_and_go_on_where_a_training_resumes(
    paths: ProjectPaths, num_workers: int
) -> None:
    name = "seggen_arm_replaced_panoptic"
    stream = DatasetCatalog.get(name)
    cfg = config(name, is_semantic=True)
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.ASPECT_RATIO_GROUPING = num_workers, False
    with EventStorage(start_iter=3):
        loader = build_detection_train_loader(cfg)
        batches = list(itertools.islice(iter(loader), 3))
    for step, batch in enumerate(batches, start=3):
        wanted = [entry["file_name"] for entry in stream.entries(step)]
        assert [read["file_name"] for read in batch] == wanted


def test_a_started_process_opens_the_arm_where_the_training_is(paths: ProjectPaths) -> None:
    stream = DatasetCatalog.get("seggen_arm_replaced_instance")
    with EventStorage(start_iter=7):
        copy = pickle.loads(pickle.dumps(stream))
    assert isinstance(copy, ArmStream)
    assert next(iter(copy)) == stream.entries(7)[0]


@pytest.mark.parametrize("arm", ["augmented", "known"])
def test_an_arm_that_mappers_cannot_show_is_refused(paths: ProjectPaths, arm: str) -> None:
    stream = DatasetCatalog.get(f"seggen_arm_{arm}_semantic")
    with pytest.raises(ConfigError, match=f"train it by dvc repro train_seg@{arm}"):
        next(iter(stream))


def test_wrong_subset_seeds_are_refused(
    paths: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seggen_core.segmentation.detectron2 import setup_environment

    with pytest.raises(ConfigError, match=r"no subset seed 5; dataset\.subset_seeds has: 0"):
        register(paths.root, subset_seed=5)
    monkeypatch.setenv("SEGGEN_PROJECT", str(paths.root))
    monkeypatch.setenv("SEGGEN_SUBSET_SEED", "x")
    with pytest.raises(ConfigError, match="SEGGEN_SUBSET_SEED is 'x'"):
        setup_environment()
