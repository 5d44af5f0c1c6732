"""`seggen plan`: counts that follow from the parameters, and hours that follow from the counts."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from seggen_core.cli import main
from seggen_core.config import load_config
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.plan import Plan, load_rates, plan_project
from seggen_core.reports.plan_inputs import foundation_family
from seggen_core.reports.plan_stages import StagePlan
from seggen_core.store.writer import SampleStoreWriter

ROOT = Path(__file__).parents[2]
PROFILES = sorted(path.parent.name for path in ROOT.glob("profiles/*/params.yaml"))


def plan(
    profile: str,
    *,
    root: Path = ROOT,
    device: str = "gpu",
    rates: Mapping[str, Mapping[str, float]] | None = None,
    use_results: bool = False,
) -> Plan:
    """Plan a profile; `rates` change the package's, network by network.

    Results of runs in the repository itself count only with `use_results`.
    """
    config = load_config(ROOT / "profiles" / profile / "params.yaml")
    table = load_rates(None, device=device)
    for network, changes in (rates or {}).items():
        table[network] |= changes
    use_results = root != ROOT  # what has run in the project that the tests lie in is no concern
    return plan_project(config, paths=ProjectPaths(root), rates=table, use_results=use_results)


def by_stage(planned: Plan) -> dict[str, StagePlan]:
    return {stage.stage: stage for stage in planned.stages}


def work(planned: Plan) -> dict[str, str]:
    return {stage.stage: stage.work for stage in planned.stages}


def test_ade20k_makes_the_papers_numbers_of_samples() -> None:
    planned = plan("ade20k")
    assert work(planned)["masksyn"].startswith("202,100 samples") and work(planned)[
        "imgsyn"
    ].startswith("1,010,500 samples")
    assert "seediff" not in work(planned), "no arm reads it"
    assert {s.stage: s.items for s in planned.stages}["imgsyn"] == 150


def test_coco_and_seediff_do_too() -> None:
    panoptic, instance = work(plan("coco_panoptic")), work(plan("coco_instance"))
    assert panoptic["masksyn"] == panoptic["imgsyn"]
    assert panoptic["imgsyn"].startswith("1,182,870 samples")
    assert instance["masksyn"].startswith("1,172,660 samples")
    assert "seediff" not in panoptic.keys() | instance.keys()
    assert work(plan("voc2012"))["seediff"].startswith("60,000 samples")
    assert not {"text2mask", "mask2img", "masksyn", "imgsyn"} & work(plan("voc2012")).keys()


def test_diffumask_draws_more_than_it_keeps() -> None:
    planned = by_stage(plan("scenes", device="cpu"))
    assert planned["diffumask"].work == "96 samples: 8 classes x 12"
    per_sample = {
        m: planned[m].hours / int(planned[m].work.split()[0]) for m in ("seediff", "diffumask")
    }
    assert per_sample["diffumask"] == pytest.approx(
        per_sample["seediff"] / 0.8
    )  # noise learning drops a fifth


def test_kept_attention_takes_disk() -> None:
    config = load_config(ROOT / "profiles" / "voc2012" / "params.yaml")
    seediff = config.seediff.model_copy(update={"keep_attention": True})
    keeping = config.model_copy(update={"seediff": seediff})
    rates = load_rates(None, device="gpu")
    plans = [
        plan_project(c, paths=ProjectPaths(ROOT), rates=rates, use_results=False)
        for c in (config, keeping)
    ]
    before, after = (by_stage(p)["seediff"].gigabytes for p in plans)
    # 64x64 latents: 38 MB of each of 60,000 images (docs/attention.md).
    assert after - before == pytest.approx(60_000 * 0.0375, rel=0.05)
    (note,) = [note for note in plans[1].notes if "keep_attention" in note]
    assert ".seggen/attention" in note and f"{after - before:.3g} GB" in note
    assert not any("keep_attention" in note for note in plans[0].notes)


def test_pretraining_takes_time() -> None:
    planned = by_stage(plan("camvid", device="cpu"))
    assert planned["foundation"].work == "3,000 steps of 8"
    assert planned["foundation"].hours / planned["text2mask"].hours == pytest.approx(
        3000 / 1200, rel=0.05
    )


def test_hours_are_calls_times_seconds() -> None:
    rates = {"sdxl": {"image_size": 768, "unet_s": 1.0, "vae_s": 0.0}}
    hours = {name: s.hours for name, s in by_stage(plan("ade20k", rates=rates)).items()}
    # Guidance doubles, the ControlNet adds 0.4.
    assert hours["imgsyn"] == pytest.approx(1_010_500 * 40 * 2 * 1.4 / 3600)
    assert hours["masksyn"] == pytest.approx(202_100 * (200 * 2 + 40 * 2 * 1.4) / 3600)
    # As measured: 2.9 passes, another one for checkpointing, and no more for the ControlNet.
    assert hours["text2mask"] == hours["mask2img"] == pytest.approx(30_000 * 16 * 3.9 / 3600)


def test_what_is_no_measurement_of_this_network_is_assumed() -> None:
    basis = {
        profile: by_stage(plan(profile, device="cpu"))["foundation"].basis
        for profile in ("camvid", "camvid_256")
    }
    assert basis == {"camvid": "measured", "camvid_256": "assumed"}  # a wider UNet


def test_crops_and_mirrored_pictures_are_encoded_too() -> None:
    rates = {"embedded": {"image_size": 256, "unet_s": 0.0, "vae_s": 1.0}}
    stages = by_stage(plan("camvid_256", rates=rates))
    assert [stages[n].hours * 3600 for n in ("foundation", "text2mask", "mask2img")] == [
        367 * 2 * 8,
        367 * 2 * 4,
        367 * 2 * 8,
    ]


def test_samples_are_compared_with_every_training_sample() -> None:
    nearest = {"image_size": 32, "read_s": 0.5, "image_pair_s": 1.0, "mask_pair_s": 0.25}
    planned = by_stage(plan("scenes", device="cpu", rates={"nearest": nearest}))["memorization"]
    # 720 of MaskSyn, 480 of ImgSyn, 192 of SeeDiff, 96 of DiffuMask; for each of them 100
    # validation and 1,000 training samples.
    assert planned.items == 4 and planned.work == "1,488 samples against 1,000"
    pairs = 1000 * (1488 + 400) + 1000 * (720 + 100) * 0.25
    assert planned.hours * 3600 == pytest.approx(pairs + (1488 + 400 + 4000) * 0.5 * 4)


def test_what_was_run_here_is_taken_from_its_durations(tmp_path: Path) -> None:
    (tmp_path / "profiles" / "scenes").mkdir(parents=True)
    (tmp_path / "profiles" / "scenes" / "foundation").symlink_to(
        ROOT / "profiles" / "scenes" / "foundation"
    )
    (tmp_path / ".seggen").mkdir()
    durations = {"text2mask": 360.0, "masksyn@car": 10.0}
    (tmp_path / ".seggen" / "durations.json").write_text(json.dumps({"stages": durations}))
    planned = by_stage(plan("scenes", root=tmp_path, device="cpu", use_results=True))
    assert (planned["text2mask"].hours, planned["text2mask"].basis) == (0.1, "last run here")
    assert planned["masksyn"].basis == "measured", (
        "one of eight partitions is no measurement of all"
    )
    assert planned["train_seg"].basis == "measured"


def test_a_run_with_other_settings_says_nothing_of_these(tmp_path: Path) -> None:
    """`--set text2mask.num_steps=3000` has to cost more than the run of 1,600 that was made."""
    (tmp_path / "profiles" / "scenes").mkdir(parents=True)
    (tmp_path / "profiles" / "scenes" / "foundation").symlink_to(
        ROOT / "profiles" / "scenes" / "foundation"
    )
    (tmp_path / ".seggen").mkdir()
    durations = {"stages": {"text2mask": 360.0, "mask2img": 360.0}}
    (tmp_path / ".seggen" / "durations.json").write_text(json.dumps(durations))
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    less = {**tree["text2mask"], "num_steps": tree["text2mask"]["num_steps"] // 2}
    faster = {**tree["mask2img"], "learning_rate": 1e-4}
    stages = {
        name: {"cmd": "x", "params": {"params.yaml": {"seed": tree["seed"], name: section}}}
        for name, section in (("text2mask", less), ("mask2img", faster))
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    planned = by_stage(plan("scenes", root=tmp_path, device="cpu", use_results=True))
    assert planned["text2mask"].basis == "measured", "half of the steps are other work"
    assert planned["mask2img"].basis == "last run here", "a learning rate takes no time"
    stages["text2mask"]["params"]["params.yaml"]["text2mask"] = tree["text2mask"]
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    planned = by_stage(plan("scenes", root=tmp_path, device="cpu", use_results=True))
    assert planned["text2mask"].basis == "last run here"


def test_results_of_another_dataset_are_not_planned_with(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Sixty sources and the durations of a demo say nothing about CamVid, nor about a profile."""
    for name in ("params.yaml", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    paths = ProjectPaths(tmp_path)
    with SampleStoreWriter(paths.real("train"), num_classes=2) as writer:
        writer.finish(manifest={"dataset": "scenes"})
    paths.subsets.write_text(json.dumps({"0": ["train-00000", "train-00001"]}))
    (tmp_path / ".seggen").mkdir()
    durations = json.dumps({"stages": {"text2mask": 3600.0}})
    (tmp_path / ".seggen" / "durations.json").write_text(durations)

    stages = by_stage(plan("scenes", root=tmp_path, device="cpu"))
    assert stages["text2mask"].basis == "last run here" and stages["masksyn"].work.startswith(
        "24 samples"
    )
    other = plan("camvid", root=tmp_path, device="cpu")
    assert by_stage(other)["text2mask"].basis == "measured"
    assert work(other) == work(plan("camvid", device="cpu"))
    assert main(["--params", str(tmp_path / "params.yaml"), "plan", "--profile", "scenes"]) == 0
    assert "last run here" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "sections, has_note",
    [
        ([], False),
        (["train_seg.mask2former={}"], True),
        (["variants.things.model=eomt"], True),
        (["variants.things.model=hrnet", "variants.things.task=semantic"], False),
    ],
)
def test_a_segmenter_that_was_not_measured_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture, sections: list[str], has_note: bool
) -> None:
    """Hours of a thin Mask2Former say nothing of one of 69 million parameters, on a CPU."""
    tree = yaml.safe_load((ROOT / "profiles/own_cpu/params.yaml").read_text(encoding="utf-8"))
    thing = {"model": "mask2former", "task": "panoptic"}
    tree["variants"]["things"] = tree["variants"]["baseline"] | thing
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    changes = [argument for change in sections for argument in ("--set", change)]
    assert (
        main(["--params", str(tmp_path / "params.yaml"), "plan", "--device", "cpu", *changes]) == 0
    )
    text = capsys.readouterr().out
    note = "note: train_seg: the hours of things are those of the thin Mask2Former of the profile"
    assert (note in text) == has_note


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_can_be_planned(profile: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["--params", str(ROOT / "params.yaml"), "plan", "--profile", profile]) == 0
    text = capsys.readouterr().out
    assert (
        f"plan of the profile {profile}" in text
        and "total" in text
        and "note: hours of one device" in text
    )
    config = load_config(ROOT / "profiles" / profile / "params.yaml")
    families = {
        "scenes": "embedded",
        "scenes_n20": "embedded",
        "camvid": "embedded",
        "camvid_256": "embedded",
        "own": "sd",
        "own_cpu": "embedded",
        "voc2012": "sd",
        "cityscapes": "sd",
        "words": "embedded",
    }
    assert foundation_family(config, paths=ProjectPaths(ROOT)) == families.get(profile, "sdxl")


