"""The suites: their files, plans and pages, and their way into params.yaml."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dvc.repo import Repo
from PIL import Image

from dagster_dvc.manifest import load_manifest
from seggen_core.cli import main
from seggen_core.config import SegGenConfig, SuiteFile, load_config, merge_params, read_suite
from seggen_core.config.load import check_config
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.suite import SuiteReport
from seggen_core.reports.suite_table import compare
from seggen_core.stages import suite as suite_stage
from seggen_core.tracking.log import Metrics, Start, read_chunk, run_files
from tests.project.test_storage import file_limit

ROOT = Path(__file__).parent.parent
FILES = {path.stem: path for path in sorted((ROOT / "profiles" / "suites").glob("*.yaml"))}
SCENES = "scenes-p-aug"


def profile_tree(suite: SuiteFile) -> dict[str, Any]:
    text = (ROOT / "profiles" / suite.profile / "params.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def with_suite(name: str) -> dict[str, Any]:
    """The parameters of the suite's profile with the suite in them."""
    suite = read_suite(FILES[name])
    tree = profile_tree(suite)
    merge_params(tree, suite.params)
    tree["suite"] = {name: {"file": f"profiles/suites/{name}.yaml"}}
    return tree


def config_of(name: str) -> SegGenConfig:
    return check_config(with_suite(name), name=name)


@pytest.mark.parametrize("name", FILES)
def test_every_suite_fits_its_profile(name: str) -> None:
    """Its arms are there and are trained by settings that hold; they differ from each other."""
    suite, config = read_suite(FILES[name]), config_of(name)
    assert set(suite.arms) <= {*config.variants, *config.transfer}
    added = set(suite.params.get("variants", {}))
    tested = {test.arm for test in config.transfer.values()}
    assert added <= {*suite.arms, *tested}, "an arm that no row needs"
    arms = [arm.model_dump_json() for arm in config.variants.values()]
    assert len(set(arms)) == len(arms), "two arms with the same settings"
    assert all(config.train_seg.for_arm(arm).num_steps > 0 for arm in config.variants.values())
    labels = [row.label for row in suite.rows]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", FILES)
def test_every_suite_is_planned(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--params", str(ROOT / "params.yaml"), "plan", "--suite", name]) == 0
    printed = capsys.readouterr().out
    assert f"suite {name}" in printed and "train_seg" in printed and "judge" not in printed
    assert ("mask_recipe" in printed) == ("mask_recipe" in read_suite(FILES[name]).params)


def test_dvc_knows_every_suite(tmp_path: Path) -> None:
    """dvc.yaml with the parameters of each: its arms, its scores and its page are stages.

    With one class: the others have stages like it, and no stage that the test looks for.
    """
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    for name, file in FILES.items():
        tree = with_suite(name)
        tree["classes"] = tree["classes"][:1]
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        stages = load_manifest(tmp_path).stages
        assert f"profiles/suites/{name}.yaml" in stages[f"suite@{name}"].deps
        arms = read_suite(file).arms
        tests = tree.get("transfer", {})
        wanted = {f"transfer@{arm}" for arm in arms if arm in tests}
        trained = [arm for arm in arms if arm not in tests]
        wanted |= {f"{stage}@{arm}" for arm in trained for stage in ("train_seg", "evaluate")}
        assert wanted <= set(stages)


def write_scores(paths: ProjectPaths, suite: SuiteFile, *, leave_out: str | None = None) -> None:
    """Reports of `evaluate` with scores that grow from arm to arm, for three seeds."""
    for index, arm in enumerate(suite.arms):
        if arm == leave_out:
            continue
        seeds = {}
        for seed in range(3):
            tree: dict[str, Any] = {}
            for score in suite.scores:
                *path, last = score.split("/")
                place = tree
                for part in path:
                    place = place.setdefault(part, {})
                place[last] = 40.0 + index + (0.5, -0.5, 0.25 * index)[seed]
            seeds[str(seed)] = tree
        folder = paths.report("evaluate", arm)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"seeds": seeds}))
        history = paths.checkpoint(arm) / "history.csv"
        history.parent.mkdir(parents=True)
        history.write_text("seed,step,loss,learning_rate,val_miou\n0,1,2.0,1,\n0,2,1.5,1,40\n")


