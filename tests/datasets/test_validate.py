"""`validate_project` finds what is wrong with a dataset and with sample stores, and says where."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from seggen_core.config import merge_params, read_suite
from seggen_core.config.load import check_config
from seggen_core.datasets.arm_tasks import source_faults
from seggen_core.datasets.class_names import class_name_faults, unused_class_names
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.identity import check_real_stores
from seggen_core.datasets.validate import validate_project
from seggen_core.datasets.validation_report import ValidationReport
from seggen_core.errors import DatasetError, SampleStoreError
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.plan_inputs import count_samples
from seggen_core.store.reader import Sample, SampleStoreWriter, open_partitions
from tests.minimal_config import minimal_config


def _camvid(root: Path) -> dict[str, Any]:
    return {"name": "camvid", "root": root, "splits": "val_as_test"}


def _validate(root: Path, *, max_bad: int = 0, **sections: Any) -> ValidationReport:
    config = minimal_config(_camvid(root), **sections)
    return validate_project(config, paths=ProjectPaths(root.parent), max_bad=max_bad)


def test_sound_dataset_has_no_problems_and_a_histogram_that_adds_up(camvid_root: Path) -> None:
    report = _validate(camvid_root)
    assert report.problems == []
    assert [(s.split, s.num_samples, s.num_bad) for s in report.splits] == [
        ("train", 27, 0),
        ("val", 3, 0),
        ("test", 4, 0),
    ]
    for s in report.splits:  # every mask holds each of the 12 ids on one block of 12x12
        assert s.sizes == {"48x36": s.num_samples}
        assert s.class_pixels == [144 * s.num_samples] * 11
        assert s.class_samples == [s.num_samples] * 11
        assert s.ignored_pixels == 144 * s.num_samples
    text = report.render()
    assert "no problems" in text
    assert any(
        line.split() == ["sky", "8.33", "8.33", "8.33", "27", "3", "4"]
        for line in text.splitlines()
    )
    assert json.loads(json.dumps(report.to_json()))["dataset"] == "camvid"


def test_bad_samples_are_counted_named_and_capped(camvid_root: Path) -> None:
    stems = sorted(p.stem for p in (camvid_root / "val").iterdir())
    (camvid_root / "val" / f"{stems[0]}.jpg").write_bytes(b"")
    (camvid_root / "valannot" / f"{stems[2]}.png").unlink()
    report = _validate(camvid_root)
    assert [p.where for p in report.problems] == [f"test/{stems[0]}", f"test/{stems[2]}"]
    assert "0 bytes" in report.problems[0].what
    assert "has no mask" in report.problems[1].what
    assert report.splits[2].num_bad == 2
    assert sum(report.splits[2].sizes.values()) == 2
    assert "2 problem(s)" in report.render()
    assert "... and 1 more" in report.render(max_listed=1)
    assert _validate(camvid_root, max_bad=1).problems == report.problems
    tolerant = _validate(camvid_root, max_bad=2)
    assert tolerant.problems == []
    assert tolerant.tolerated == report.problems
    assert f"tolerated: test/{stems[2]}" in tolerant.render()


def test_same_image_in_two_splits_is_a_leak_and_in_one_split_a_note(camvid_root: Path) -> None:
    train = sorted((camvid_root / "train").iterdir())
    test = sorted((camvid_root / "val").iterdir())
    shutil.copy(test[0], test[1])
    assert _validate(camvid_root).problems == []
    assert "1 image(s) repeat another of the same split" in _validate(camvid_root).notes
    # Stored otherwise, but the same pixels: a hash of the file would miss it.
    Image.open(train[5]).save(test[3].with_suffix(".png"))
    test[3].unlink()
    (leak,) = _validate(camvid_root).problems
    assert leak.where in (
        f"train/{train[5].stem} = test/{test[3].stem}",
        f"val/{train[5].stem} = test/{test[3].stem}",
    )
    assert "in several splits" in leak.what


def test_validation_samples_that_are_trained_on_by_choice_are_no_leak(camvid_root: Path) -> None:
    dataset = {
        "name": "camvid",
        "root": camvid_root,
        "splits": "val_as_test",
        "keep_val_in_train": True,
    }
    report = _validate(camvid_root, dataset=dataset)
    assert report.problems == [] and [s.num_samples for s in report.splits] == [30, 3, 4]
    assert (
        "3 validation image(s) are trained on too, as dataset.keep_val_in_train says"
        in report.notes
    )
    test, train = (
        sorted((camvid_root / "val").iterdir())[0],
        sorted((camvid_root / "train").iterdir())[0],
    )
    shutil.copy(train, test)
    (leak,) = _validate(camvid_root, dataset=dataset).problems
    assert "in several splits" in leak.what, "the test split still has to be unseen"


def test_headers_alone_find_what_needs_no_pixels(camvid_root: Path) -> None:
    train = sorted((camvid_root / "train").iterdir())
    train[0].write_bytes(b"")
    train[1].write_bytes(train[1].read_bytes()[:-100])  # damage behind the header
    config = minimal_config(_camvid(camvid_root))
    report = validate_project(config, paths=ProjectPaths(camvid_root.parent), headers_only=True)
    assert [p.where.rpartition("/")[2] for p in report.problems] == [train[0].stem]
    assert (
        sum(s.sizes["48x36"] for s in report.splits) == 33 and report.splits[0].class_pixels == []
    )
    text = report.render()
    assert "1 problem(s) in the headers" in text and "in train" not in text
    assert len(validate_project(config, paths=ProjectPaths(camvid_root.parent)).problems) == 2


def test_reports_are_json_or_text(camvid_root: Path, tmp_path: Path) -> None:
    for path in (camvid_root / "valannot").iterdir():
        path.write_bytes(b"")
    (camvid_root / "valannot" / "extra.png").write_bytes(b"")
    report = _validate(camvid_root)
    report.write(tmp_path / "a.json")
    assert len(json.loads((tmp_path / "a.json").read_text())["problems"]) == 5
    report.write(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text().count("problem: test/") == 5


def test_threads_change_nothing(camvid_root: Path) -> None:
    (camvid_root / "train" / "0016E5_00300.jpg").unlink()
    one, three = (_validate(camvid_root, runtime={"num_threads": n}).to_json() for n in (1, 3))
    assert one == three and len(one["problems"]) == 1


def test_classes_of_params_are_compared_with_the_taxonomy(camvid_root: Path) -> None:
    report = _validate(camvid_root, classes=["car", "zebra"])
    assert [p.where for p in report.problems] == ["params.yaml"]
    assert "classes names zebra; camvid has sky, building" in report.problems[0].what
    assert any(
        "no synthetic samples are made for sky" in n and "car" not in n for n in report.notes
    )


def test_class_that_never_occurs_is_noted(camvid_root: Path) -> None:
    for path in (camvid_root / "valannot").iterdir():
        mask = np.array(Image.open(path))
        mask[mask == 10] = 11
        Image.fromarray(mask).save(path)
    assert "class 'bicyclist' occurs in no sample of test" in _validate(camvid_root).notes


def test_dataset_that_is_not_there_is_an_error(camvid_root: Path) -> None:
    shutil.rmtree(camvid_root)
    with pytest.raises(DatasetError, match="is not a folder"):
        _validate(camvid_root)


def _write_store(folder: Path, *, num_classes: int, label: int) -> None:
    with SampleStoreWriter(folder, num_classes=num_classes) as writer:
        for i in range(3):
            segmentation_map = np.full((16, 16), label if i == 1 else 255, np.uint8)
            image = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            writer.add(Sample(f"train-{i:05d}-masksyn-00", image, segmentation_map, None, {}))
        writer.finish(manifest={})


def test_stores_of_another_dataset_are_called_that(camvid_root: Path) -> None:
    """They are judged neither by the classes of this dataset nor one sample at a time."""
    paths = ProjectPaths(camvid_root.parent)
    mask, image = np.full((16, 16), 18, np.uint8), np.zeros((16, 16, 3), np.uint8)
    of_camvid = load_class_table("camvid").taxonomy.digest
    stores = {
        "data/synthetic/masksyn/fence": {"taxonomy": "0123456789abcdef"},
        "data/real/train": {"taxonomy": of_camvid, "dataset": "folder"},
        "data/real/val": {"taxonomy": of_camvid, "dataset": "camvid"},
    }
    for name, manifest in stores.items():
        with SampleStoreWriter(paths.root / name, num_classes=19) as writer:
            writer.add(Sample("a", image, mask, None, {"source_key": "elsewhere"}))
            writer.finish(manifest=manifest)
    report = _validate(camvid_root)
    assert report.problems == [] and report.stores == []
    (note,) = [n for n in report.notes if "another dataset" in n]
    assert note.startswith("3 store(s) are of another dataset than params.yaml names")
    assert all(name in note for name in stores)
    with pytest.raises(DatasetError, match=r"'folder', but params.yaml names 'camvid'; run: dvc"):
        check_real_stores(paths, dataset="camvid")
    with pytest.raises(SampleStoreError, match=r"1 of 1 partitions in .*masksyn are of another"):
        open_partitions(paths.synthetic("masksyn"), taxonomy=load_class_table("camvid").taxonomy)


def test_stores_are_decoded_and_compared_with_the_taxonomy(camvid_root: Path) -> None:
    synthetic = camvid_root.parent / "data" / "synthetic" / "masksyn"
    _write_store(synthetic / "car", num_classes=11, label=10)
    report = _validate(camvid_root)
    assert report.problems == []
    assert [(s.name, s.num_samples, s.num_bad) for s in report.stores] == [
        ("data/synthetic/masksyn/car", 3, 0)
    ]

    # 1. Made for a larger taxonomy.
    _write_store(synthetic / "fence", num_classes=19, label=18)
    (problem,) = _validate(camvid_root).problems
    assert problem.where == "data/synthetic/masksyn/fence/train-00001-masksyn-00"
    assert "has label 18; expected 0-10 or 255" in problem.what
    shutil.rmtree(synthetic / "fence")

    # 2. A flipped byte in a picture, then a shard cut short.
    shard = synthetic / "car" / "shard-00000.tar"
    sound = bytearray(shard.read_bytes())
    damaged = sound.copy()
    damaged[600] ^= 0xFF
    shard.write_bytes(damaged)
    (problem,) = _validate(camvid_root).problems
    assert problem.where == "data/synthetic/masksyn/car/train-00000-masksyn-00"
    shard.write_bytes(sound[:-700])
    (problem,) = _validate(camvid_root).problems
    assert problem.where == "data/synthetic/masksyn/car"
    assert "shard-00000.tar" in problem.what


REAL = ["data/real/train/index.parquet", "data/real/val/index.parquet"]
PAIRS = [*REAL[:1], "data/synthetic/{}"]


def _arms(method: str | None = None, **changes: Any) -> dict[str, Any]:
    """An arm that tells things apart, beside the baseline."""
    baseline = {"model": "hrnet", "strategy": "plain", "reads": REAL}
    reads = REAL if method is None else [path.format(method) for path in PAIRS]
    arm = {"model": "eomt", "strategy": "replace" if method else "plain", "reads": reads}
    return {"baseline": baseline, "things": arm | {"task": "panoptic"} | changes}


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_a_task_that_needs_instances_asks_for_a_dataset_that_has_them(
    camvid_root: Path, task: str
) -> None:
    """CamVid has none. Else the training of the arm says so, after the generators."""
    report = _validate(camvid_root, variants=_arms(task=task))
    assert [p.where for p in report.problems] == ["train", "val", "test"]
    for problem in report.problems:
        assert f"the arms things ({task}) need instance maps" in problem.what
        assert "'car'" in problem.what and "'sky'" not in problem.what
    stuff = _validate(camvid_root, variants=_arms(known_classes=["sky", "road"]))
    assert stuff.problems == []
    synthetic = _arms("seediff", task=task, strategy="plain", real="none")
    report = _validate(camvid_root, variants=synthetic, classes=["sky"])
    assert [p.where for p in report.problems] == ["val", "test"]


def test_panoptic_colour_maps_ask_for_instances(camvid_root: Path) -> None:
    config = minimal_config(_camvid(camvid_root) | {"color_map": "panoptic"})
    report = validate_project(config, paths=ProjectPaths(camvid_root.parent))
    assert [p.where for p in report.problems] == ["train"]
    assert "color_map is panoptic, and samples have no instance map" in report.problems[0].what


@pytest.mark.parametrize(
    "method, changes, words",
    [
        ("masksyn", {}, "samples of masksyn have no instances, because dataset.color_map is sem"),
        ("imgsyn", {"task": "instance"}, "samples of imgsyn have no instances"),
        ("seediff", {}, "samples of seediff have no instances, because attention tells a class"),
        ("diffumask", {}, "samples of diffumask have no instances"),
        ("cut", {}, "samples of cut have no instances"),
        (None, {"task": "instance", "known_classes": ["sky"]}, "none of the classes is a thing"),
        ("masksyn", {"known_classes": ["sky"]}, ""),
        ("masksyn", {"task": "semantic"}, ""),
    ],
)
def test_synthetic_samples_without_instances_are_named_by_validate_and_plan(
    camvid_root: Path, method: str | None, changes: dict[str, Any], words: str
) -> None:
    recipe = {"method": "seediff", "settings": {"pamr": False}, "reads": "data/code/none.json"}
    config = minimal_config(
        _camvid(camvid_root),
        classes=["car"],
        methods=["masksyn", "imgsyn", "seediff", "diffumask", "cut"],
        mask_recipe={"cut": recipe},
        variants=_arms(method, **changes),
    )
    paths = ProjectPaths(camvid_root.parent)
    report = validate_project(config, paths=paths, headers_only=True)
    problems = [p.what for p in report.problems]
    _, notes = count_samples(config, paths=paths)
    assert notes == problems and len(notes) == bool(words)
    if words:
        assert words in notes[0] and notes[0].startswith("variants.things: the task is")


def test_a_dataset_with_instances_serves_every_task(tmp_path: Path) -> None:
    dataset = {"name": "scenes", "image_size": 32, "num_train": 8, "num_val": 2, "num_test": 2}
    for task in ("panoptic", "instance"):
        arms = _arms("masksyn", task=task)
        config = minimal_config(dataset | {"color_map": "panoptic"}, variants=arms)
        problems = validate_project(config, paths=ProjectPaths(tmp_path)).problems
        assert not [p for p in problems if "instance" in p.what]


def test_all_keys_that_name_classes_are_compared_with_the_dataset(camvid_root: Path) -> None:
    """Some of these stopped a stage late, which are problems; the others meant nothing."""
    layers = {"class_cross_attention_layers": {"zebra": ["mid"]}}
    recipe = {"method": "seediff", "settings": layers, "reads": "data/code/none.json"}
    test = {"arm": "things", "dataset": {"name": "scenes", "reads": "data/code/none.json"}}
    sections: dict[str, Any] = {
        "classes": ["car", "zebra"],
        "seediff": {"samples_per_class": 1, "synonyms": {"zebra": ["pony"]}},
        "diffumask": {"samples_per_class": 1, "sub_classes": {"zebra": ["old zebra"]}},
        "mask_recipe": {"cut": recipe},
        "variants": _arms(task="semantic", known_classes=["car", "zebra"]),
        "zero_shot": {"unseen": ["zebra"]},
        "evaluate": {"groups": {"animals": {"horse": ["zebra"], "rest": ["sky"]}}},
        "transfer": {"t": test | {"classes": {"car": {"ours": ["zebra"], "theirs": ["car"]}}}},
        "checks": {"overrides": {"masksyn/zebra": {"min_edge_agreement": 1.0}}},
    }
    report = _validate(camvid_root, **sections)
    (problem,) = report.problems
    assert problem.where == "params.yaml"
    for key in (
        "classes",
        "variants.things.known_classes",
        "zero_shot.unseen",
        "evaluate.groups.animals.horse",
        "transfer.t.classes.car.ours",
    ):
        assert f"{key} names zebra; " in problem.what
    (note,) = (note for note in report.notes if "these settings mean nothing" in note)
    for key in (
        "seediff.synonyms",
        "diffumask.sub_classes",
        "mask_recipe.cut.settings.class_cross_attention_layers",
        "checks.overrides.masksyn/",
    ):
        assert f"{key} names zebra; " in note
    assert problem.what.endswith("pavement, tree, sign, fence, car, pedestrian, bicyclist")
    config = minimal_config(_camvid(camvid_root), **sections)
    assert problem.what in count_samples(config, paths=ProjectPaths(camvid_root.parent))[1]


@pytest.mark.parametrize("name", ["ade20k", "camvid", "cityscapes", "coco_panoptic", "voc2012"])
def test_profiles_and_suites_name_classes_of_their_dataset(name: str) -> None:
    taxonomy = load_class_table(name).taxonomy
    root = Path(__file__).parents[2] / "profiles"
    tree = yaml.safe_load((root / name / "params.yaml").read_text(encoding="utf-8"))
    for file in sorted((root / "suites").glob("*.yaml")):
        suite = read_suite(file)
        if suite.profile == name:
            merge_params(tree, suite.params)
    config = check_config(tree, name=name)
    assert class_name_faults(config, taxonomy=taxonomy) == []
    assert unused_class_names(config, taxonomy=taxonomy) == []
    assert source_faults(config, taxonomy=taxonomy) == []
