import csv
import json
import math

import numpy as np
import pytest
from PIL import Image

from seggen_core.errors import SegGenError
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.ablation import (
    CONTROL,
    OTHER_MODEL,
    UPPER_BOUND,
    ablation_table,
    comparison_arm,
    flat_metrics,
    per_class_delta,
    per_class_table,
    seed_table,
)
from seggen_core.reports.comparison import Comparison
from seggen_core.reports.figures import ablation_figure
from seggen_core.reports.scores import Arm, JudgeScores, SeedScores
from seggen_core.reports.tables import NO_VALUE
from seggen_core.stages import ablation
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking.log import run_files
from tests.minimal_config import minimal_config

TAXONOMY = Taxonomy.from_names(stuff=["sky", "road"], things=["car", "potted plant"])


def scores(sky, road, car, plant, accuracy=80.0):
    iou = {"sky": sky, "road": road, "car": car, "potted_plant": plant}
    return SeedScores(
        miou=float(np.nanmean([*iou.values()])), pixel_accuracy=accuracy, per_class_iou=iou
    )


def arm(variant, *seeds, model="hrnet", real="subset", methods=(), shuffle=False):
    return Arm(
        variant=variant,
        model=model,
        real=real,
        methods=methods,
        shuffle_masks=shuffle,
        seeds=dict(enumerate(seeds)),
    )


ARMS = [
    arm("baseline", scores(90, 70, 20, 0), scores(86, 74, 30, 10), scores(88, 72, 25, 5)),
    arm(
        "masksyn",
        scores(92, 80, 40, 20),
        scores(92, 80, 40, 16),
        scores(92, 80, 40, 24),
        methods=("masksyn",),
    ),
    arm("shuffled", scores(80, 60, 10, 10), methods=("masksyn",), shuffle=True),
    arm("full_real", scores(96, 90, 80, math.nan), real="all"),
    arm("m2f", scores(50, 50, 0, 0), model="mask2former"),
    arm("m2f_masksyn", scores(60, 50, 20, 0), model="mask2former", methods=("masksyn",)),
]
JUDGES = [
    JudgeScores(
        method="masksyn",
        samples=600,
        miou=61.25,
        per_class_iou={"sky": 90.0},
        further={"ambiguous": 1.5},
    )
]


def tables(arms=ARMS, judges=JUDGES):
    seeds = seed_table(arms, taxonomy=TAXONOMY)
    table = ablation_table(arms, seeds=seeds, judges=judges, baseline="baseline")
    return seeds, table, table.set_index("variant")


def test_means_spreads_and_differences_by_hand():
    _, _, table = tables()
    # baseline: mIoU 45, 50, 47.5; masksyn: 58, 57, 59.
    row = table.loc["masksyn"]
    assert row["num_seeds"] == 3
    assert row["miou"] == pytest.approx(58.0) and row["miou_std"] == pytest.approx(1.0)
    assert table.loc["baseline", "miou"] == pytest.approx(47.5) and table.loc[
        "baseline", "miou_std"
    ] == pytest.approx(2.5)
    assert row["delta_miou"] == pytest.approx(10.5)
    # Seed by seed: 13, 7, 11.5; mean 10.5, squares 6.25 + 12.25 + 1 = 19.5 over 2.
    assert row["delta_miou_std"] == pytest.approx(math.sqrt(9.75))
    # Things of the baseline: 10, 20, 15; of masksyn: 30, 28, 32. Stuff: 80, 80, 80 and 86.
    assert table.loc["baseline", "miou_things"] == pytest.approx(15) and row[
        "miou_things_std"
    ] == pytest.approx(2)
    assert row["delta_miou_things"] == pytest.approx(15) and row[
        "delta_miou_stuff"
    ] == pytest.approx(6)
    assert math.isnan(table.loc["baseline", "delta_miou"])


def test_one_seed_has_no_spread_and_an_absent_class_is_left_out_of_means():
    _, _, table = tables()
    row = table.loc["full_real"]
    assert math.isnan(row["miou_std"]) and math.isnan(row["delta_miou_std"])
    assert row["miou_things"] == pytest.approx(80) and row["miou_stuff"] == pytest.approx(93)


