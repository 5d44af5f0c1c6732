"""The project's own definitions: what Dagster derives from dvc.yaml, held against a snapshot."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from dagster_project.definitions import build_definitions
from seggen_core.commands.pipeline_text import words_pipeline
from tests.dagster_project.conftest import ROOT, copy_pipeline

SNAPSHOT = Path(__file__).parent / "asset_graph.json"
"""Written again by SEGGEN_UPDATE_SNAPSHOTS=1; look at its difference before committing it."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's own pipeline; tests that change it put it back."""
    root = tmp_path_factory.mktemp("definitions") / "project"
    root.mkdir()
    copy_pipeline(root)
    return root


@pytest.fixture(scope="module")
def definitions(project: Path) -> dg.Definitions:
    return build_definitions(project)


def describe(definitions: dg.Definitions) -> dict[str, Any]:
    """The asset graph as JSON: all that dvc.yaml, or the code that reads it, may change."""
    graph = definitions.resolve_asset_graph()
    assets = {}
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        partitions = node.partitions_def.get_partition_keys() if node.partitions_def else None
        assets[key.to_user_string()] = {
            "group": node.group_name,
            "kinds": sorted(node.kinds),
            "owners": list(node.owners),
            "pools": sorted(node.pools or ()),
            "partitions": partitions,
            "reads": {
                parent.to_user_string(): describe_mapping(node.partition_mappings.get(parent))
                for parent in sorted(node.parent_keys)
            },
            "checks": sorted(check.name for check in node.check_keys),
        }
    return {
        "assets": assets,
        "jobs": sorted(
            job.name for job in definitions.resolve_all_job_defs() if not job.name.startswith("__")
        ),
        "schedules": sorted(schedule.name for schedule in definitions.schedules or ()),
        "sensors": sorted(sensor.name for sensor in definitions.sensors or ()),
    }


def describe_mapping(mapping: dg.PartitionMapping | None) -> Any:
    if mapping is None:
        return None
    if isinstance(mapping, dg.StaticPartitionMapping):
        return {
            key: sorted(read)
            for key, read in mapping.downstream_partition_keys_by_upstream_partition_key.items()
        }
    if isinstance(mapping, dg.SpecificPartitionsPartitionMapping):
        return list(mapping.partition_keys)
    return type(mapping).__name__