@pytest.mark.parametrize("name", FILES)
def test_every_suite_has_a_page(name: str, tmp_path: Path) -> None:
    paths, suite = ProjectPaths(tmp_path), read_suite(FILES[name])
    (tmp_path / "profiles" / "suites").mkdir(parents=True)
    shutil.copy(FILES[name], tmp_path / "profiles" / "suites")
    write_scores(paths, suite)
    suite_stage.run(config_of(name), paths=paths, item=name)
    out = paths.report("suite", name)
    page = (out / "suite.md").read_text(encoding="utf-8")
    table = SuiteReport.read(config_of(name), name=name, paths=paths).table()
    assert table["label"].tolist() == [row.label for row in suite.rows]
    for row, label in zip(suite.rows, table["label"], strict=True):
        assert label.split("_")[0] in page
        for figure in row.paper.values():
            assert f"{figure:.1f}" in page
        if row.missing is not None:
            assert row.missing[:20] in page
    ours = table[table["arm"].notna()]
    assert ours[next(iter(suite.scores))].notna().all() and ours["absence"].isna().all()
    if suite.curve is not None:
        with Image.open(out / "curve.png") as picture:
            assert picture.width > 500
    events = [e for f in run_files(paths.metrics_log) for e in read_chunk(f).events]
    starts = [e for e in events if isinstance(e, Start)]
    parent = next(e for e in starts if e.name == f"suite@{name}")
    assert sum(e.parent == parent.run for e in starts) == len(ours)
    assert any(isinstance(e, Metrics) for e in events)


def test_an_arm_that_has_not_run_says_how_to_run_it(tmp_path: Path) -> None:
    paths, suite = ProjectPaths(tmp_path), read_suite(FILES[SCENES])
    (tmp_path / "profiles" / "suites").mkdir(parents=True)
    shutil.copy(FILES[SCENES], tmp_path / "profiles" / "suites")
    write_scores(paths, suite, leave_out="p40")
    report = SuiteReport.read(config_of(SCENES), name=SCENES, paths=paths)
    assert "another arm in mIoU, seed by seed" in report.markdown()
    assert "41.1\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.5" in report.markdown()
    assert "p\\_aug 0.4: not run: dvc repro evaluate@p40" in report.markdown().replace(
        "p_aug", "p\\_aug"
    )
    with pytest.raises(ConfigError, match=r"no suite 'other' in params.yaml; it has: scen"):
        SuiteReport.read(config_of(SCENES), name="other", paths=paths)


def test_arms_are_compared_seed_by_seed() -> None:
    """By hand: differences 1, 2 and 6 have mean 3, s = sqrt(7), t = 3 / sqrt(7 / 3)."""
    ours = {"0": 11.0, "1": 22.0, "2": 36.0, "3": 99.0}
    other = {"0": 10.0, "1": 20.0, "2": 30.0}
    comparison = compare(ours, other, against="baseline")
    assert comparison is not None and (comparison.num_seeds, comparison.difference) == (3, 3.0)
    t = 3 / math.sqrt(7 / 3)
    assert comparison.p_value == pytest.approx(1 - t / math.sqrt(2 + t**2))  # of Student's t with 2
    assert comparison.half_width == pytest.approx(4.302653 * math.sqrt(7 / 3), rel=1e-6)
    single = compare({"0": 3.0}, other, against="baseline")
    assert single is not None and single.difference == -7.0 and math.isnan(single.p_value)
    assert compare({}, other, against="baseline") is None
    equal = compare(other, other, against="baseline")
    assert equal is not None and equal.difference == 0 and np.isnan(equal.p_value)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path / "params.yaml"


