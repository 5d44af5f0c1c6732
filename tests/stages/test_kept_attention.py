"""`keep_attention`: other masks of the same images, in the stages seediff and diffumask."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seggen_core.config import SegGenConfig
from seggen_core.config.mask_recipe import MaskRecipeConfig
from seggen_core.errors import AttentionError, PromptError
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages import diffumask, mask_recipe, seediff
from seggen_core.store.cache import count_added
from seggen_core.store.reader import SampleStore
from seggen_core.synthesis import attention_method, kept_attention
from tests.stages.attention_project import contents, make_config, make_project

SAMPLING = {"num_inference_steps": 2, "micro_batch_size": 2, "precision": "fp32"}
COMMON = {
    "samples_per_class": 3,
    "sampling": SAMPLING,
    "pamr_iterations": 2,
    "min_mask_area": 0.0,
    "max_mask_area": 1.0,
    "keep_attention": True,
}
SECTIONS: dict[str, dict[str, Any]] = {
    "seediff": COMMON | {"cross_attention_resolution": 8},
    "diffumask": COMMON | {"affinity_net": None, "noise_learning": None, "thresholds": [0.5]},
}
STAGES = {"seediff": seediff, "diffumask": diffumask}
OTHER_MASKS = {
    "seediff": {"beta": 0.6, "affinity": "cosine", "pamr": False},
    "diffumask": {"thresholds": [0.7], "pamr": False},
}
METHODS = pytest.mark.parametrize("method", ["seediff", "diffumask"])


def settings(method: str, **changes: Any) -> SegGenConfig:
    return make_config(**{method: SECTIONS[method] | changes})


@pytest.fixture
def new_project(
    tiny_foundation_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ProjectPaths]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda name: make_project(tmp_path / name, foundation=tiny_foundation_folder)


@pytest.fixture
def no_images(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after whose call no image can be made, and no network loaded."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image is made again")

    def forbid() -> None:
        monkeypatch.setattr(attention_method, "load_pipeline", refuse)

    return forbid


def run(method: str, paths: ProjectPaths, **changes: Any) -> SampleStore:
    STAGES[method].run(settings(method, **changes), paths=paths, item="car")
    return SampleStore(paths.synthetic(method, "car"))


def pictures(store: SampleStore) -> dict[str, np.ndarray]:
    keys = store.keys()
    return {key: store.read_image(key) for key in keys}


def num_kept(paths: ProjectPaths, method: str) -> int:
    return count_added(paths.kept_attention(method, "car"))


@METHODS
def test_other_masks_are_made_of_the_same_images(
    method: str, new_project: Callable[[str], ProjectPaths], no_images: Callable[[], None]
) -> None:
    paths, fresh = new_project("kept"), new_project("fresh")
    first = run(method, paths)
    before, masks = pictures(first), [sample.segmentation_map for sample in first]
    assert len(first) == 3 and num_kept(paths, method) == 4, "two calls of two"
    run(method, fresh, **OTHER_MASKS[method])
    no_images()
    again = run(method, paths, **OTHER_MASKS[method])
    after = pictures(again)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert any(
        not np.array_equal(mask, again.read_mask(key))
        for mask, key in zip(masks, again.keys(), strict=True)
    )
    # As if the images had been made with these settings.
    assert contents(again.folder) == contents(fresh.synthetic(method, "car"))


@METHODS
def test_what_no_attempt_needs_is_deleted(
    method: str, new_project: Callable[[str], ProjectPaths]
) -> None:
    paths = new_project("pruned")
    run(method, paths, samples_per_class=5)
    assert num_kept(paths, method) == 6
    run(method, paths, samples_per_class=1)
    # A third attempt of SeeDiff's one sample may be needed, and its call has two.
    assert num_kept(paths, method) == {"seediff": 4, "diffumask": 2}[method]
    run(method, paths, samples_per_class=1, prompts=["{class}"])
    assert num_kept(paths, method) == 2, "that of the other prompt is gone"
    run(method, paths, samples_per_class=1, keep_attention=False)
    assert not paths.kept_attention(method, "car").exists()


@METHODS
def test_a_killed_run_keeps_what_it_made(
    method: str,
    new_project: Callable[[str], ProjectPaths],
    no_images: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, killed = new_project("whole"), new_project("killed")
    run(method, whole)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kept_attention.AttentionKeeper, "prune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(method, killed)
    no_images()
    run(method, killed)
    assert contents(killed.synthetic(method, "car")) == contents(whole.synthetic(method, "car"))


def test_masks_of_which_none_can_be_used_cost_no_new_images(
    new_project: Callable[[str], ProjectPaths], no_images: Callable[[], None]
) -> None:
    paths = new_project("none")
    with pytest.raises(AttentionError, match="gave a usable mask"):
        run("seediff", paths, max_mask_area=0.0)
    assert num_kept(paths, "seediff") >= 9
    no_images()
    assert len(run("seediff", paths)) == 3


@METHODS
def test_kept_masks_are_near_those_without(
    method: str, new_project: Callable[[str], ProjectPaths]
) -> None:
    keeping, plain = (new_project(name) for name in ("kept", "plain"))
    stores = [run(method, keeping), run(method, plain, keep_attention=False)]
    assert pictures(stores[0]).keys() == pictures(stores[1]).keys()
    for key, image in pictures(stores[0]).items():
        assert np.array_equal(image, stores[1].read_image(key))
        differ = stores[0].read_mask(key) != stores[1].read_mask(key)
        assert differ.mean() < 0.05, "float16 moves few pixels across the threshold"
    assert "keep_attention" not in stores[1].manifest["params"]


@METHODS
def test_a_negative_prompt_leads_away(
    method: str, new_project: Callable[[str], ProjectPaths]
) -> None:
    paths = new_project("negative")
    changes: dict[str, Any] = {"samples_per_class": 1, "keep_attention": False}
    before = pictures(run(method, paths, **changes))
    sampling = SAMPLING | {"negative_prompt": "a bus"}
    after = pictures(run(method, paths, sampling=sampling, **changes))
    assert all(not np.array_equal(image, after[key]) for key, image in before.items())


@METHODS
def test_a_file_of_prompts_is_checked_before_the_first_image(
    method: str, new_project: Callable[[str], ProjectPaths], no_images: Callable[[], None]
) -> None:
    paths = new_project("prompts")
    listed = {"prompt_file": "mine.txt", "reads": "mine.txt", "synonyms": {"car": ["house"]}}
    file = paths.root / "mine.txt"
    file.write_text("a house\ntwo cars\n")
    attempts = run(method, paths, **listed).folder / "attempts.jsonl"
    rows = [json.loads(line) for line in attempts.read_text().splitlines()]
    assert [row["prompt"] for row in rows[:3]] == ["a house", "two cars", "a house"]
    file.write_text("a house\na potted plant\nsome plant\n")
    no_images()
    with pytest.raises(PromptError, match=r"2 prompts can't be used:\n.*line 2: .*\n.*line 3: "):
        run(method, paths, **listed)


@METHODS
def test_a_later_recipe_takes_the_images_that_are_kept(
    method: str, new_project: Callable[[str], ProjectPaths], no_images: Callable[[], None]
) -> None:
    paths = new_project("recipe")
    store = run(method, paths)
    no_images()
    config = settings(method)
    recipe = MaskRecipeConfig(method=method, settings={"pamr": False}, reads="data/code/none.json")  # type: ignore[arg-type]
    config = config.model_copy(update={"mask_recipe": {"rough": recipe}, "classes": ("car",)})
    mask_recipe.run(config, paths=paths, item="rough")
    rough = SampleStore(paths.synthetic("rough", "car"))
    assert [image.tobytes() for image in pictures(rough).values()] == [
        image.tobytes() for image in pictures(store).values()
    ]
    assert num_kept(paths, method) == 4, "the recipe deletes nothing of its method"