def test_the_graph_is_the_one_that_was_looked_at(definitions: dg.Definitions) -> None:
    graph = describe(definitions)
    if os.environ.get("SEGGEN_UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(json.dumps(graph, indent=1) + "\n")
    assert graph == json.loads(SNAPSHOT.read_text()), (
        "SEGGEN_UPDATE_SNAPSHOTS=1 writes the snapshot again"
    )


def test_every_job_can_be_validated(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_a_new_class_and_a_new_stage_need_no_python(project: Path) -> None:
    params, stages = (
        yaml.safe_load((project / name).read_text()) for name in ("params.yaml", "dvc.yaml")
    )
    before = build_definitions(project).resolve_asset_graph()
    version = before.get(dg.AssetKey("seediff")).code_version
    try:
        changed = params | {"classes": [*params["classes"][:-1], "bench"]}
        (project / "params.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
        stages["stages"]["cutmix"] = {
            "matrix": {"class": "${classes}"},
            "cmd": "python -m seggen_core cutmix --item ${item.class}",
            "deps": ["data/synthetic/seediff/${item.class}"],
            "outs": ["data/synthetic/cutmix/${item.class}"],
        }
        (project / "dvc.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
        graph = build_definitions(project).resolve_asset_graph()
        cutmix = graph.get(dg.AssetKey("cutmix"))
        assert cutmix.partitions_def is not None
        assert cutmix.partitions_def.get_partition_keys()[-1] == "bench"
        assert isinstance(
            cutmix.partition_mappings[dg.AssetKey("seediff")], dg.IdentityPartitionMapping
        )
        assert {key.name for key in cutmix.check_keys} >= {
            "samples_sound",
            "image_mask_agreement",
            "dvc_status",
        }
        # A class more says nothing of the partitions that there were: they aren't stale.
        assert graph.get(dg.AssetKey("seediff")).code_version == version
    finally:
        for name in ("params.yaml", "dvc.yaml"):
            (project / name).write_bytes((ROOT / name).read_bytes())


def config_leaves(kind: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Everything that a configuration of this type may hold, as dotted paths."""
    fields = getattr(kind, "fields", None)
    if fields is None:
        yield ".".join(path)
    for name, field in (fields or {}).items():
        yield from config_leaves(field.config_type, (*path, name))


def test_a_run_may_set_parameters_and_how_many_stages_run_and_nothing_else(
    definitions: dg.Definitions,
) -> None:
    harmless = (
        r"execution\.config\.(marker_to_close|step_dependency_config\.require_upstream_step_success)",
        r"loggers\.console\.config\.(log_level|name)",
        r"ops\.\w+\.config\.params",
        r"ops\.(demo|full_ablation|evaluation)_stages\.config\.jobs",
    )
    leaves = {
        leaf
        for job in definitions.resolve_all_job_defs()
        for leaf in config_leaves(job.run_config_schema.config_type)
    }
    assert "ops.masksyn.config.params" in leaves and "ops.demo_stages.config.jobs" in leaves
    assert {leaf for leaf in leaves if not re.fullmatch("|".join(harmless), leaf)} == set()


@pytest.mark.parametrize(
    "resources",
    [
        {"dvc": {"config": {"project_dir": "/"}}},
        {"dvc": {"config": {"env": {"PATH": "/x"}}}},
        {"mlflow": {"config": {"tracking_uri": "http://evil.example"}}},
        {"weak_class_policy": {"config": {"arm": "../.."}}},
        {"io_manager": {"config": {"base_dir": "/"}}},
    ],
)
def test_a_run_cannot_set_resources(definitions: dg.Definitions, resources: dict[str, Any]) -> None:
    assert dg.validate_run_config(definitions.resolve_job_def("demo"), {})
    with pytest.raises(dg.DagsterInvalidConfigError, match="unexpected config entr"):
        dg.validate_run_config(definitions.resolve_job_def("demo"), {"resources": resources})


@pytest.mark.parametrize(
    "params, words",
    [
        ({"dvc.yaml:stages.masksyn.cmd": "touch owned"}, "no key of params.yaml"),
        ({"masksyn.samples_per_source": "many"}, "masksyn.samples_per_source: .*valid integer"),
        ({"masksyn.new": 1}, "no parameter 'masksyn.new'"),
        ({"classes": ["car; touch owned"]}, "is used in dvc.yaml"),
        ({"classes": ["a/b"]}, "classes.0: expected letters, digits"),
        ({"captions": {"reads": "/etc/passwd"}}, "is used in dvc.yaml"),
    ],
)
def test_launch_parameters_are_checked_as_params_yaml_is(
    project: Path, definitions: dg.Definitions, params: dict[str, Any], words: str
) -> None:
    subprocess.run(["git", "-C", str(project), "add", "."], check=True)
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    commit = [*identity, "commit", "--quiet", "--allow-empty", "-m", "start"]
    subprocess.run(["git", "-C", str(project), *commit], check=True)
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("masksyn")],
            partition_key="car",
            run_config={"ops": {"masksyn": {"config": {"params": params}}}},
            raise_on_error=False,
        )
    assert not result.success
    data = result.failure_data_for_node("masksyn")
    assert data is not None and data.user_failure_data is not None
    assert re.search(words, data.user_failure_data.description or "", re.DOTALL), (
        data.user_failure_data
    )
    assert "is refused" in (data.user_failure_data.description or "")
    assert not list(project.rglob("owned"))


def test_nothing_of_params_yaml_is_in_a_command(project: Path) -> None:
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    commands = [stage.get("do", stage)["cmd"] for stage in stages.values()]
    assert commands and not [command for command in commands if "${" in command]


@pytest.mark.parametrize("command", [("list", "defs", "--json"), ("check", "defs")])
def test_dg_knows_the_project(command: tuple[str, ...], project: Path) -> None:
    dg_command = Path(sys.executable).with_name("dg")
    if not dg_command.exists():
        pytest.skip("dagster-dg-cli isn't installed")
    home = project / "home"
    home.mkdir(exist_ok=True)
    env = os.environ | {
        "DG_CLI_CONFIG": str(home / "dg.toml"),
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "SEGGEN_PROJECT": str(project),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }
    done = subprocess.run(
        [dg_command, *command], cwd=ROOT, env=env, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if command[0] == "list":
        listed = json.loads(done.stdout[done.stdout.index("{") :])
        assert {"dataset", "masksyn", "ablation"} <= {
            asset["asset_key"] for asset in listed["assets"]
        }


def test_a_list_of_words_has_the_assets_that_it_can_make(tmp_path: Path) -> None:
    copy_pipeline(tmp_path)
    pipeline = tmp_path / "dvc.yaml"
    pipeline.write_text(words_pipeline(pipeline.read_text()))
    (tmp_path / "params.yaml").write_text((ROOT / "profiles/words/params.yaml").read_text())
    graph = describe(build_definitions(tmp_path))
    groups = {"dataset", "foundation", "seediff", "diffumask", "train_seg"}
    assert {name.rpartition("/")[2] for name in graph["assets"]} >= groups
    assert not [name for name in graph["assets"] if "mask2img" in name or "evaluate" in name]
    assert {"demo", "synthesize_class"} <= set(graph["jobs"])
