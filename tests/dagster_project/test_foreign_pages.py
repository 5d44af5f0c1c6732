"""A page of another origin, in a real browser.

Nothing that it sends to Dagster or MLflow does anything; their own pages work.
"""

import http.server
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dagster_project.mlflow_page import BEGINNING
from seggen_core.reports.tables import markdown_table
from seggen_core.tracking.mlflow_store import MLFLOW_NOTE
from tests.dagster_dvc.conftest import make_project
from tests.dagster_project.browser import open_page
from tests.dagster_project.live import ROOT, LiveDagster, free_port, wait_until
from tests.dagster_project.test_ui import TOY

LAUNCH = """mutation { launchPipelineExecution(executionParams: {mode: "default", selector: {
    repositoryLocationName: "project", repositoryName: "__repository__",
    pipelineName: "everything"}}) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
# Each function sends a request in one of the ways that a page has, and returns when it is known
# that the server has answered.
ATTACKS = """async ({target, launch}) => {
    const url = target + '/graphql?query=' + encodeURIComponent(launch);
    const report = target + '/report_asset_materialization/dataset';
    const json = JSON.stringify({query: launch});
    const ended = (element, ...names) => new Promise(
        done => names.forEach(name => element.addEventListener(name, () => done(name))));
    const shown = (tag, address) => {
        const element = document.createElement(tag);
        const end = ended(element, 'load', 'error');
        element.src = address;
        document.body.append(element);
        return end;
    };
    const form = async (address, enctype, fields) => {
        const frame = document.createElement('iframe');
        frame.name = 'frame' + Math.random();
        document.body.append(frame);
        const form = Object.assign(document.createElement('form'),
            {method: 'POST', action: address, enctype, target: frame.name});
        for (const [name, value] of Object.entries(fields))
            form.append(Object.assign(document.createElement('input'), {name, value}));
        document.body.append(form);
        const end = ended(frame, 'load');
        form.submit();
        return end;
    };
    const sent = (address, options) => fetch(address, options).then(
        answer => answer.type + ' ' + answer.status, String);
    const socket = () => new Promise(done => {
        const socket = new WebSocket(target.replace('http', 'ws') + '/graphql', 'graphql-ws');
        socket.onopen = () => {
            socket.send(JSON.stringify({type: 'connection_init'}));
            socket.send(JSON.stringify({id: '1', type: 'start', payload: {query: launch}}));
        };
        socket.onmessage = event => {
            if (event.data.includes('"1"')) done('answered ' + event.data);
        };
        socket.onclose = () => done('closed');
    });
    const plain = {'Content-Type': 'text/plain'}, typed = {'Content-Type': 'application/json'};
    const foreign = {method: 'POST', mode: 'no-cors', headers: plain};
    const field = json.slice(0, -1) + ', "x": "';
    return {
        image: await shown('img', url),
        script: await shown('script', url),
        frame: await shown('iframe', url),
        urlencoded: await form(url, 'application/x-www-form-urlencoded', {query: launch}),
        multipart: await form(target + '/graphql', 'multipart/form-data', {query: launch}),
        text_form: await form(target + '/graphql', 'text/plain', {[field]: '"}'}),
        text: await sent(target + '/graphql', {...foreign, body: json}),
        text_with_query: await sent(url, {...foreign, body: ''}),
        json: await sent(target + '/graphql', {method: 'POST', headers: typed, body: json}),
        read: await sent(target + '/graphql?query={version}', {}),
        report: await sent(report, {method: 'POST', mode: 'no-cors'}),
        beacon: navigator.sendBeacon(url, ''),
        socket: await socket(),
    };
}"""
MATERIALIZED = """query Latest($key: AssetKeyInput!) { assetOrError(assetKey: $key) {
    ... on Asset { assetMaterializations(limit: 1) { runId } } } }"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("foreign") / "project"
    make_project(root, classes=["car"])
    return root


@pytest.fixture(scope="module")
def dagster(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDagster]:
    with LiveDagster(project, folder=tmp_path_factory.mktemp("dagster"), target=TOY) as dagster:
        yield dagster


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_page(tmp_path_factory.mktemp("profile")) as page:
        yield page


