"""Digests of the code of each stage: each source file is changed in turn; which digests change?"""

import ast
import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml

from seggen_core.cli import STAGES
from seggen_core.config import Section, SegGenConfig
from seggen_core.project.code import (
    NEUTRAL,
    PACKAGE,
    SourceTree,
    _digest_tree,
    code_digest,
    declared_params,
)

ROOT = PACKAGE.parent
PARAMS = declared_params(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8")))
TREE = SourceTree()
CODE = {stage: TREE.stage_code(stage, params=PARAMS[stage]) for stage in STAGES}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the sources that may be changed."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "seggen_core", ignore=ignored))


def changed(package: Path) -> set[str]:
    """The stages whose digests differ from those of the real sources."""
    tree = SourceTree(package)
    return {s for s in STAGES if tree.stage_code(s, params=PARAMS[s]) != CODE[s]}


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_dvc_yaml_gives_every_stage_its_own_digests() -> None:
    tree = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert set(tree) == {"code", *STAGES}
    written = {Path(out).stem for out in tree["code"]["outs"]}
    assert written == {"none", *STAGES}
    for name in STAGES:
        body = tree[name].get("do", tree[name])
        assert f"data/code/{name}.json" in body["deps"]
        sources = [dep for dep in body["deps"] if dep.startswith("seggen_core")]
        assert not sources, f"{name} lists sources beside its digests: {sources}"


LOADED_BY_STAGE = """
import importlib, json, sys
left_out, stages = json.loads(sys.argv[1])
for name in left_out:
    importlib.import_module(name)
before = set(sys.modules)
loaded = {}
for stage in stages:
    importlib.import_module("seggen_core.stages." + stage)
    loaded[stage] = [n for n in set(sys.modules) - before if n.partition(".")[0] == "seggen_core"]
    for name in loaded[stage]:  # other packages stay, or each stage would take seconds
        del sys.modules[name]
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """The modules that Python loads for each stage."""
    names = json.dumps([[*NEUTRAL, "seggen_core.config"], [*STAGES]])
    done = subprocess.run(
        [sys.executable, "-c", LOADED_BY_STAGE, names], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("stage", STAGES)
def test_no_module_that_a_stage_imports_is_missing(
    stage: str, loaded: dict[str, list[str]]
) -> None:
    """What Python really loads; imports inside functions are found by reading alone."""
    assert f"seggen_core.stages.{stage}" in loaded[stage]
    assert set(loaded[stage]) <= set(CODE[stage])


def test_each_module_concerns_the_stages_that_list_it_and_no_other(package: Path) -> None:
    files = sorted(f for f in package.rglob("*.py") if f.parent.name != "config")
    for file in files[::25]:
        parts = file.relative_to(package.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        listing = {stage for stage in STAGES if module in CODE[stage]}
        before = file.read_text(encoding="utf-8")
        append(file, "\nPROBE = 1\n")
        assert changed(package) == listing, module
        file.write_text(before, encoding="utf-8")


def test_known_dependencies_are_there() -> None:
    listing = {
        name: {stage for stage in STAGES if name in CODE[stage]}
        for name in (
            "seggen_core.colors.decoding",
            "seggen_core/colors/class_palettes.npy",
            "seggen_core.project.rng",
            "seggen_core.datasets.camvid",
            "seggen_core/datasets/taxonomies/camvid.json",
            "seggen_core.captions.blip2",
            "seggen_core.segmentation.hrnet",
        )
    }
    generation = {"text2mask", "mask2img", "masksyn", "imgsyn"}
    assert generation <= listing["seggen_core.colors.decoding"]
    assert generation <= listing["seggen_core/colors/class_palettes.npy"]
    assert {*generation, "dataset", "train_seg"} <= listing["seggen_core.project.rng"]
    assert "dataset" in listing["seggen_core.datasets.camvid"]
    assert "dataset" in listing["seggen_core/datasets/taxonomies/camvid.json"]
    assert listing["seggen_core.captions.blip2"] == {"captions"}
    assert listing["seggen_core.segmentation.hrnet"] == {
        "train_seg",
        "evaluate",
        "transfer",
        "judge",
    }


def test_data_beside_a_module_counts(package: Path) -> None:
    palettes = package / "colors" / "class_palettes.npy"
    palettes.write_bytes(palettes.read_bytes()[:-1] + b"x")
    name = "seggen_core/colors/class_palettes.npy"
    assert changed(package) == {stage for stage in STAGES if name in CODE[stage]} != set()


@pytest.mark.parametrize(
    "old, new",
    [
        ("import hashlib", "# A remark.\nimport hashlib"),
        ('"""Return a NumPy generator', '"""Give a NumPy generator'),
    ],
)
def test_comments_and_docstrings_count_for_nothing(package: Path, old: str, new: str) -> None:
    edit(package / "project" / "rng.py", old, new)
    assert changed(package) == set()


def test_the_text_of_an_error_counts_for_nothing_but_its_kind_does(package: Path) -> None:
    taxonomy = package / "taxonomy.py"
    edit(taxonomy, "a taxonomy holds", "the taxonomy holds")
    assert changed(package) == set()
    edit(taxonomy, "raise ConfigError(", "raise ValueError(")
    assert changed(package) != set()


def test_a_default_concerns_the_stages_that_read_its_section(package: Path) -> None:
    edit(package / "config" / "segmenter.py", "num_steps: Positive = 600", "num_steps: int = 7")
    assert changed(package) == {"train_seg"}


def test_a_section_inside_a_section_counts(package: Path) -> None:
    edit(package / "config" / "generation.py", "Field(0.5, gt=0, lt=1)", "Field(0.4, gt=0, lt=1)")
    assert changed(package) == {"foundation", "text2mask", "mask2img"}


def test_the_digest_of_a_stage_is_of_its_modules_alone() -> None:
    assert code_digest("masksyn") == code_digest("masksyn") != code_digest("imgsyn")
    with pytest.raises(ModuleNotFoundError, match=r"stages\.nothing has no source"):
        code_digest("nothing")


def sections_of(stage: str) -> set[type[Section]]:
    """The classes of the sections of params.yaml that dvc.yaml lets a stage depend on."""
    reached: set[type[Section]] = set()
    pending = [
        SegGenConfig.model_fields[key.partition(".")[0]].annotation
        for key in PARAMS[stage]
        if key.partition(".")[0] in SegGenConfig.model_fields
    ]
    while pending:
        annotation = pending.pop()
        pending += [part for part in get_args(annotation) if not isinstance(part, str)]
        is_section = isinstance(annotation, type) and issubclass(annotation, Section)
        if is_section and annotation not in reached:
            reached.add(annotation)
            pending += [field.annotation for field in annotation.model_fields.values()]
    return reached


def defaults(section: type[Section]) -> Iterator[tuple[str, int]]:
    """Class and position in it of each default of a section, also of those that it inherits."""
    for owner in section.__mro__:
        body = TREE._definitions[owner.__name__].body if owner.__name__ in TREE._definitions else []
        for k, statement in enumerate(body):
            if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                yield owner.__name__, k


def test_a_changed_default_concerns_every_stage_that_may_use_it() -> None:
    """params.yaml need not name a key, so its default is a number that results depend on."""
    changes_digest: set[tuple[str, int]] = set()
    for stage in STAGES:
        listed = set(TREE._sections(PARAMS[stage]))
        for owner, k in {d for section in sections_of(stage) for d in defaults(section)}:
            assert owner in listed and f"seggen_core.config: {owner}" in CODE[stage], (stage, owner)
            if (owner, k) not in changes_digest:
                other = copy.deepcopy(TREE._definitions[owner])
                other.body[k].value = ast.Constant("another default")
                assert _digest_tree(other) != CODE[stage][f"seggen_core.config: {owner}"]
                changes_digest.add((owner, k))
    assert len(changes_digest) > 100


def test_a_constant_behind_a_default_counts(package: Path) -> None:
    file = package / "config" / "segmenter.py"
    edit(file, "p_aug: Probability = 0.6", "p_aug: Probability = SHARE")
    append(file, "\nSHARE = 0.6\n")
    before = SourceTree(package).stage_code("train_seg", params=PARAMS["train_seg"])
    edit(file, "SHARE = 0.6", "SHARE = 0.7")
    assert SourceTree(package).stage_code("train_seg", params=PARAMS["train_seg"]) != before
