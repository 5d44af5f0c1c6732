"""The settings that an arm has of its own, as params.yaml holds them."""

from pathlib import Path
from typing import Any

import pytest

from seggen_core.config import TrainSegConfig, VariantConfig, load_config
from seggen_core.errors import ConfigError
from tests.minimal_config import BASELINE, minimal_config
from tests.test_config import write_params

ARM = {"model": "hrnet", "strategy": "replace", "reads": ["data/synthetic/masksyn", "data/real/a"]}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"overrides": {"num_stpes": 3}}, "overrides: 'num_stpes' is no key of train_seg.common, "),
        ({"overrides": {"num_queries": 3}}, "overrides: 'num_queries' is no key"),
        ({"overrides": {"num_steps": "many"}}, "overrides.num_steps: Input should be a valid int"),
        ({"overrides": {"resize": "short_side"}}, "'short_side' needs 'crop_size'"),
        ({"overrides": {"p_aug": 0.5}}, "'overrides' holds 'p_aug', which is a key of the arm"),
        ({"subset_size": 5, "real": "all"}, "'subset_size' has no effect with real: all"),
        ({"strategy": "plain", "reads": ["data/real/a"] * 2, "num_synthetic": 5}, "has no effect"),
    ],
)
def test_a_wrong_setting_of_an_arm_is_one_message_that_names_the_arm(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_params(tmp_path, lambda p: p["variants"].update(mine=ARM | changes)))
    message = str(caught.value)
    assert "1 invalid value(s)" in message and message.count("\n") == 1
    assert "variants.mine" in message and words in message


def test_an_arm_overrides_whole_keys_of_its_sections() -> None:
    section = TrainSegConfig.model_validate({"hrnet": {"overrides": {"num_steps": 5}}})
    plain = VariantConfig.model_validate(ARM)
    overriding = VariantConfig.model_validate(
        ARM | {"overrides": {"num_steps": 7, "backbone": "hrnet_w48", "random_scale": [0.5, 1.0]}}
    )
    assert section.for_arm(plain).num_steps == 5
    settings = section.for_arm(overriding)
    assert (settings.num_steps, settings.backbone) == (7, "hrnet_w48")
    assert settings.random_scale == (0.5, 1.0)
    hidden = ARM | {"model": "mask2former", "hidden_classes": ["car"]}
    assert section.for_arm(VariantConfig.model_validate(hidden)).ignored_pixels == "left_out"


def test_groups_of_classes_are_checked() -> None:
    for groups, words in (
        ({"a": {"x": [], "y": ["car"]}}, "groups.a has a group without a class"),
        ({"a": {"x": ["car"], "y": ["car", "bus"]}}, "groups.a lists car more than once"),
    ):
        with pytest.raises(ValueError, match=words):
            minimal_config({"name": "scenes"}, evaluate={"groups": groups})
    with pytest.raises(ValueError, match="car: both in 'unseen' and in 'left_out'"):
        minimal_config({"name": "scenes"}, zero_shot={"unseen": ["car"], "left_out": ["car"]})


def test_a_judge_knows_all_classes() -> None:
    arm = {"model": "hrnet", "strategy": "plain", "reads": ["data/real/a"] * 2}
    arms = {"baseline": arm, "full_real": arm | {"known_classes": ["car"]}}
    with pytest.raises(ValueError, match=r"judge.variant is 'full_real', which knows some classes"):
        minimal_config({"name": "scenes"}, variants=arms)


def test_who_gives_each_pixel_a_class_is_known_before_anything_runs() -> None:
    """The judge, and an arm that another dataset tests: else their stages find out, hours later."""
    arms = {"baseline": BASELINE, "things": BASELINE | {"model": "eomt", "task": "instance"}}
    with pytest.raises(ValueError, match=r"judge.variant is 'things', whose task is instance"):
        minimal_config({"name": "scenes"}, variants=arms, judge={"variant": "things"})
    with pytest.raises(ValueError, match=r"judge.variant is 'thing', which isn't .*: baseline, th"):
        minimal_config({"name": "scenes"}, variants=arms, judge={"variant": "thing"})
    other = {"name": "camvid", "root": "camvid", "reads": "camvid"}
    classes = {"car": {"ours": ["car"], "theirs": ["car"]}}
    test = {"arm": "things", "dataset": other, "classes": classes}
    with pytest.raises(ValueError, match=r"transfer.t: its arm things has the task instance"):
        minimal_config({"name": "scenes"}, variants=arms, transfer={"t": test})


def test_several_scales_need_a_semantic_arm() -> None:
    """Segments of several scales can't be averaged: no params.yaml asks for it in vain."""
    tasks = {"train_seg": {"common": {"task": "panoptic"}}, "evaluate": {"multi_scale": {}}}
    model = BASELINE | {"model": "mask2former"}
    with pytest.raises(ValueError, match="multi_scale averages the scores of classes"):
        minimal_config({"name": "scenes"}, **tasks, variants={"baseline": model})
    mixed = {"baseline": model, "classes": model | {"task": "semantic"}}
    assert minimal_config({"name": "scenes"}, **tasks, variants=mixed).evaluate.multi_scale
