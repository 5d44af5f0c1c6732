"""The settings in examples/production are ones that the classes they name accept."""

import configparser
import importlib
import json
import re
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


def test_the_tags_of_a_run_cannot_choose_what_its_pod_is() -> None:
    pytest.importorskip("dagster_k8s", reason="the extra `production` isn't installed")
    from dagster_k8s.container_context import K8sContainerContext
    from dagster_k8s.job import get_user_defined_k8s_config

    settings = yaml.safe_load((FOLDER / "dagster.yaml").read_text())["run_launcher"]["config"]
    allowed = (
        settings["only_allow_user_defined_k8s_config_fields"],
        settings["only_allow_user_defined_env_vars"],
    )
    K8sContainerContext().validate_user_k8s_config_for_run(*allowed)
    for config in (
        {"container_config": {"image": "evil.example/x"}},
        {"container_config": {"command": ["sh", "-c", "id"]}},
        {"container_config": {"env": [{"name": "LD_PRELOAD", "value": "/x"}]}},
        {"pod_spec_config": {"host_network": True}},
        {"job_spec_config": {"ttl_seconds_after_finished": 1}},
    ):
        context = K8sContainerContext(
            run_k8s_config=get_user_defined_k8s_config({"dagster-k8s/config": json.dumps(config)})
        )
        with pytest.raises(Exception, match="violated the allowed list"):
            context.validate_user_k8s_config_for_run(*allowed)


def documents(kind: str) -> dict[str, Any]:
    """Objects of one kind in kubernetes.yaml, by name."""
    objects = [
        document
        for document in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
        if document["kind"] == kind
    ]
    return {document["metadata"]["name"]: document["spec"] for document in objects}


def containers() -> dict[str, dict[str, Any]]:
    """Containers of kubernetes.yaml, as "deployment/container"."""
    return {
        f"{name}/{container['name']}": container
        for name, spec in documents("Deployment").items()
        for container in spec["template"]["spec"]["containers"]
    }


def test_nobody_reaches_a_server_without_having_logged_in() -> None:
    for rule in documents("Ingress")["seggen"]["rules"]:
        (path,) = rule["http"]["paths"]
        service = documents("Service")[path["backend"]["service"]["name"]]
        (port,) = [
            port
            for port in service["ports"]
            if port["name"] == path["backend"]["service"]["port"]["name"]
        ]
        login = containers()[f"{service['selector']['app']}/login"]
        assert port["targetPort"] == login["ports"][0]["name"]
        arguments = dict(argument.partition("=")[::2] for argument in login["args"])
        assert arguments["--redirect-url"] == f"https://{rule['host']}/oauth2/callback"
        assert arguments["--upstream"].startswith("http://127.0.0.1:")
        assert not [
            name
            for name in arguments
            if name.startswith(("--skip-auth", "--reverse-proxy", "--trusted"))
        ]
    assert all(
        "type" not in spec for spec in documents("Service").values()
    )  # inside the cluster alone
    assert not [
        container
        for container in containers().values()
        for port in container.get("ports", ())
        if "hostPort" in port
    ]


def test_every_port_has_a_policy_that_names_who_may_reach_it() -> None:
    policies = documents("NetworkPolicy")
    assert policies.pop("nobody") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    opened: dict[tuple[str, str], list[Any]] = {}
    for spec in policies.values():
        (rule,) = spec["ingress"]
        selector = spec["podSelector"]
        apps = (
            [selector["matchLabels"]["app"]]
            if "matchLabels" in selector
            else selector["matchExpressions"][0]["values"]
        )
        assert rule["from"]
        opened |= {(app, port["port"]): rule["from"] for app in apps for port in rule["ports"]}
    ports = {
        (name.partition("/")[0], port["name"])
        for name, container in containers().items()
        for port in container.get("ports", ())
    }
    assert set(opened) == ports
    assert opened["mlflow", "api"] == [
        {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "run_worker"}}}
    ]


def test_commands_are_ones_that_the_servers_take() -> None:
    from dagster._cli.api import grpc_command
    from mlflow.cli import server

    from dagster_project.serve import build_parser

    web = containers()["dagster-web/web"]
    assert web["command"] == ["python", "-m", "dagster_project.serve", "dagster"]
    args = build_parser().parse_args([web["command"][-1], *web["args"]])
    assert (args.host, args.origin) == ("127.0.0.1", ["https://dagster.example.org"])
    code = containers()["seggen-code/code"]["command"]
    assert grpc_command.make_context("grpc", code[3:]).params["port"] == 4000
    mlflow = containers()["mlflow/mlflow"]
    context = server.make_context("server", list(mlflow["args"]))
    assert (
        context.params["allowed_hosts"] == "mlflow.example.org,mlflow.seggen.svc.cluster.local:5000"
    )


def test_images_are_pinned() -> None:
    assert all(
        re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?", c["image"])
        for c in containers().values()
    )
