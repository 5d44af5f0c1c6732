"""Which samples a class partition has, and what it needs for them."""

import json

import pandas as pd
import pytest
import torch

from seggen_core.errors import CaptionError, ConfigError
from seggen_core.scenes.layout import SCENES_TAXONOMY
from seggen_core.stages import imgsyn, masksyn
from seggen_core.store.reader import SampleStore
from seggen_core.synthesis import seggen_partition
from seggen_core.synthesis.seggen_partition import list_tasks
from tests.synthesis.conftest import write_config
from tests.synthesis.seggen_helpers import Project, sources_of


def test_a_class_without_sources_is_an_empty_partition(
    make_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_project("empty")
    # Every scene has sky, so it is the rarest class of none; and there is one source alone.
    paths.subsets.write_text(json.dumps({"0": sources_of(paths)["car"][:1]}))
    assert sources_of(paths)["sky"] == []
    monkeypatch.setattr(seggen_partition, "load_mask2img", None)  # no model is loaded for nothing
    masksyn.run(write_config(paths), paths=paths, item="sky")
    store = SampleStore(paths.synthetic("masksyn", "sky"))
    assert len(store) == 0 and store.keys() == []
    metrics = json.loads((store.folder / "metrics.json").read_text())
    assert metrics == {"samples": 0.0, "rejected": 0.0}
    assert not (store.folder / "previews.png").exists()


def test_it_computes_with_the_threads_it_was_given(make_project: Project) -> None:
    paths = make_project("threads")
    torch.set_num_threads(2)
    imgsyn.run(write_config(paths), paths=paths, item="sky")
    assert torch.get_num_threads() == 1


def test_a_missing_caption_and_an_unknown_class_are_user_errors(make_project: Project) -> None:
    paths = make_project("captions")
    cars = sources_of(paths)["car"]
    table = pd.read_parquet(paths.prompts("car"))
    table[table["sample_key"] != cars[0]].to_parquet(paths.prompts("car"))
    config = write_config(paths)
    with pytest.raises(
        CaptionError,
        match=rf"1 samples have no caption, e\.g\. {cars[0]} \(run: dvc repro captions\)",
    ):
        imgsyn.run(config, paths=paths, item="car")
    with pytest.raises(ConfigError, match="there is no class partition 'zebra'"):
        imgsyn.run(config, paths=paths, item="zebra")


def test_tasks_are_those_of_the_subsets_union(make_project: Project) -> None:
    paths = make_project("tasks")
    cars = sources_of(paths)["car"]
    captions = pd.DataFrame({"sample_key": cars, "caption": [f"picture {k}" for k in cars]})
    store = SampleStore(paths.real("train"))

    def tasks(subsets: dict[str, list[str]]) -> list[tuple[str, int, str]]:
        listed = list_tasks(
            store=store,
            captions=captions,
            subsets=subsets,
            taxonomy=SCENES_TAXONOMY,
            class_slug="car",
            per_source=2,
        )
        return [(t.source_key, t.index, t.prompt) for t in listed]

    wanted = [(k, n, f"picture {k}") for k in cars[:2] for n in range(2)]
    assert tasks({"0": [cars[1]], "1": [cars[0], cars[1]]}) == wanted
    assert tasks({"0": []}) == []


def test_partitions_are_disjoint_and_together_the_subset(make_project: Project) -> None:
    paths = make_project("partitions")
    sources = sources_of(paths)
    together = [key for keys in sources.values() for key in keys]
    assert (
        sorted(together) == sorted(json.loads(paths.subsets.read_text())["0"])
        and len(set(together)) == 30
    )