def test_own_throughputs_and_what_is_wrong_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rates = {"gpu": load_rates(None, device="gpu") | {"source": "my card", "basis": "measured"}}
    (tmp_path / "rates.json").write_text(json.dumps(rates))
    arguments = ["--params", str(ROOT / "params.yaml"), "plan", "--profile", "ade20k", "--rates"]
    assert main([*arguments, str(tmp_path / "rates.json")]) == 0
    assert "hours of one device: my card" in capsys.readouterr().out
    assert main([*arguments, str(tmp_path / "missing.json")]) == 2
    assert "no throughputs of 'gpu' can be read" in capsys.readouterr().err


MEASURED_GB = {
    ("ade20k", "text2mask"): 65.9,
    ("ade20k", "mask2img"): 46.6,
}
"""docs/results.md, at the sizes of SDXL: one H200, 16 images a step, gradient checkpointing."""


@pytest.mark.parametrize("name, stage", MEASURED_GB)
def test_gpu_memory_is_near_what_was_measured(name: str, stage: str) -> None:
    gigabytes = by_stage(plan(name))[stage].gpu_gigabytes
    assert gigabytes == pytest.approx(MEASURED_GB[name, stage], rel=0.08)


def test_memory_money_and_what_would_halve_them(capsys: pytest.CaptureFixture) -> None:
    arguments = ["--params", str(ROOT / "params.yaml"), "plan", "--profile", "ade20k"]
    assert main([*arguments, "--price", "2.5"]) == 0
    text = capsys.readouterr().out
    planned = plan("ade20k")
    hours = sum(stage.hours for stage in planned.stages)
    assert f"{hours * 2.5:,.2f}" in text and "GPU GB" in text
    assert "note: to halve the hours: imgsyn.samples_per_source 25" in text
    assert "of text2mask; smaller: text2mask.lora {rank: 32}" in text
    for price in ("-1", "nan", "x"):
        with pytest.raises(SystemExit):
            main([*arguments, "--price", price])
    assert "cost" not in plan("scenes").render()
    assert main([*arguments[:-1], "scenes", "--device", "cpu"]) == 0


@pytest.mark.parametrize("name", PROFILES)
def test_the_largest_stage_is_among_the_settings_that_halve_a_plan(name: str) -> None:
    planned = plan(name)
    largest = max(planned.stages, key=lambda stage: stage.hours).stage
    note = next(n for n in planned.notes if n.startswith("to halve the hours: "))
    assert f"{largest}." in note or (largest == "train_seg" and "subset_seeds" in note)


@pytest.mark.parametrize("name", PROFILES)
def test_the_settings_that_halve_a_plan_do(name: str) -> None:
    note = next(n for n in plan(name).notes if n.startswith("to halve the hours: "))
    parts = note.removeprefix("to halve the hours: ").split(", ")
    saved = sum(float(p.rpartition("(-")[2].split()[0].replace(",", "")) for p in parts if "(" in p)
    hours = sum(stage.hours for stage in plan(name).stages)
    assert "and fewer arms" in parts or saved >= 0.45 * hours