def test_a_suite_goes_into_params_yaml_and_comments_stay(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = project.read_text(encoding="utf-8")
    assert main(["--params", str(project), "suites", SCENES]) == 0
    text = project.read_text(encoding="utf-8")
    comments = [line for line in before.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in text.splitlines() if line.lstrip().startswith("#")] == comments
    config = load_config(project)
    assert [*config.suite] == [SCENES]
    assert set(config.variants) == set(load_config(ROOT / "params.yaml").variants) | {
        "p20",
        "p40",
        "p80",
    }
    assert main(["--params", str(project), "suites", SCENES]) == 0
    assert project.read_text(encoding="utf-8") == text
    assert main(["--params", str(project), "suites"]) == 0
    printed = capsys.readouterr().out
    assert f"* {SCENES}" in printed and all(name in printed for name in FILES)


def test_profiles_may_lie_elsewhere(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A link to profiles that projects share."""
    elsewhere = tmp_path_factory.mktemp("shared") / "profiles"
    (project.parent / "profiles").rename(elsewhere)
    (project.parent / "profiles").symlink_to(elsewhere)
    before = (elsewhere / "suites" / f"{SCENES}.yaml").read_bytes()
    assert main(["--params", str(project), "suites", SCENES]) == 0
    assert (elsewhere / "suites" / f"{SCENES}.yaml").read_bytes() == before
    tree = yaml.safe_load(project.read_text(encoding="utf-8"))
    assert tree["suite"][SCENES] == {"file": f"profiles/suites/{SCENES}.yaml"}


@pytest.mark.usefixtures("capsys")  # what is captured in a file would meet the limit, too
def test_after_a_full_disk_the_same_command_goes_on(project: Path) -> None:
    """A suite that comes from elsewhere is copied whole or not at all."""
    shutil.rmtree(project.parent / "profiles" / "suites")
    before = project.read_bytes()
    with file_limit(FILES[SCENES].stat().st_size // 2):
        assert main(["--params", str(project), "suites", SCENES]) == 3
    assert not list((project.parent / "profiles" / "suites").iterdir())
    assert project.read_bytes() == before
    assert main(["--params", str(project), "suites", SCENES]) == 0
    place = project.parent / "profiles" / "suites" / f"{SCENES}.yaml"
    assert place.read_bytes() == FILES[SCENES].read_bytes()


def test_names_of_methods_are_added() -> None:
    """So suites of one dataset share a project, whichever stores their arms read."""
    tree: dict[str, Any] = {"methods": ["seediff"], "seed": 0}
    assert merge_params(tree, {"methods": ["ca", "seediff"], "seed": 1}) == [("seed", 0, 1)]
    assert tree == {"methods": ["seediff", "ca"], "seed": 1}
    merged = profile_tree(read_suite(FILES["seediff-table2"]))
    for name, file in FILES.items():
        suite = read_suite(file)
        if suite.profile == "voc2012":
            replaced = [key for key, _, _ in merge_params(merged, suite.params)]
            assert set(replaced) <= {"diffumask.samples_per_class"}, name
    assert set(check_config(merged, name="all of VOC").mask_recipe) < set(merged["methods"])


def test_a_suite_replaces_nothing_unless_it_is_told_to(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = {"model": "hrnet", "strategy": "replace", "p_aug": 0.9}
    tree = yaml.safe_load(project.read_text(encoding="utf-8"))
    tree["variants"]["p20"] = mine | {"reads": tree["variants"]["masksyn_imgsyn"]["reads"]}
    project.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    before = project.read_text(encoding="utf-8")
    assert main(["--params", str(project), "suites", SCENES]) != 0
    assert "variants.p20.p_aug is 0.9, and the suite sets 0.2" in capsys.readouterr().err
    assert project.read_text(encoding="utf-8") == before
    assert main(["--params", str(project), "suites", SCENES, "--force"]) == 0
    assert load_config(project).variants["p20"].p_aug == 0.2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nothing"], "there is no suite 'nothing'"),
        (["seggen-table4"], "is for the dataset ade20k, and params.yaml reads scenes"),
    ],
)
def test_suites_that_are_not_there_or_of_another_dataset_are_refused(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    before = project.read_text(encoding="utf-8")
    assert main(["--params", str(project), "suites", *arguments]) != 0
    assert words in capsys.readouterr().err
    assert project.read_text(encoding="utf-8") == before


ROW = {"label": "a", "arm": "baseline"}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rows": [{"label": "a"}]}, "has neither an arm nor a figure of the paper"),
        ({"rows": [ROW | {"missing": "x"}]}, "has an arm, so it isn't missing"),
        ({"rows": [ROW | {"paper": {"pq": 5}}]}, "has a figure for 'pq', which isn't among"),
        ({"rows": [ROW | {"paper": {"miou": 5}}]}, "'paper' doesn't name it"),
        ({"paper": "P"}, "'paper' and 'place' go together"),
        ({"typo": 1}, "typo"),
        ({"rows": []}, "mine.yaml: rows: List should have at least 1 item"),
        ({"scores": ["miou"]}, "mine.yaml: scores: Input should be a mapping (got ['miou'])"),
        ({"title": 2026}, "mine.yaml: title: Input should be a valid string (got 2026)"),
        ({"params": {"methods": "seediff"}}, "params.methods is 'seediff'; expected a list"),
        (
            {"paper": "P", "place": "T", "rows": [ROW | {"paper": {"miou": "40.1"}}]},
            "rows.0.paper.miou: Input should be a valid number (got '40.1')",
        ),
    ],
)
def test_a_wrong_file_is_one_message(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    tree = {"title": "t", "profile": "scenes", "scores": {"miou": "mIoU"}, "rows": [ROW]} | changes
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_suite(file)
    assert words in str(caught.value) and "\n" not in str(caught.value)