def test_each_arm_is_compared_with_its_own_models_baseline():
    assert [comparison_arm(a, arms=ARMS, baseline="baseline") for a in ARMS] == [
        None, "baseline", "baseline", "baseline", None, "m2f",
    ]  # fmt: skip
    _, _, table = tables()
    assert table.loc["m2f_masksyn", "delta_miou"] == pytest.approx(7.5)
    assert list(table["mark"]) == ["", "", CONTROL, UPPER_BOUND, OTHER_MODEL, OTHER_MODEL]
    _, _, alone = tables([ARMS[0], ARMS[5]])
    assert math.isnan(alone.loc["m2f_masksyn", "delta_miou"])


def test_the_judge_stands_by_arms_trained_on_the_pairs_as_they_were_judged():
    _, _, table = tables()
    judged = table["judge_masksyn"]
    assert judged["masksyn"] == judged["m2f_masksyn"] == 61.25
    assert judged[["baseline", "shuffled", "full_real"]].isna().all()
    assert "judge_masksyn" not in tables(judges=[])[2]


def test_per_class_means_and_differences():
    seeds, table, _ = tables()
    per_class = per_class_table(ARMS, seeds=seeds, taxonomy=TAXONOMY)
    assert list(per_class.index) == [a.variant for a in ARMS]
    assert per_class.loc["baseline"].tolist() == pytest.approx([88, 72, 25, 5])
    delta = per_class_delta(per_class, table=table)
    assert delta.loc["masksyn"].tolist() == pytest.approx([4, 8, 15, 15])
    assert delta.loc["m2f_masksyn"].tolist() == pytest.approx([10, 0, 20, 0])
    assert "baseline" not in delta.index and "m2f" not in delta.index


def test_flat_metrics_hold_numbers_only():
    metrics = flat_metrics(tables()[1], judges=JUDGES)
    assert (
        metrics["masksyn.miou"] == 58.0
        and metrics["masksyn.delta"] == 10.5
        and metrics["judge.masksyn"] == 61.25
    )
    assert "full_real.miou_std" not in metrics and "baseline.delta" not in metrics
    json.dumps(metrics, allow_nan=False)


REAL = ["data/real/train/index.parquet", "data/real/val/index.parquet"]
PLAIN = {"model": "hrnet", "strategy": "plain"}
REPLACE = {"model": "hrnet", "strategy": "replace"}
VARIANTS = {
    "baseline": PLAIN | {"reads": REAL},
    "masksyn": REPLACE | {"reads": ["data/synthetic/masksyn", REAL[0]]},
    "shuffled": REPLACE | {"reads": ["data/synthetic/masksyn", REAL[0]], "shuffle_masks": True},
    "full_real": PLAIN | {"reads": REAL, "real": "all"},
    "m2f": PLAIN | {"reads": REAL, "model": "mask2former"},
    "m2f_masksyn": REPLACE | {"reads": ["data/synthetic/masksyn", REAL[0]], "model": "mask2former"},
}


@pytest.fixture
def config():
    return minimal_config({"name": "scenes"}, variants=VARIANTS)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    paths = ProjectPaths(tmp_path)
    paths.taxonomy.parent.mkdir(parents=True)
    paths.taxonomy.write_text(json.dumps(TAXONOMY.to_json()))
    for one in ARMS:
        seeds = {str(seed): s.model_dump() for seed, s in one.seeds.items()}
        for seed in seeds.values():
            seed["per_class_iou"] = {
                k: None if math.isnan(v) else v for k, v in seed["per_class_iou"].items()
            }
        write(
            paths.report("evaluate", one.variant),
            {"model": one.model, "num_images": 9, "miou": 1.0, "seeds": seeds},
        )
    iou = dict.fromkeys(TAXONOMY.slugs, 50.0)
    judge = {
        "judge": "full_real/seed0",
        "samples": 600,
        "miou": 61.25,
        "per_class_iou": iou,
        "miou_things": 40.0,
        "partitions": {},
    }
    write(paths.report("judge", "masksyn"), judge)
    return paths


