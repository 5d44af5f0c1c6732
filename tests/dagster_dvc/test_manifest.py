import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from dagster_dvc import manifest as manifest_module
from dagster_dvc import repro
from dagster_dvc.errors import DvcProjectError, UnknownStageError
from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import CACHE_FILE, load_manifest
from dagster_dvc.runner import Runner, single_stage
from dagster_dvc.status import changed_stages
from tests.dagster_dvc.conftest import edit


def test_stages_and_groups_are_those_of_dvc_yaml(project: Path) -> None:
    manifest = load_manifest(project)
    assert manifest.groups == {
        "dataset": ("dataset",),
        "masksyn": ("masksyn@car", "masksyn@bus"),
        "train_seg": ("train_seg@baseline", "train_seg@masksyn"),
        "ablation": ("ablation",),
    }
    order = manifest.topological_order()
    assert sorted(order) == sorted(manifest.stages)
    assert all(
        order.index(upstream) < order.index(n.name)
        for n in manifest.stages.values()
        for upstream in n.upstream
    )


def test_node_of_a_matrix(project: Path) -> None:
    node = load_manifest(project).stages["masksyn@car"]
    assert (node.group, node.key, node.dimensions) == ("masksyn", "car", {"class": "car"})
    assert node.cmd == ("sh stage.sh masksyn@car data/synthetic/masksyn/car",)
    assert node.deps == ("stage.sh", "data/real/train")
    assert node.outs == ("data/synthetic/masksyn/car",)
    assert node.template == (
        "sh stage.sh masksyn@${item.class} data/synthetic/masksyn/${item.class}",
    )
    assert node.params == {"params.yaml": {"seed": 0}}
    assert node.desc == "Synthetic samples of car"
    assert node.upstream == ("dataset",)


def test_nodes_of_a_foreach_over_a_dict(project: Path) -> None:
    stages = load_manifest(project).stages
    baseline, masksyn = stages["train_seg@baseline"], stages["train_seg@masksyn"]
    assert (baseline.group, baseline.key, baseline.dimensions) == (
        "train_seg",
        "baseline",
        {"key": "baseline"},
    )
    assert baseline.deps == ("stage.sh", "data/real/train", "data/real/index")
    assert baseline.upstream == ("dataset",)
    assert masksyn.deps == ("stage.sh", "data/real/index", "data/synthetic/masksyn")
    assert masksyn.upstream == ("dataset", "masksyn@bus", "masksyn@car")


def test_metrics_are_told_from_other_outs(project: Path) -> None:
    node = load_manifest(project).stages["ablation"]
    assert (node.outs, node.metrics, node.plots) == (
        ("data/ablation.json",),
        ("data/ablation.json",),
        (),
    )


def test_select_takes_what_is_upstream(project: Path) -> None:
    manifest = load_manifest(project)
    assert manifest.select([]) == set(manifest.stages)
    assert manifest.select(["masksyn@car"]) == {"dataset", "masksyn@car"}
    assert manifest.select(["masksyn", "train_seg@baseline"]) == {
        "dataset",
        "masksyn@car",
        "masksyn@bus",
        "train_seg@baseline",
    }
    with pytest.raises(
        UnknownStageError, match=r"'masksyn@cat' is neither .* did you mean masksyn@car"
    ):
        manifest.select(["masksyn@cat"])


def test_the_manifest_is_kept_until_what_it_was_made_from_changes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_manifest(project)
    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "_build", lambda root: pytest.fail("DVC was asked again"))
        assert load_manifest(project) == first

    params = yaml.safe_load((project / "params.yaml").read_text())
    params["classes"].append("tree")
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    assert load_manifest(project).groups["masksyn"] == (
        "masksyn@car",
        "masksyn@bus",
        "masksyn@tree",
    )


def test_changed_stages_follow_dvc(project: Path) -> None:
    assert changed_stages(project) == {}
    (project / "params.yaml").write_text(
        (project / "params.yaml").read_text().replace("p_aug: 0.6", "p_aug: 0.5")
    )
    assert set(changed_stages(project)) == {"train_seg@baseline", "train_seg@masksyn"}


@pytest.mark.parametrize(
    "file, text, message",
    [
        ("dvc.yaml", "stages: [1, 2", "dvc.yaml"),
        ("dvc.yaml", "stages:\n  a:\n    cmd: echo ${nothing}\n", "nothing"),
        ("params.yaml", "classes: [car", "params.yaml"),
    ],
)
def test_what_dvc_cannot_read_is_said(project: Path, file: str, text: str, message: str) -> None:
    (project / file).write_text(text)
    with pytest.raises(DvcProjectError, match=message):
        load_manifest(project)