class EmptyPage(http.server.BaseHTTPRequestHandler):
    """The site of somebody else: one page without content."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Another site</title><body></body>")

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture(scope="module")
def foreign_port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def happened(dagster: LiveDagster) -> tuple[int, int]:
    """Runs, and events that were reported without one."""
    asset = dagster.ask(MATERIALIZED, key={"path": ["dataset"]})["assetOrError"]
    return len(dagster.runs()), len(asset.get("assetMaterializations", ()))


def test_another_page_launches_nothing_where_the_bare_webserver_lets_it(
    page: Any, dagster: LiveDagster, foreign_port: int
) -> None:
    assert happened(dagster) == (0, 0)
    port = dagster.address.rpartition(":")[2]
    for name in ("127.0.0.1", "localhost"):
        for target in ("127.0.0.1", "localhost"):
            page.goto(f"http://{name}:{foreign_port}/")
            outcome = page.evaluate(
                ATTACKS, {"target": f"http://{target}:{port}", "launch": LAUNCH}
            )
            assert outcome["image"] == "error"
            assert outcome["socket"] == "closed"
            assert outcome["json"].startswith("TypeError") and outcome["read"].startswith(
                "TypeError"
            )
            # A link that is followed shows a page; it doesn't run what the address says.
            page.evaluate(
                "address => { location.href = address }",
                f"http://{target}:{port}/graphql?query={LAUNCH}",
            )
            page.wait_for_selector("text=GraphiQL", state="attached")
    # Beacons are sent in their own time: by now, after four more pages, those have arrived.
    assert happened(dagster) == (0, 0)

    # The page of the other address is another origin too.
    page.goto(f"http://localhost:{port}/server_info")
    assert (
        page.evaluate(ATTACKS, {"target": f"http://127.0.0.1:{port}", "launch": LAUNCH})["socket"]
        == "closed"
    )
    assert happened(dagster) == (0, 0)

    # What the attacks would do; without this, they could have become harmless for other reasons.
    with bare_webserver(dagster) as address:
        page.goto(f"http://localhost:{foreign_port}/")
        page.evaluate(ATTACKS, {"target": address, "launch": LAUNCH})
    runs, reports = happened(dagster)
    assert runs >= 3
    assert reports == 1
    dagster.end_waiting_runs()


@contextmanager
def bare_webserver(dagster: LiveDagster) -> Iterator[str]:
    """`dagster-webserver` over the same instance; gives its address."""
    port = free_port()
    workspace = str(dagster.folder / "workspace.yaml")
    dagster.start(
        "bare",
        "dagster_webserver",
        "--workspace",
        workspace,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    )

    def is_loaded() -> bool:
        try:
            query = f"http://127.0.0.1:{port}/graphql?query={{workspaceOrError{{...on%20Workspace{{locationEntries{{id}}}}}}}}"
            with urllib.request.urlopen(query, timeout=30) as answer:
                return bool(json.load(answer)["data"])
        except OSError:
            return False

    wait_until(is_loaded, seconds=240, what="the bare webserver")
    yield f"http://127.0.0.1:{port}"
    dagster.kill("bare")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_its_own_pages_launch_runs_and_follow_them(
    page: Any, dagster: LiveDagster, name: str
) -> None:
    before = set(dagster.runs())
    received: list[str] = []
    page.on(
        "websocket",
        lambda socket: socket.on("framereceived", lambda frame: received.append(str(frame))),
    )
    address = dagster.address.replace("127.0.0.1", name)
    page.goto(f"{address}/locations/project/jobs/everything/playground")
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url("**/runs/**")
    (run,) = set(dagster.runs()) - before
    assert dagster.wait_for(run) == "SUCCESS"
    page.wait_for_selector("text=Success")
    # The log of a run comes as a GraphQL subscription.
    wait_until(
        lambda: any("RunSuccessEvent" in frame for frame in received),
        seconds=60,
        what="the subscription",
    )


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    argv = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--default-artifact-root",
        (folder / "runs").as_uri(),
    ]
    command = [sys.executable, "-m", "dagster_project.serve", "mlflow", *argv, "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    wait_until(
        lambda: post(address, "experiments/search", {"max_results": 9}) == 200,
        seconds=240,
        what=f"MLflow, see {folder}",
    )
    yield address
    process.terminate()
    process.wait(60)


def post(address: str, path: str, body: dict[str, Any], **headers: str) -> int:
    """HTTP status of a POST; 0 where nothing listens."""
    fields = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/{path}", data=json.dumps(body).encode(), headers=fields
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_mlflow_takes_json_from_its_own_pages_and_programs(mlflow: str) -> None:
    port = mlflow.rpartition(":")[2]
    assert post(mlflow, "experiments/create", {"name": "mine"}) == 200
    assert (
        post(
            mlflow,
            "experiments/create",
            {"name": "page"},
            Origin=mlflow,
            Sec_Fetch_Site="same-origin",
        )
        == 200
    )
    for origin in (
        "https://evil.example",
        "http://localhost:8199",
        f"http://localhost:{port}",
        "null",
    ):
        assert post(mlflow, "experiments/create", {"name": origin}, Origin=origin) == 403
    assert post(mlflow, "experiments/create", {"name": "rebound"}, Host="evil.example") == 403
    assert post(mlflow, "experiments/create", {"name": "text"}, Content_Type="text/plain") == 415
    assert post(mlflow, "experiments/create", {"name": "sent"}, Sec_Fetch_Site="same-site") == 403
    assert post(mlflow, "experiments/get-by-name", {}) != 403


def test_mlflow_begins_with_trainings_and_keeps_what_a_user_chose(page: Any, mlflow: str) -> None:
    """In a browser that has never shown it, no page for chatbots and no assistant."""
    page.goto(mlflow)
    page.wait_for_url("**/#/experiments")
    page.get_by_role("link", name="Home").click()
    page.wait_for_selector("text=Recent Experiments")
    assert page.get_by_text("UI telemetry").count() == 0, "nothing is sent"
    page.goto(f"{mlflow}/#/experiments/0")
    page.wait_for_url("**/experiments/0/runs**")
    page.wait_for_selector("text=Model registry")
    remembered = "key => localStorage.getItem(key)"
    for key, value in BEGINNING.items():
        assert page.evaluate(remembered, key) == json.dumps(value)
    panel = page.evaluate(remembered, "mlflow.assistant.panelOpen_v1")
    assert panel in (None, "false"), "the assistant has opened"
    (key, *_) = BEGINNING
    page.evaluate("key => localStorage.setItem(key, '\"genai\"')", key)
    page.reload()
    assert page.evaluate(remembered, key) == '"genai"'
    page.evaluate("() => localStorage.clear()")


def test_mlflow_changes_nothing_by_get() -> None:
    handlers = pytest.importorskip("mlflow.server.handlers")
    verbs = {
        "create",
        "delete",
        "restore",
        "update",
        "set",
        "log",
        "upload",
        "transition",
        "invoke",
        "register",
        "cancel",
    }
    read = {
        path
        for path, _, methods in handlers.get_endpoints()
        if "GET" in methods and "graphql" not in path
    }
    assert read
    assert [
        path for path in read if verbs & set(re.split(r"[/-]", path.partition("/mlflow/")[2]))
    ] == []


def test_another_page_changes_nothing_in_mlflow_and_its_own_page_works(
    page: Any, mlflow: str, foreign_port: int
) -> None:
    create = """async target => {
        const address = target + '/ajax-api/2.0/mlflow/experiments/create';
        const body = JSON.stringify({name: 'foreign'});
        const json = {'Content-Type': 'application/json'};
        return [
            await fetch(address, {method: 'POST', body, headers: json}).then(a => a.status, String),
            await fetch(address, {method: 'POST', body, mode: 'no-cors'}).then(a => a.type, String),
        ];
    }"""
    page.goto(f"http://localhost:{foreign_port}/")
    assert page.evaluate(create, mlflow)[0] == "TypeError: Failed to fetch"
    page.goto(f"{mlflow}/#/experiments")
    page.wait_for_selector("text=Default")
    # The name is still free, and the page itself may take it.
    assert page.evaluate(create, mlflow)[0] == 200


def test_mlflow_runs_no_script_of_a_description(page: Any, mlflow: str) -> None:
    """Reports with names of classes become descriptions of experiments."""
    script = "document.title='ran'"
    name = f"<img src=x onerror={script}>"
    rows = [{"Class": name, "IoU": "1"}, {"Class": "[link](javascript:alert(1))", "IoU": "2"}]
    raw = f"{name}\n\n<script>{script}</script>\n\n<svg onload={script}>\n\nThe end of it."
    note = {"key": MLFLOW_NOTE, "value": f"{markdown_table(rows)}\n\n{raw}", "experiment_id": "0"}
    assert post(mlflow, "experiments/set-experiment-tag", note) == 200
    page.goto(f"{mlflow}/#/experiments/0/runs")
    page.wait_for_selector("text=The end of it.")
    assert page.title() != "ran"
    described = page.locator("div", has_text="The end of it.").last
    assert described.locator("script, [onerror], [onload], a[href^='javascript']").count() == 0
