"""Which stages a change makes stale: dvc.yaml as DVC reads it, with commands that only write."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from seggen_core.commands.code import write_digests
from seggen_core.project.code import SourceTree
from seggen_core.project.paths import ProjectPaths

ROOT = Path(__file__).parent.parent
CLASSES = ["car", "person"]
NONE = "data/code/none.json"


def write_params(folder: Path, **changes: Any) -> None:
    """The project's parameters for two classes and two arms; `changes` change keys of sections."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["classes"] = CLASSES
    params["foundation"]["reads"] = NONE
    params["dataset"]["reads"] = "pictures"
    params["variants"] = {
        name: params["variants"][name] for name in ("masksyn_imgsyn", "full_real", "mask2former")
    }
    for section, keys in changes.items():
        params[section] |= keys
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def writes(out: str) -> str:
    """A command that makes `out`: a file, or a folder with a file for each class."""
    if Path(out).suffix:
        return f"mkdir -p {Path(out).parent} && echo {out} > {out}"
    return " && ".join(
        [f"mkdir -p {out}", *(f"echo {out} > {out}/{name}.parquet" for name in ("index", *CLASSES))]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage has run.

    `dvc repro` writes dvc.lock once a stage. Here all outputs are made first, and DVC records them
    together.
    """
    folder = tmp_path_factory.mktemp("graph")
    shutil.copytree(
        ROOT / "seggen_core", folder / "seggen_core", ignore=shutil.ignore_patterns("__pycache__")
    )
    edits = Path("profiles/scenes/caption_edits.csv")
    (folder / edits).parent.mkdir(parents=True)
    shutil.copy(ROOT / edits, folder / edits)
    tree = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for name, stage in tree["stages"].items():
        if name == "code":  # the one stage that does its work here
            continue
        body = stage.get("do", stage)
        body["cmd"] = " && ".join(map(writes, body["outs"]))
    (folder / "dvc.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    for split in ("train", "val"):
        (folder / "pictures" / split).mkdir(parents=True)
        for i in range(3):
            (folder / "pictures" / split / f"{i}.png").write_bytes(bytes([i]))
    (folder / "pictures" / "classes.csv").write_text("id,name\n")
    write_params(folder, seediff={"prompt_file": "listed.jsonl", "reads": "listed.jsonl"})
    (folder / "listed.jsonl").write_text('{"class": "car", "prompt": "a red car"}\n')
    with contextlib.chdir(folder):  # DVC looks for dvc.yaml in the working directory
        Repo.init(no_scm=True).close()
        write_digests(SourceTree(folder / "seggen_core"), paths=ProjectPaths(folder))
        with Repo() as repo:
            for stage in repo.index.stages:
                if stage.name != "code":
                    subprocess.run(stage.cmd, shell=True, check=True)
            repo.commit(force=True)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it that may be changed; the working directory."""
    folder = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    with contextlib.chdir(folder):
        yield folder


def stale() -> set[str]:
    """Names of the stages that would run for what they themselves depend on."""
    with Repo() as repo:
        return set(repo.status())


@pytest.mark.usefixtures("project")
def test_a_finished_project_is_up_to_date() -> None:
    assert stale() == set()


def test_a_changed_prompt_file_concerns_the_partitions_that_read_it(project: Path) -> None:
    listed = project / "listed.jsonl"
    listed.write_text('{"class": "car", "prompt": "a blue car"}\n')
    assert stale() == {"seediff@car", "seediff@person"}


def test_the_card_of_a_method_concerns_no_stage(project: Path) -> None:
    shutil.copy(ROOT / ".dvcignore", project / ".dvcignore")
    method = project / "data" / "synthetic" / "masksyn"
    for name in ("README.md", ".README.md.car"):
        (method / name).write_text("a card that one partition wrote, and another hasn't yet\n")
    assert stale() == set()
    (method / "notes.txt").write_text("anything else in the folder counts\n")
    assert "judge@masksyn" in stale()


def replace_class_list(pictures: Path) -> None:
    (pictures / "classes.csv").write_text("id,name\n1,crack\n")


def replace_picture(pictures: Path) -> None:
    (pictures / "train" / "1.png").write_bytes(b"another")


def add_picture(pictures: Path) -> None:
    (pictures / "val" / "9.png").write_bytes(b"one more")


def remove_picture(pictures: Path) -> None:
    (pictures / "train" / "0.png").unlink()


@pytest.mark.parametrize(
    "change", [replace_class_list, replace_picture, add_picture, remove_picture]
)
def test_every_change_of_the_users_files_concerns_the_dataset(
    project: Path, change: Callable[[Path], None]
) -> None:
    change(project / "pictures")
    assert stale() == {"dataset"}


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


def stale_for_code(project: Path) -> set[str]:
    """Groups of stages that a change of the sources concerns, once `code` has seen it.

    The work of `code` is done in this process, which has read most of the sources before.
    """
    write_digests(SourceTree(project / "seggen_core"), paths=ProjectPaths(project))
    with Repo() as repo:
        repo.commit("code", force=True)
    return {name.partition("@")[0] for name in stale()}


@pytest.mark.parametrize(
    "module, concerned",
    [
        ("reports/plan.py", set()),
        ("cli.py", set()),
    ],
)
def test_a_module_concerns_the_stages_that_import_it(
    project: Path, module: str, concerned: set[str]
) -> None:
    append(project / "seggen_core" / module, "\nPROBE = 1\n")
    assert stale_for_code(project) == concerned


def test_dvc_itself_runs_code_when_a_module_has_changed(project: Path) -> None:
    append(project / "seggen_core" / "synthesis" / "prompt_templates.py", "\nPROBE = 1\n")
    assert stale() == {"code"}, "first, only this stage sees it"
    with Repo() as repo:
        repo.reproduce("code", single_item=True)
    assert {name.partition("@")[0] for name in stale()} == {"seediff", "diffumask"}


@pytest.mark.parametrize("module", ["colors/decoding.py", "project/rng.py"])
def test_what_many_stages_compute_with_concerns_them_all(project: Path, module: str) -> None:
    append(project / "seggen_core" / module, "\nPROBE = 1\n")
    concerned = stale_for_code(project)
    assert {"text2mask", "mask2img", "masksyn", "imgsyn"} <= concerned
    assert "ablation" not in concerned


def test_a_comment_concerns_nobody(project: Path) -> None:
    append(project / "seggen_core" / "project" / "rng.py", "\n# A remark.\n")
    assert stale_for_code(project) == set()


def test_another_prompt_file_concerns_the_method_that_names_it(project: Path) -> None:
    (project / "mine.jsonl").write_text('{"class": "car", "prompt": "a car"}\n')
    listed = {"prompt_file": "listed.jsonl", "reads": "listed.jsonl"}
    write_params(
        project, seediff=listed, diffumask={"prompt_file": "mine.jsonl", "reads": "mine.jsonl"}
    )
    assert stale() == {"diffumask@car", "diffumask@person"}


def test_a_mask_recipe_concerns_its_own_store_and_what_reads_it(project: Path) -> None:
    """It isn't an input of the method, whose samples stay as they are."""
    recipe = {"method": "seediff", "settings": {"strategy": "ca"}, "reads": NONE}
    reads = ["data/synthetic/rough", "data/real/train/index.parquet"]
    arm = {"model": "hrnet", "strategy": "plain", "real": "none", "reads": reads}
    write_params(
        project,
        seediff={"prompt_file": "listed.jsonl", "reads": "listed.jsonl"},
        variants={"rough": arm},
    )
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    params |= {"mask_recipe": {"rough": recipe}, "methods": [*params["methods"], "rough"]}
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    new = {f"{stage}@rough" for stage in ("mask_recipe", "check_synthetic", "train_seg")}
    new |= {f"{stage}@rough" for stage in ("evaluate", "judge", "memorization")}
    assert stale() == {*new, "ablation"}  # which lists the arms
    with Repo() as repo:
        repo.reproduce("check_synthetic@rough")
    params["mask_recipe"]["rough"]["settings"]["strategy"] = "ca_sa"
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert {name for name in stale() if "mask_recipe" in name or "seediff" in name} == {
        "mask_recipe@rough"
    }
    params["seediff"]["beta"] = 0.4
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert {"mask_recipe@rough", "seediff@car", "seediff@person"} <= stale()


def test_edited_captions_concern_the_stage_that_reads_them(project: Path) -> None:
    (project / "profiles" / "scenes" / "caption_edits.csv").write_text(
        "sample_key,caption\ntrain-00001,a car\n"
    )
    assert stale() == {"captions"}


ARMS = {"masksyn_imgsyn", "full_real", "mask2former"}


@pytest.mark.parametrize(
    "key, value, concerned",
    [
        ("train_seg.replace.p_aug", 0.5, {"masksyn_imgsyn"}),
        ("train_seg.pretrain.pretrain_share", 0.5, set()),
        ("train_seg.hrnet.stem_stride", 1, {"masksyn_imgsyn", "full_real"}),
        ("train_seg.mask2former.learning_rate", 1.0, {"mask2former"}),
        ("train_seg.mask2former.architecture.num_queries", 5, {"mask2former"}),
        ("train_seg.common.num_steps", 5, ARMS),
        ("variants.full_real.overrides", {"num_steps": 5}, {"full_real"}),
        ("variants.masksyn_imgsyn.num_synthetic", 5, {"masksyn_imgsyn"}),
        ("seed", 5, ARMS),
    ],
)
def test_a_setting_concerns_the_arms_that_are_trained_with_it(
    project: Path, key: str, value: Any, concerned: set[str]
) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    section = params
    *path, last = key.split(".")
    for part in path:
        section = section[part]
    assert section.get(last) != value
    section[last] = value
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    trained = {name for name in stale() if name.startswith("train_seg")}
    assert trained == {f"train_seg@{arm}" for arm in concerned}


def test_an_unseen_class_concerns_the_scores_and_no_training(project: Path) -> None:
    write_params(
        project,
        zero_shot={"unseen": ["car"]},
        seediff={"prompt_file": "listed.jsonl", "reads": "listed.jsonl"},
    )
    assert stale() == {f"evaluate@{arm}" for arm in ARMS}


def test_a_shell_never_reads_what_params_yaml_calls_a_class(tmp_path: Path) -> None:
    """`dvc repro` in a shell: only DVC reads params.yaml before it makes commands of it."""
    tree = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    stages = {
        name: body for name, body in tree["stages"].items() if "matrix" in body or "foreach" in body
    }
    for body in stages.values():
        for key in ("deps", "params"):
            body.get("do", body).pop(key)
    hostile = "x; touch owned; $(touch owned) 'q"
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    # A transfer writes beside the arms, so it can't be called like one.
    called = dict.fromkeys(stages, hostile) | {"transfer": f"{hostile} 2"}
    named = ("variants", "transfer", "suite", "mask_recipe")
    items = {key: {called.get(key, hostile): {}} for key in named}
    params = {"classes": [hostile], "methods": [hostile], **items}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >> argv\nexit 1\n', encoding="utf-8")
    python.chmod(0o755)
    dvc = str(Path(sys.executable).with_name("dvc"))
    env = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "true"}
    subprocess.run([dvc, "init", "--no-scm", "--quiet"], cwd=tmp_path, env=env, check=True)
    subprocess.run(
        [dvc, "repro", "--keep-going"], cwd=tmp_path, env=env, check=False, capture_output=True
    )
    assert not list(tmp_path.rglob("owned"))
    asked = (tmp_path / "argv").read_text().split("-m\nseggen_core\n")[1:]
    assert sorted(asked) == sorted(f"{n}\n--item\n{n}@{key}\n" for n, key in called.items())