def test_a_folder_without_dvc(tmp_path: Path) -> None:
    with pytest.raises(DvcProjectError, match=r"has no \.dvc folder"):
        load_manifest(tmp_path)


def test_sources_are_what_no_stage_writes(project: Path) -> None:
    manifest = load_manifest(project)
    assert set(manifest.sources) == {"stage.sh", "dataset.txt"}
    (project / "dataset.txt").write_text("second\n")
    changed = load_manifest(project).sources
    assert changed["dataset.txt"] == hashlib.md5(b"second\n").hexdigest()
    assert changed["stage.sh"] == manifest.sources["stage.sh"]


def test_a_folder_outside_the_project_is_a_source(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Datasets lie where they are; a file in a folder of theirs changes the manifest."""
    pictures = tmp_path_factory.mktemp("pictures")
    (pictures / "train").mkdir()
    (pictures / "train" / "a.png").write_bytes(b"a")
    stage = {"cmd": "true", "deps": [str(pictures)], "outs": ["made"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"dataset": stage}}))
    with contextlib.chdir(tmp_path):
        Repo.init(no_scm=True).close()
    first = load_manifest(tmp_path).sources[str(pictures)]
    assert load_manifest(tmp_path).sources[str(pictures)] == first
    (pictures / "train" / "b.png").write_bytes(b"b")
    assert load_manifest(tmp_path).sources[str(pictures)] != first


def test_meta_of_a_stage(project: Path) -> None:
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(
        text.replace("    desc: The real samples", "    meta: {dagster: {group: data}}")
    )
    assert load_manifest(project).stages["dataset"].meta == {"dagster": {"group": "data"}}


def test_params_are_keyed_as_dvc_keys_them(project: Path) -> None:
    node = load_manifest(project).stages["train_seg@masksyn"]
    reads = ["data/real/index", "data/synthetic/masksyn"]
    assert node.params == {"params.yaml": {"p_aug": 0.6, "variants.masksyn": {"reads": reads}}}
    assert read_lock(project)["train_seg@masksyn"].params == node.params


HOSTILE = [
    "car; touch owned",
    "$(touch owned)",
    "`touch owned`",
    "a b",
    "../../x",
    "-rf",
    "car\ntouch owned",
    "a'b",
    "a&b",
    "x>y",
    "*",
]


@pytest.mark.parametrize("item", HOSTILE)
def test_an_item_that_a_shell_would_read_is_refused_before_dvc_runs_anything(
    project: Path, item: str, capsys: pytest.CaptureFixture[str]
) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    schedules = [single_stage(project, "dataset") for _ in range(2)]
    for changed in (
        params | {"classes": ["bus", item]},
        params | {"variants": {**params["variants"], item: params["variants"]["baseline"]}},
    ):
        (project / "params.yaml").write_text(yaml.safe_dump(changed))
        with pytest.raises(DvcProjectError, match=r"letters, digits|read the project"):
            load_manifest(project)
        with pytest.raises(DvcProjectError):
            single_stage(project, "dataset")
        with pytest.raises(DvcProjectError):
            next(Runner(project).run(schedules.pop()))
        assert repro.main(["--cd", str(project)]) == 2
        assert "params.yaml" in capsys.readouterr().err
        assert not list(project.rglob("owned"))


@pytest.mark.parametrize(
    "cmd, values, is_safe",
    [
        ("sh stage.sh a ${text}", {"text": "x.y/z-1"}, True),
        ("sh stage.sh a ${text}", {"text": "x; touch owned"}, False),
        ("sh stage.sh a '${text}'", {"text": "x y"}, False),
        ("sh stage.sh a '${text}'", {"text": "x'; touch owned; '"}, False),
        ("sh stage.sh a ${text} && echo ${text}", {"text": "x && echo y"}, False),
        ("sh stage.sh a ${text}", {"text": 3}, True),
        ("echo \\${HOME}; sh stage.sh a ${text}", {"text": "x"}, True),
        ("${text}", {"text": "touch owned"}, False),
        (
            "sh stage.sh a ${text}",
            {"text": {"name": "x y", "other": "it's $(id)", "flag": True, "numbers": [1, 2]}},
            True,
        ),
        (
            "sh stage.sh a ${text}",
            {"text": {"name": "x\n touch owned"}},
            False,
        ),  # DVC cuts commands at line ends
        ("sh stage.sh a ${text}", {"text": {"name; touch owned": "x"}}, False),
    ],
)
def test_what_params_yaml_puts_into_a_command(
    project: Path, cmd: str, values: dict[str, Any], is_safe: bool
) -> None:
    tree = {
        "stages": {"one": {"cmd": cmd, "outs": ["a"]}, "two": {"cmd": ["true", cmd], "outs": ["b"]}}
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump(tree))
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    with (
        contextlib.nullcontext()
        if is_safe
        else pytest.raises(DvcProjectError, match="a shell would")
    ):
        assert set(load_manifest(project).stages) == {"one", "two"}


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"fingerprint": 3}', "\x00"])
def test_a_damaged_cache_is_made_again(project: Path, text: str) -> None:
    manifest = load_manifest(project)
    (project / CACHE_FILE).write_text(text)
    assert load_manifest(project) == manifest
    fingerprint = json.loads((project / CACHE_FILE).read_text())
    (project / CACHE_FILE).write_text(json.dumps(fingerprint | {"manifest": {"stages": [{}]}}))
    assert load_manifest(project) == manifest


@pytest.mark.parametrize("text", [None, "", "stages:\n", "metrics: []\n"])
def test_a_dvc_yaml_without_stages_is_an_error(project: Path, text: str | None) -> None:
    if text is None:
        (project / "dvc.yaml").unlink()
    else:
        (project / "dvc.yaml").write_text(text)
    with pytest.raises(DvcProjectError, match=r"dvc\.yaml.*git checkout"):
        load_manifest(project)


HIDDEN = """
  digests:
    meta: {dagster: {hidden: true}}
    cmd: mkdir -p data && cp dataset.txt data/digest
    deps: [dataset.txt]
    outs: [data/digest]
"""


@pytest.fixture
def with_hidden(project: Path) -> Path:
    """The toy project with a hidden stage that masksyn reads from."""
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text() + HIDDEN)
    edit(project / "dvc.yaml", "[stage.sh, data/real/train]", "[stage.sh, data/digest]")
    return project


def test_hidden_stages_are_no_assets_and_what_they_write_is_a_source(with_hidden: Path) -> None:
    manifest = load_manifest(with_hidden)
    assert "digests" in manifest.groups and "digests" not in manifest.assets
    assert manifest.stages["masksyn@car"].upstream == ("digests",)
    assert manifest.visible_upstream("masksyn@car") == ()
    assert manifest.hidden_upstream("masksyn@car") == {"digests"}
    assert "data/digest" not in manifest.sources
    (with_hidden / "data" / "digest").write_text("first\n")
    assert load_manifest(with_hidden).sources["data/digest"] == hashlib.md5(b"first\n").hexdigest()


def test_a_single_stage_gets_its_hidden_inputs_first(with_hidden: Path) -> None:
    runner = Runner(with_hidden)

    def outcomes() -> dict[str, str]:
        runs = runner.run(single_stage(with_hidden, "masksyn@car"))
        return {run.name: run.result.outcome for run in runs if run is not None and run.result}

    assert list(outcomes()) == ["digests", "masksyn@car"]
    assert outcomes() == {"masksyn@car": "unchanged"}
    edit(with_hidden / "dataset.txt", "first", "second")
    assert list(outcomes()) == ["digests", "masksyn@car"]
    assert "masksyn@car" not in changed_stages(with_hidden)


def test_a_hidden_stage_that_always_runs_is_no_work_left(
    with_hidden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`dvc repro` runs it each time, and what follows it where it wrote something else."""
    edit(with_hidden / "dvc.yaml", "    deps: [dataset.txt]\n    outs: [data/digest]",
         "    always_changed: true\n    outs: [data/digest]")  # fmt: skip
    assert load_manifest(with_hidden).stages["digests"].always_changed

    def run(*targets: str) -> list[str]:
        capsys.readouterr()
        assert repro.main(["--cd", str(with_hidden), *targets]) == 0
        return sorted(
            re.findall(r"^\[ *\d+/\d+\] (\S+) ", capsys.readouterr().out, flags=re.MULTILINE)
        )

    assert run("masksyn") == ["digests", "masksyn@bus", "masksyn@car"]
    assert run("masksyn") == ["digests"]
    edit(with_hidden / "dataset.txt", "first", "second")
    assert run("masksyn") == ["digests", "masksyn@bus", "masksyn@car"]
