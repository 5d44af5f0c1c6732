"""The settings in examples/production are ones that the classes they name accept."""

import configparser
import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef
from dagster._core.workspace.config_schema import process_workspace_config

FOLDER = Path(__file__).parent.parent.parent / "examples" / "production"
SECRETS = (
    "DAGSTER_PG_HOST",
    "DAGSTER_PG_USERNAME",
    "DAGSTER_PG_PASSWORD",
    "DAGSTER_PG_DB",
    "SEGGEN_IMAGE",
)


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "value")


def test_the_instance_is_made_of_classes_that_accept_their_settings() -> None:
    pytest.importorskip("dagster_k8s", reason="the extra `production` isn't installed")
    pytest.importorskip("dagster_postgres", reason="the extra `production` isn't installed")
    settings, _ = dagster_instance_config(str(FOLDER))
    assert settings["telemetry"] == {"enabled": False}
    ref = InstanceRef.from_dir(str(FOLDER))
    named = set()
    for data in (
        ref.storage_data,
        ref.run_launcher_data,
        ref.run_coordinator_data,
        ref.compute_logs_data,
    ):
        assert data is not None
        kind: Any = getattr(importlib.import_module(data.module_name), data.class_name)
        outcome = process_config(
            resolve_to_config_type(kind.config_type()), yaml.safe_load(data.config_yaml)
        )
        assert outcome.success, outcome.errors
        named.add(data.class_name)
    assert {"DagsterPostgresStorage", "K8sRunLauncher", "QueuedRunCoordinator"} <= named


def test_a_misspelt_setting_would_be_noticed(tmp_path: Path) -> None:
    pytest.importorskip("dagster_k8s", reason="the extra `production` isn't installed")
    text = (FOLDER / "dagster.yaml").read_text().replace("job_image:", "job_imgae:")
    (tmp_path / "dagster.yaml").write_text(text)
    data = InstanceRef.from_dir(str(tmp_path)).run_launcher_data
    assert data is not None
    kind: Any = getattr(importlib.import_module(data.module_name), data.class_name)
    assert not process_config(
        resolve_to_config_type(kind.config_type()), yaml.safe_load(data.config_yaml)
    ).success


def test_the_workspace_is_valid() -> None:
    assert process_workspace_config(yaml.safe_load((FOLDER / "workspace.yaml").read_text())).success


def test_dvc_accepts_its_settings() -> None:
    from dvc.config_schema import SCHEMA
    from voluptuous import Schema

    parser = configparser.ConfigParser()
    parser.read(FOLDER / "dvc.config")
    sections = {
        name: {key: value.strip('"') for key, value in parser[name].items()}
        for name in parser.sections()
    }
    core, cache = sections["core"], sections["cache"]
    Schema({"core": SCHEMA["core"], "cache": SCHEMA["cache"]})({"core": core, "cache": cache})
    remote = core["remote"]
    assert sections[f"'remote \"{remote}\"'"]["url"].startswith("s3://")