def write(folder, tree):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(tree, allow_nan=False))


def test_the_stage_writes_tables_charts_and_what_dvc_shows(config, project):
    (project.ablation / "old").mkdir(parents=True)
    ablation.run(config, paths=project, item=None)
    names = {
        "ablation.csv",
        "ablation.md",
        "ablation.png",
        "per_class.csv",
        "per_class.png",
        "seeds.csv",
        "judge.csv",
    }
    names |= {"metrics.json", "plots.csv", "arms", "methods"}
    assert {p.name for p in project.ablation.iterdir()} == names
    shown = {p.stem: json.loads(p.read_text()) for p in (project.ablation / "arms").iterdir()}
    assert set(shown) == set(VARIANTS)
    assert shown["masksyn"]["miou"] == 58.0 and shown["masksyn"]["delta"] == 10.5
    assert set(shown["masksyn"]) <= {"miou", "std", "delta", "things", "stuff"}
    assert "delta" not in shown["baseline"], "it is compared with no arm"
    judged = json.loads((project.ablation / "methods" / "masksyn.json").read_text())
    assert judged == {"judge_miou": 61.25}
    with (project.ablation / "ablation.csv").open() as handle:
        rows = {row["variant"]: row for row in csv.DictReader(handle)}
    assert list(rows) == list(VARIANTS)
    assert float(rows["masksyn"]["delta_miou"]) == 10.5 and rows["shuffled"]["mark"] == CONTROL
    assert json.loads((project.ablation / "metrics.json").read_text())["masksyn.miou"] == 58.0
    for name in ("ablation.png", "per_class.png"):
        picture = np.asarray(Image.open(project.ablation / name).convert("RGB"))
        assert min(picture.shape[:2]) > 300 and picture.std() > 10
    logged = run_files(project.metrics_log, "ablation")[0].read_text()
    assert '"masksyn/miou":58.0' in logged and '"status":"FINISHED"' in logged

    before = {p: p.read_bytes() for p in project.ablation.rglob("*") if p.is_file()}
    ablation.run(config, paths=project, item=None)
    assert {p: p.read_bytes() for p in project.ablation.rglob("*") if p.is_file()} == before


