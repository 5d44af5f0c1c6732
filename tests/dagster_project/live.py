"""A Dagster of its own over one project, spoken to by GraphQL: webserver, daemon, code server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import URLError

ROOT = Path(__file__).parent.parent.parent
SETTINGS = """
telemetry: {enabled: false}
nux: {enabled: false}
run_monitoring: {enabled: true, start_timeout_seconds: 1800}
concurrency:
  runs: {max_concurrent_runs: 10}
  pools: {default_limit: 1}
"""
LOCATION = {"repositoryLocationName": "project", "repositoryName": "__repository__"}
END_STATES = {"SUCCESS", "FAILURE", "CANCELED"}


class LiveDagster:
    """Starts in `with`, and has all of its processes ended after it."""

    def __init__(self, project: Path, *, folder: Path, target: list[str]) -> None:
        """Start nothing yet.

        Args:
            project: SEGGEN_PROJECT of the code server.
            folder: for logs and DAGSTER_HOME.
            target: -m or -f, and what.
        """
        self._project, self.folder, self._target = project, folder, target
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> "LiveDagster":
        home = self.folder / "home"
        home.mkdir(parents=True)
        (home / "dagster.yaml").write_text(SETTINGS)
        port = free_port()
        workspace = self.folder / "workspace.yaml"
        workspace.write_text(
            json.dumps(
                {
                    "load_from": [
                        {
                            "grpc_server": {
                                "host": "127.0.0.1",
                                "port": port,
                                "location_name": "project",
                            }
                        }
                    ]
                }
            )
        )
        self.start(
            "code",
            "dagster",
            "api",
            "grpc",
            *self._target,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        )
        wait_until(lambda: answers(port), seconds=240, what=f"the code server, see {self.folder}")
        web_port = self.address.rpartition(":")[2]
        self.start(
            "web",
            "dagster_project.serve",
            "dagster",
            "--workspace",
            str(workspace),
            "--port",
            web_port,
        )
        wait_until(self._is_loaded, seconds=240, what=f"Dagster to load, see {self.folder}")
        self.start("daemon", "dagster._daemon", "run", "--workspace", str(workspace))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def start(self, name: str, module: str, *argv: str) -> None:
        """Start a process of it with the module `module`; its log has the name `name`."""
        env = os.environ | {
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "DAGSTER_HOME": str(self.folder / "home"),
            "PYTHONPATH": str(ROOT),
            "SEGGEN_PROJECT": str(self._project),
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *argv],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL one of "code", "web" and "daemon"."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def _is_loaded(self) -> bool:
        try:
            query = """{ workspaceOrError { ... on Workspace {
                locationEntries { locationOrLoadError { __typename } } } } }"""
            entries = self.ask(query)["workspaceOrError"]["locationEntries"]
        except (URLError, OSError):
            return False
        return all(
            (entry["locationOrLoadError"] or {}).get("__typename") == "RepositoryLocation"
            for entry in entries
        )

    def ask(self, query: str, **variables: Any) -> Any:
        """Put a GraphQL query and return the data of its answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.address}/graphql", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def materialize(self, asset: str, *, partition: str | None = None) -> str:
        """Launch a run of one asset and return its id."""
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        selector = LOCATION | {"pipelineName": "__ASSET_JOB", "assetSelection": [{"path": [asset]}]}
        return self._launch(
            {"selector": selector, "mode": "default", "executionMetadata": {"tags": tags}}
        )

    def _launch(self, params: dict[str, Any]) -> str:
        launch = """mutation Launch($params: ExecutionParams!) {
            launchPipelineExecution(executionParams: $params) {
                __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
            } }"""
        answer = self.ask(launch, params=params)["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def check(self, asset: str) -> str:
        """Launch a run of all checks of an asset, as the button in the UI does; return its id."""
        listing = """query Checks($key: AssetKeyInput!) {
            assetNodeOrError(assetKey: $key) { ... on AssetNode {
                assetChecksOrError { ... on AssetChecks { checks { name } } } } } }"""
        node = self.ask(listing, key={"path": [asset]})["assetNodeOrError"]
        checks = [
            {"assetKey": {"path": [asset]}, "name": check["name"]}
            for check in node["assetChecksOrError"]["checks"]
        ]
        selector = LOCATION | {
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [],
            "assetCheckSelection": checks,
        }
        return self._launch({"selector": selector, "mode": "default"})

    def backfill(self, asset: str, partitions: list[str]) -> None:
        """Launch a run for each of some partitions of an asset."""
        launch = """mutation Backfill($params: LaunchBackfillParams!) {
            launchPartitionBackfill(backfillParams: $params) {
                __typename ... on PythonError { message } } }"""
        params = {"assetSelection": [{"path": [asset]}], "partitionNames": partitions}
        answer = self.ask(launch, params=params)["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer

    def cancel(self, run_id: str) -> None:
        """Cancel a run as the button in the UI does."""
        query = "mutation Cancel($id: String!) { terminateRun(runId: $id) { __typename } }"
        assert self.ask(query, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"

    def end_waiting_runs(self) -> None:
        """Cancel what hasn't begun, so that no later test shares the CPU with runs of no use.

        A run that begins meanwhile goes on.
        """
        query = "mutation Cancel($id: String!) { terminateRun(runId: $id) { __typename } }"
        for run_id, status in self.runs().items():
            if status == "QUEUED":
                self.ask(query, id=run_id)

    def status(self, run_id: str) -> str:
        """Status of a run."""
        query = "query Status($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return str(self.ask(query, id=run_id)["runOrError"]["status"])

    def runs(self) -> dict[str, str]:
        """Status of every run."""
        results = self.ask("{ runsOrError { ... on Runs { results { runId status } } } }")[
            "runsOrError"
        ]["results"]
        return {run["runId"]: run["status"] for run in results}

    def wait_for(self, run_id: str, *, seconds: float = 240) -> str:
        """Wait until a run has ended and return its status."""
        wait_until(
            lambda: self.status(run_id) in END_STATES, seconds=seconds, what=f"run {run_id} to end"
        )
        return self.status(run_id)

    def data_versions(
        self, asset: str, partitions: list[str | None]
    ) -> dict[str | None, tuple[str | None, str | None]]:
        """Data version and staleness of an asset's partitions."""
        query = """query Versions($key: AssetKeyInput!, $partition: String) {
            assetNodeOrError(assetKey: $key) { ... on AssetNode {
                dataVersion(partition: $partition) staleStatus(partition: $partition) } } }"""
        versions = {}
        for partition in partitions:
            node = self.ask(query, key={"path": [asset]}, partition=partition)["assetNodeOrError"]
            versions[partition] = node["dataVersion"], node["staleStatus"]
        return versions


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.5)
