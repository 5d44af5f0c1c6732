"""params.yaml: which values are read, and the message for each wrong value."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from seggen_core.config import SegGenConfig, TrainSegConfig, VariantConfig, load_config
from seggen_core.errors import ConfigError
from tests.minimal_config import minimal_config

ROOT = Path(__file__).parent.parent


def write_params(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write the project's own params.yaml with `change` applied."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    change(tree)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_the_projects_own_parameters_are_valid() -> None:
    config = load_config(ROOT / "params.yaml")
    assert config.classes[0] == "sky" and config.variants["masksyn_imgsyn"].methods == (
        "masksyn",
        "imgsyn",
    )
    assert config.variants["baseline"].methods == () and config.variants["full_real"].real == "all"


def test_the_profiles_are_valid() -> None:
    for path in ROOT.glob("profiles/*/params.yaml"):
        load_config(path)


def test_nothing_can_be_changed_afterwards() -> None:
    config = load_config(ROOT / "params.yaml")
    with pytest.raises(ValidationError):
        config.text2mask.num_steps = 3  # type: ignore[misc]


WRONG = {
    "unknown key": (
        lambda p: p["text2mask"].update(num_stpes=3),
        ("text2mask.num_stpes", "unknown key", "known here: num_steps, batch_size"),
    ),
    "unknown key of a variant": (
        lambda p: p["variants"]["masksyn"].update(suffle=True),
        (
            "variants.masksyn.suffle",
            "unknown key",
            "known here: model, strategy, real",
        ),
    ),
    "unknown key of a section of a section": (
        lambda p: p["masksyn"]["text2mask"].update(steps=3),
        (
            "masksyn.text2mask.steps",
            "unknown key",
            "scheduler, scheduler_kwargs, num_inference_steps",
        ),
    ),
    "unknown key of an optional section": (
        lambda p: p["foundation"].update(pretrain={"unet_stpes": 3}),
        ("foundation.pretrain.unet_stpes", "unknown key", "unet_steps"),
    ),
    "unknown key at the top": (
        lambda p: p.update(tex2mask={}),
        ("tex2mask", "unknown key", "known here: profile, seed"),
    ),
    "missing section": (lambda p: p.pop("mask2img"), ("mask2img", "required")),
    "wrong type": (
        lambda p: p["text2mask"].update(num_steps="many"),
        ("text2mask.num_steps", "valid integer", "'many'"),
    ),
    "true for a whole number": (
        lambda p: p["text2mask"].update(num_steps=True),
        ("text2mask.num_steps", "valid integer", "True"),
    ),
    "false for a number": (
        lambda p: p["mask2img"].update(learning_rate=False),
        ("mask2img.learning_rate", "valid number", "False"),
    ),
    "true among numbers": (
        lambda p: p["dataset"].update(subset_seeds=[0, True]),
        ("dataset.subset_seeds.1", "valid integer", "True"),
    ),
    "a fraction": (
        lambda p: p["dataset"].update(num_val=1.5),
        ("dataset.num_val", "integer", "1.5"),
    ),
    "text for a number": (
        lambda p: p["text2mask"].update(num_steps="3 "),
        ("text2mask.num_steps", "valid integer", "'3 '"),
    ),
    "a whole number as a fraction": (
        lambda p: p["text2mask"].update(num_steps=3.0),
        ("text2mask.num_steps", "valid integer", "3.0"),
    ),
    "more rows than memory": (
        lambda p: p["masksyn"]["mask2img"].update(micro_batch_size=10**9),
        ("masksyn.mask2img.micro_batch_size", "less than or equal to 65536", "1000000000"),
    ),
    "more samples than readers list": (
        lambda p: p["dataset"].update(num_train=10**12),
        ("dataset.num_train", "less than or equal to 4194304"),
    ),
    "a learning rate out of this world": (
        lambda p: p["train_seg"]["hrnet"].update(learning_rate=1e308),
        ("train_seg.hrnet.learning_rate", "less than or equal to 10", "1e+308"),
    ),
    "guidance out of this world": (
        lambda p: p["imgsyn"]["mask2img"].update(guidance_scale=1e300),
        ("imgsyn.mask2img.guidance_scale", "less than or equal to 1000"),
    ),
    "a scheduler that isn't": (
        lambda p: p["imgsyn"]["mask2img"].update(scheduler="DDIMSchedule"),
        ("imgsyn.mask2img", "'DDIMSchedule'", "DDIMScheduler, "),
    ),
    "a setting that a scheduler lacks": (
        lambda p: p["imgsyn"]["mask2img"].update(scheduler_kwargs={"karras": True}),
        ("imgsyn.mask2img", "'karras'", "use_karras_sigmas"),
    ),
    "a setting of another type": (
        lambda p: p["imgsyn"]["mask2img"].update(scheduler_kwargs={"solver_order": "2"}),
        ("imgsyn.mask2img", "scheduler_kwargs.solver_order is '2'", "takes int"),
    ),
    "a choice that a scheduler lacks": (
        lambda p: p["imgsyn"]["mask2img"].update(scheduler_kwargs={"solver_type": "huen"}),
        ("imgsyn.mask2img", "scheduler_kwargs.solver_type is 'huen'", "'midpoint' or 'heun'"),
    ),
    "a stage of HRNet with too few channels": (
        lambda p: p["train_seg"]["hrnet"]["backbone_kwargs"]["stage2"].update(num_channels=[16]),
        (
            "train_seg.hrnet",
            "backbone_kwargs.stage2: num_channels has 1 values",
            "one for each branch",
        ),
    ),
    "a negative number of branches": (
        lambda p: p["train_seg"]["hrnet"]["backbone_kwargs"]["stage2"].update(num_branches=-1),
        ("train_seg.hrnet", "backbone_kwargs.stage2.num_branches", "greater than or equal to 1"),
    ),
    "a key that HRNet lacks": (
        lambda p: p["train_seg"]["hrnet"]["backbone_kwargs"].update(stage5={}),
        ("train_seg.hrnet", "backbone_kwargs.stage5", "not permitted"),
    ),
    "a field that Mask2Former lacks": (
        lambda p: p["train_seg"]["mask2former"]["architecture"].update(num_querys=3),
        ("train_seg.mask2former", "architecture holds 'num_querys'", "num_queries"),
    ),
    "a field of Mask2Former of another type": (
        lambda p: p["train_seg"]["mask2former"]["architecture"].update(num_queries="many"),
        ("train_seg.mask2former", "architecture.num_queries is 'many'", "takes int"),
    ),
    "more queries than memory": (
        lambda p: p["train_seg"]["mask2former"]["architecture"].update(num_queries=10**9),
        ("train_seg.mask2former", "architecture.num_queries is 1000000000", "to 65536"),
    ),
    "a backbone that transformers lacks": (
        lambda p: p["train_seg"]["mask2former"]["architecture"]["backbone_config"].update(
            model_type="../resnet"
        ),
        (
            "train_seg.mask2former",
            "architecture.backbone_config.model_type",
            "'../resnet'",
            "resnet, swin",
        ),
    ),
    "a field that a backbone lacks": (
        lambda p: p["train_seg"]["mask2former"]["architecture"]["backbone_config"].update(
            hidden_size=[3]
        ),
        (
            "train_seg.mask2former",
            "architecture.backbone_config holds 'hidden_size'",
            "hidden_sizes",
        ),
    ),
    "a wrong override": (
        lambda p: p["train_seg"]["mask2former"].update(overrides={"num_steps": "3"}),
        ("train_seg", "mask2former.overrides.num_steps", "valid integer", "'3'"),
    ),
    "an unknown method": (lambda p: p.update(methods=["maskin"]), ("methods", "['maskin']")),
    "a seed twice": (
        lambda p: p["dataset"].update(subset_seeds=[1, 1]),
        ("dataset.subset_seeds", "repeats", "[1, 1]"),
    ),
    "no section": (lambda p: p.update(mask2img=700), ("mask2img", "a mapping", "700")),
    "probability above one": (
        lambda p: p["train_seg"]["replace"].update(p_aug=1.5),
        ("train_seg.replace.p_aug", "less than or equal to 1", "1.5"),
    ),
    "negative seed": (lambda p: p.update(seed=-1), ("seed", "greater than or equal to 0", "-1")),
    "no such choice": (
        lambda p: p["imgsyn"]["mask2img"].update(precision="fp8"),
        ("imgsyn.mask2img.precision", "'auto', 'fp32', 'bf16' or 'fp16'", "'fp8'"),
    ),
    "unknown synthetic source": (
        lambda p: p["variants"]["masksyn"].update(
            reads=["data/synthetic/masksin", "data/real/train/index.parquet"]
        ),
        ("variants.masksyn", "masksin", "known: masksyn, imgsyn, seediff"),
    ),
    "one path too few": (
        lambda p: p["variants"]["masksyn"].update(reads=["data/synthetic/masksyn"]),
        ("variants.masksyn.reads.1", "required"),
    ),
    "an arm without data": (
        lambda p: p["variants"].update(nothing=p["variants"]["baseline"] | {"real": "none"}),
        ("variants.nothing", "no data", "nothing under data/synthetic"),
    ),
    "unknown baseline": (
        lambda p: p["ablation"].update(baseline="basline"),
        ("ablation.baseline", "'basline'", "variants"),
    ),
    "a class twice": (
        lambda p: p.update(classes=["car", "car"]),
        ("classes", "repeats", "['car', 'car']"),
    ),
    "shell text for a class": (
        lambda p: p.update(classes=["car; touch x"]),
        ("classes.0", "letters, digits", "'car; touch x'"),
    ),
    "a path for a class": (
        lambda p: p.update(classes=["../car"]),
        ("classes.0", "letters, digits", "'../car'"),
    ),
    "a line end after a class": (
        lambda p: p.update(classes=["car\n"]),
        ("classes.0", "letters, digits"),
    ),
    "an option for a class": (
        lambda p: p.update(classes=["-rf"]),
        ("classes.0", "letters, digits", "'-rf'"),
    ),
    "shell text for a method": (
        lambda p: p.update(methods=["$(id)"]),
        ("methods.0", "letters, digits", "'$(id)'"),
    ),
    "shell text for an arm": (
        lambda p: p["variants"].update({"a b": p["variants"]["baseline"]}),
        ("variants.a b.[key]", "letters, digits"),
    ),
    "shell text for the judge": (
        lambda p: p["judge"].update(variant="`id`"),
        ("judge.variant", "letters, digits", "'`id`'"),
    ),
    "an address to read": (
        lambda p: p["captions"].update(edits="http://a.b/c"),
        ("captions.edits", "no address", "'http://a.b/c'"),
    ),
    "a reference to read": (
        lambda p: p["foundation"].update(reads="${oc.env:HOME}"),
        ("foundation.reads", "no '${'", "'${oc.env:HOME}'"),
    ),
    "an address among the inputs of an arm": (
        lambda p: p["variants"]["masksyn"].update(reads=["data/synthetic/masksyn", "s3://a/b"]),
        ("variants.masksyn.reads.1", "no address", "'s3://a/b'"),
    ),
    "pretrained without a source": (
        lambda p: p["foundation"].pop("source"),
        ("foundation", "'source'", "diffusers folder or a hub repository"),
    ),
    "training images without a foundation": (
        lambda p: p["foundation"].update(pretrain={"data": "training_images"}),
        ("foundation.pretrain", "needs 'init_from'"),
    ),
    "pretrain without its section": (
        lambda p: p["foundation"].update(mode="pretrain"),
        ("foundation", "'pretrain' section"),
    ),
    "scales the wrong way round": (
        lambda p: p["train_seg"]["common"].update(random_scale=[1.5, 0.5]),
        ("train_seg.common", "random_scale", "(1.5, 0.5)"),
    ),
    "an override of what can't be": (
        lambda p: p["train_seg"]["hrnet"].update(overrides={"model": "mask2former"}),
        ("train_seg.hrnet.overrides", "'model' is no key of train_seg.common"),
    ),
}


@pytest.mark.parametrize("change, words", WRONG.values(), ids=WRONG)
def test_a_bad_value_is_named_with_what_was_found_and_expected(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], words: tuple[str, ...]
) -> None:
    path = write_params(tmp_path, change)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path} has 1 invalid value(s):\n  ")
    assert message.count("\n") == 1
    for word in words:
        assert word in message
    assert re.search(rf"^  ({re.escape(words[0])}: |[\w.']+ )", message, re.MULTILINE)
    assert "pydantic" not in message and "Value error" not in message


def test_all_bad_values_are_listed_at_once(tmp_path: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        tree["train_seg"]["replace"]["p_aug"] = 2
        tree["text2mask"]["typo"] = 1

    with pytest.raises(ConfigError, match="2 invalid") as caught:
        load_config(write_params(tmp_path, change))
    assert "train_seg.replace.p_aug" in str(caught.value) and "text2mask.typo" in str(caught.value)


def test_numbers_may_be_written_without_a_dot(tmp_path: Path) -> None:
    path = write_params(tmp_path, lambda p: p["text2mask"].update(learning_rate=0.0003))
    path.write_text(path.read_text().replace("learning_rate: 0.0003", "learning_rate: 3e-4"))
    assert load_config(path).text2mask.learning_rate == 3e-4


@pytest.mark.parametrize("key", ["captions", "seediff"])
def test_a_fifo_is_not_waited_for(tmp_path: Path, key: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    changes = {"reads": "pipe"} | ({"prompt_file": "pipe"} if key == "seediff" else {})
    path = write_params(tmp_path, lambda p: p[key].update(changes))
    with pytest.raises(ConfigError, match=f"{key}.reads is 'pipe', which is neither a file nor"):
        load_config(path)


def test_an_arm_is_trained_by_its_own_sections_alone() -> None:
    section = TrainSegConfig.model_validate(
        {
            "common": {"num_steps": 10},
            "hrnet": {"learning_rate": 0.5},
            "mask2former": {"learning_rate": 1e-4, "overrides": {"num_steps": 20}},
            "replace": {"p_aug": 0.25},
        }
    )
    reads = ["data/synthetic/masksyn", "data/real/train"]
    tree = {"model": "mask2former", "strategy": "replace", "reads": reads}
    arm = section.for_arm(VariantConfig.model_validate(tree))
    assert (arm.learning_rate, arm.num_steps, arm.p_aug) == (1e-4, 20, 0.25)
    assert "p_aug" in arm.to_json() and "architecture" in arm.to_json()
    assert not {"pretrain_share", "stem_stride", "overrides"} & arm.to_json().keys()
    changed = VariantConfig.model_validate(tree | {"model": "hrnet", "p_aug": 0.75})
    arm = section.for_arm(changed)
    assert (arm.learning_rate, arm.num_steps, arm.p_aug) == (0.5, 10, 0.75)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda p: p.update(train_seg={"p_aug": 0.6, "num_steps": 5, "mask2former_source": "x"}),
            (
                "p_aug is now train_seg.replace.p_aug",
                "num_steps is now train_seg.common.num_steps",
                "mask2former_source is now train_seg.mask2former.source",
            ),
        ),
        (
            lambda p: p["variants"]["baseline"].pop("model"),
            ("variants.baseline: the arm lacks model; write model: hrnet or mask2former",),
        ),
        (
            lambda p: p["variants"]["baseline"].update(hide_unseen=True),
            ("variants.baseline: 'hide_unseen' is gone", "hidden_classes"),
        ),
    ],
)
def test_a_file_of_an_earlier_version_says_how_it_is_written_now(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_params(tmp_path, change))
    for word in words:
        assert word in str(caught.value)


def test_the_sections_are_the_stages() -> None:
    from seggen_core.cli import STAGES

    gates = {stage for stage in STAGES if stage.startswith("check_")}  # theirs is "checks"
    assert set(STAGES) - gates <= set(SegGenConfig.model_fields)


def test_samples_of_any_size_need_a_resize_that_takes_them() -> None:
    native = {"name": "camvid", "root": "camvid", "reads": "camvid", "fit": "native"}
    published = {"resize": "short_side", "short_side": 512, "crop_size": 512}
    with pytest.raises(ValueError, match=r"resize is 'zoom' for hrnet; set it to short"):
        minimal_config(native)
    assert minimal_config(native, train_seg={"common": published}).dataset.fit == "native"
    sections = {"mask2former": {"overrides": published}}
    with pytest.raises(ValueError, match="'zoom' for hrnet"):
        minimal_config(native, train_seg=sections)
    arm = {"model": "mask2former", "strategy": "plain", "reads": ["data/real/train"] * 2}
    minimal_config(native, train_seg=sections, variants={"baseline": arm})
