"""The stores that the suites' arms read, made and read at tiny size on the reduced VOC 2012."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seggen_core.config import merge_params, read_suite
from seggen_core.store.reader import SampleStore
from tests import test_profiles_run
from tests.test_profiles_run import ROOT, SAMPLER, begin, read, reduced, write_dataset

networks = test_profiles_run.pretrained
"""The fixture, under a name of this module."""

SEEDIFF_TABLES = [f"seediff-table{table}" for table in ("1", "2", "4", "5", "S1", "S4")]
TRAINED = ("swin_b_seediff_ca", "diffumask_60k")
"""Arms of those suites; the others read the other recipes' stores."""


def with_seediffs_tables() -> dict[str, Any]:
    """The reduced VOC with the stores of the suites, and some of their arms."""
    tree = reduced("voc2012")
    for name in SEEDIFF_TABLES:
        merge_params(tree, read_suite(ROOT / "profiles" / "suites" / f"{name}.yaml").params)
    given = {"overrides": None, "num_synthetic": None}
    arms = {name: tree["variants"][name] for name in TRAINED}
    tree["variants"] = {"baseline": tree["variants"]["baseline"]} | {
        name: {k: v for k, v in arm.items() if k not in given} for name, arm in arms.items()
    }
    anything = {"min_mask_area": 0.0, "max_mask_area": 1.0}  # the masks of random networks
    tree["seediff"] |= anything
    tree["diffumask"] |= anything | {"samples_per_class": 2, "sampling": SAMPLER}
    tree["diffumask"]["affinity_net"] = {"feature_size": 16, "num_steps": 2, "walk_steps": 2}
    tree["diffumask"]["noise_learning"] = {"num_folds": 2, "num_steps": 1}
    tree["checks"]["min_val_miou"] = 0.0
    tree["evaluate"]["multi_scale"] = None
    for recipe in tree["mask_recipe"].values():
        settings = recipe["settings"]
        if "cross_attention_resolution" in settings:
            settings["cross_attention_resolution"] //= 4  # images of 128 instead of 512 px
        if "samples_per_class" in settings:
            settings["samples_per_class"] = 2
    return tree


def test_the_stores_of_seediffs_tables_are_made_and_read(
    tmp_path: Path, networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mask recipe of the suites, DiffuMask's store, and arms that are trained on them."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "disk")
    write_dataset("voc2012", tmp_path / "dataset")
    paths, config = begin(
        tmp_path / "project",
        name="voc2012",
        pretrained=networks,
        dataset=tmp_path / "dataset",
        tree=with_seediffs_tables(),
    )
    config = config.model_copy(update={"classes": ("cat",)})
    graph: list[tuple[str, str | None]] = [("dataset", None), ("captions", None)]
    graph += [("foundation", None), ("seediff", "cat"), ("diffumask", "cat")]
    graph += [("mask_recipe", name) for name in config.mask_recipe]
    graph += [(stage, arm) for arm in TRAINED for stage in ("train_seg", "evaluate")]
    for stage, item in graph:
        module = importlib.import_module(f"seggen_core.stages.{stage}")
        module.run(config, paths=paths, item=item)
    of_method = SampleStore(paths.synthetic("seediff", "cat"))
    masks = {of_method.read_mask(0).tobytes()}
    assert len(config.mask_recipe) == 10
    for name in config.mask_recipe:
        store = SampleStore(paths.synthetic(name, "cat"))
        assert len(store) == 2
        np.testing.assert_array_equal(store.read_image(0), of_method.read_image(0))
        masks.add(store.read_mask(0).tobytes())
    assert len(masks) == 11, "each recipe has masks of its own"
    for arm in TRAINED:
        metrics = read(paths.report("evaluate", arm) / "metrics.json")
        assert 0 <= metrics["miou"] <= 100
