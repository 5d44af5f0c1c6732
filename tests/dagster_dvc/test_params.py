"""What a launch may set, and that DVC reads it as it was meant."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dagster_dvc.errors import ParamsError
from dagster_dvc.params import param_overrides

PARAMS = """\
seed: 0
classes: [car, bus]
arms: {base: {reads: [data/real], rate: 1.0e-3}}
text: keep
nothing: null
"""
DVC_YAML = """\
stages:
  one:
    matrix: {class: "${classes}"}
    cmd: sh stage.sh ${item.class}
  two:
    foreach: ${arms}
    do: {cmd: sh stage.sh ${key}, deps: ["${item.reads[0]}"]}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    return tmp_path


def applied(root: Path, params: dict[str, Any]) -> Any:
    """What DVC makes of params.yaml."""
    from dvc.utils.hydra import apply_overrides

    apply_overrides(str(root / "params.yaml"), param_overrides(root, params))
    return yaml.safe_load((root / "params.yaml").read_text())


@pytest.mark.parametrize(
    "value",
    [
        *(
            3,
            1.0,
            2.5e-4,
            True,
            None,
            [],
            [1, "a b", None],
            [{"name": "v=1,w"}],
            [["${seed}"], "x"],
        ),
        *(
            "a=b",
            "a,b",
            "it's",
            '"',
            "a\\b",
            "a\\'b",
            "end\\",
            "\\\\",
            "a\\\\'",
            "back\\\n",
            "a\nb",
            "é\u2028",
            " lead",
            "",
            "#x",
        ),
        *(
            "${seed}",
            "\\${seed}",
            "\\\\${seed}",
            "${oc.env:HOME}",
            "choice(1,2)",
            "range(1,3)",
            "glob(*)",
            "null",
            "true",
            "12",
        ),
        *(
            "[1]",
            "{a: 1}",
            "x,seed=7",
            "' seed=7",
            "'+seed=7",
            "$(id)",
            "`id`",
            "!!python/name:os.system",
        ),
    ],
)
def test_a_value_arrives_as_it_is_and_changes_nothing_else(root: Path, value: Any) -> None:
    expected = yaml.safe_load(PARAMS) | {"text": value}
    params = applied(root, {"text": value})
    assert params == expected
    assert type(params["text"]) is type(value)


def test_sections_set_the_values_they_name(root: Path) -> None:
    expected = yaml.safe_load(PARAMS) | {"seed": 2}
    expected["arms"]["base"]["rate"] = 0.5
    assert applied(root, {"arms": {"base": {"rate": 0.5}}, "seed": 2}) == expected


@pytest.mark.parametrize(
    "key",
    [
        *(
            "dvc.yaml:stages.one.cmd",
            "params.yaml:seed",
            ":seed",
            "other.yaml:x",
            "seed=1,text",
            "seed=",
            "+seed",
            "++new",
            "~seed",
        ),
        *(
            "new",
            "seed.new",
            "arms",
            "arms.base",
            "arms.new.rate",
            "classes.0",
            "classes[0]",
            "text@x",
            "text/x",
            "",
            ".",
            "seed.",
            "a b",
        ),
        *("hydra.run.dir", "seed\n", "Seed"),
    ],
)
def test_only_parameters_that_params_yaml_has(root: Path, key: str) -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        param_overrides(root, {key: 1})


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {}, b"x", {"a": object()}, [{"a b": 1}]]
)
def test_values_that_would_arrive_as_others_are_refused(root: Path, value: Any) -> None:
    with pytest.raises(ParamsError):
        param_overrides(root, {"text": value})


def test_a_reference_that_params_yaml_itself_has_is_not_resolved(root: Path) -> None:
    (root / "params.yaml").write_text(PARAMS.replace("keep", '"${oc.env:HOME}"'))
    with pytest.raises(ParamsError, match="something else"):
        param_overrides(root, {"seed": 1})


@pytest.mark.parametrize(
    "text",
    [
        "car; touch x",
        "$(id)",
        "a b",
        "../x",
        "a/../../b",
        "/etc/passwd",
        "-rf",
        "x\n",
        "a'b",
        "http://x",
    ],
)
def test_what_dvc_yaml_uses_holds_nothing_for_a_shell_and_no_path_out_of_the_project(
    root: Path, text: str
) -> None:
    for params in (
        {"classes": ["car", text]},
        {"arms.base.reads": [text]},
        {"arms": {"base": {"reads": [text]}}},
    ):
        with pytest.raises(ParamsError, match=r"dvc\.yaml"):
            param_overrides(root, params)
    assert param_overrides(root, {"classes": ["car", "a/b.c_d-e"]}) == [
        "classes=['car','a/b.c_d-e']"
    ]


def test_the_project_validates_the_whole_file(root: Path) -> None:
    def validate(path: Path) -> None:
        if yaml.safe_load(path.read_text())["seed"] < 0:
            raise ValueError(f"{path}: the seed is negative")

    assert param_overrides(root, {"seed": 1}, validate=validate) == ["seed=1"]
    with pytest.raises(ParamsError, match=r"^params\.yaml: the seed is negative$"):
        param_overrides(root, {"seed": -1}, validate=validate)


def test_a_parameter_given_twice_is_refused(root: Path) -> None:
    with pytest.raises(ParamsError, match="twice"):
        param_overrides(root, {"arms": {"base": {"rate": 1.0}}, "arms.base.rate": 2.0})