def test_files_of_a_killed_run_are_not_published(config, project, monkeypatch):
    write_all = Comparison.write

    def dies(self, folder):
        write_all(self, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        ablation.run(config, paths=project, item=None)
    assert list(project.scratch.rglob("judge.csv")) and not project.ablation.exists()
    monkeypatch.undo()
    (project.report("judge", "masksyn") / "metrics.json").unlink()
    ablation.run(config, paths=project, item=None)
    assert not (project.ablation / "judge.csv").exists()
    assert not list(project.scratch.rglob("*.csv"))


NEAREST = {
    "samples": 12,
    "training_samples": 900,
    "reference_samples": 100,
    "reference_in_train": 0,
    "neighbors": 50,
    "masks": "own",
    "synthetic": {
        "mask_distance": {
            "median": 16.32,
            "p5": 5.1,
            "p1": 3.3,
            "min": 2.56,
            "below_reference": 0.97,
        },
        "image_rms": {"median": 27.3, "p5": 13.4, "p1": 11.4, "min": 10.2, "below_reference": 1.94},
    },
    "reference": {
        "mask_distance": {"median": 14.5, "p5": 5.6, "p1": 3.2, "min": 3.1},
        "image_rms": {"median": None, "p5": None, "p1": None, "min": None},
    },
}


def nearest_section(config, project):
    ablation.run(config, paths=project, item=None)
    return (project.ablation / "ablation.md").read_text().partition("## Nearest training sample")[2]


def test_methods_that_were_compared_with_the_training_set_get_a_table_of_it(config, project):
    assert not nearest_section(config, project)
    assert not any(
        name.startswith("memorization")
        for name in json.loads((project.ablation / "metrics.json").read_text())
    )

    write(project.report("memorization", "masksyn"), NEAREST)
    images = {
        group: {"image_rms": NEAREST[group]["image_rms"]} for group in ("synthetic", "reference")
    }
    write(project.report("memorization", "imgsyn"), NEAREST | {"masks": "real"} | images)
    section = nearest_section(config, project)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    assert [row[:4] for row in rows[2:]] == [
        ["masksyn", "12", "16.3 / 5.1 / 2.6 (1.0%)", "27.3 / 13.4 / 10.2 (1.9%)"],
        ["imgsyn", "12", NO_VALUE, "27.3 / 13.4 / 10.2 (1.9%)"],
        ["val (real)", "100", "14.5 / 5.6 / 3.1", NO_VALUE],
    ]
    assert (
        "900 real training samples" in section
        and "imgsyn has the masks of real samples by design" in section
    )
    assert "trained on, too" not in section and "nan" not in section
    metrics = json.loads((project.ablation / "metrics.json").read_text())
    assert {n: v for n, v in metrics.items() if n.startswith("memorization")} == {
        "memorization.masksyn.mask_distance": 0.97,
        "memorization.masksyn.image_rms": 1.94,
        "memorization.imgsyn.image_rms": 1.94,
    }

    write(project.report("memorization", "masksyn"), NEAREST | {"reference_in_train": 100})
    assert "100 of the 100 validation samples were trained on, too" in nearest_section(
        config, project
    )
    write(project.report("memorization", "masksyn"), NEAREST | {"synthetic": {}})
    with pytest.raises(
        SegGenError,
        match=r"metrics\.json is damaged: synthetic: .*dvc repro -f -s memorization@masksyn",
    ):
        ablation.run(config, paths=project, item=None)


@pytest.mark.filterwarnings("error")
def chart(*, baseline, masksyn):
    """The axes of the chart of two arms that score as much on every class."""
    arms = [
        arm("baseline", scores(*[baseline] * 4)),
        arm("masksyn", scores(*[masksyn] * 4), methods=("masksyn",)),
    ]
    seeds, table, _ = tables(arms, judges=[])
    (axes,) = ablation_figure(table, seeds=seeds, baseline="baseline", title="two arms").axes
    return axes


def test_a_chart_of_nothing_but_zeros_has_an_axis():
    axes = chart(baseline=0.0, masksyn=0.0)
    assert axes.get_xlim()[0] == 0 < axes.get_xlim()[1]


def test_a_difference_that_rounds_to_zero_has_no_minus_in_the_chart():
    axes = chart(baseline=40.0, masksyn=39.99)
    assert "40.0  (+0.0)" in [text.get_text() for text in axes.texts]


def test_arms_without_a_report_are_named_with_the_command_that_makes_them(config, project):
    for name in ("masksyn", "m2f"):
        (project.report("evaluate", name) / "metrics.json").unlink()
    with pytest.raises(
        SegGenError,
        match=r"2 of 6 arms .*masksyn, m2f\. Run: dvc repro evaluate@masksyn evaluate@m2f",
    ):
        ablation.run(config, paths=project, item=None)
    assert not project.ablation.exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "Invalid JSON"),
        ("[]", "valid dictionary|an object"),
        ('{"seeds": {}}', "seeds"),
        (
            '{"seeds": {"0": {"miou": "high", "pixel_accuracy": 1, "per_class_iou": {}}}}',
            r"seeds\.0\.miou",
        ),
        (
            '{"seeds": {"0": {"miou": 1, "pixel_accuracy": 1, "per_class_iou": {"sky": 1}}}}',
            "car, potted_plant, road",
        ),
    ],
)
def test_a_broken_report_is_named_with_the_command_that_makes_it_again(
    config, project, text, message
):
    (project.report("evaluate", "masksyn") / "metrics.json").write_text(text)
    with pytest.raises(
        SegGenError, match=rf"metrics\.json.*({message}).*dvc repro -f -s evaluate@masksyn"
    ):
        ablation.run(config, paths=project, item=None)
