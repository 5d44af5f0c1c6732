"""Uploads against a stand-in of the Hub on this machine: the real client, the real requests."""

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from seggen_core.cli import main
from seggen_core.errors import ExportError
from seggen_core.exports.hub import check_push
from seggen_core.project.paths import ProjectPaths

TOKEN = "hf_a_secret_of_the_test"


class StandInHub(ThreadingHTTPServer):
    """Keeps the files that are committed to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.private: bool | None = None  # there is no repository
        self.refuses_commits = False
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()


class _Handler(BaseHTTPRequestHandler):
    server: StandInHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        about = {
            "_id": "1",
            "id": "me/set",
            "private": self.server.private,
            "siblings": [],
            "tags": [],
        }
        self._answer(about | {"sha": "0" * 40})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = "http://127.0.0.1/datasets/me/set"
        if self.path == "/api/repos/create":
            if self.server.private is not None:
                self._answer({"error": "exists", "url": url}, code=409)
                return
            wanted = json.loads(body)  # "private": true of old clients
            self.server.private = wanted.get("visibility") == "private" or wanted.get(
                "private", False
            )
            self._answer({"url": url, "name": "me/set", "id": "1"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif "/commit/" in self.path and not self.server.refuses_commits:
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    content = base64.b64decode(item["value"]["content"])
                    self.server.files[item["value"]["path"]] = content
            self._answer({"commitUrl": url + "/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            self._answer({"error": "no right to write"}, code=403)

    def _answer(self, tree: dict[str, Any], *, code: int = 200) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        data = json.dumps(tree).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    server = StandInHub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def push(
    paths: ProjectPaths, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Run `seggen export --push` against the stand-in; the tests' own offline mode is off."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
    params = ["--params", str(paths.root / "params.yaml")]
    export = ["export", "--to", "huggingface", "real/val", "--out", str(tmp_path / "out")]

    def run(*options: str) -> int:
        return main([*params, *export, "--push", "me/set", *options])

    return run


def test_all_files_reach_a_private_repository(
    push: Callable[..., int],
    hub: StandInHub,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert push() == 0
    printed = "".join(capfd.readouterr()) + caplog.text
    assert "uploaded to http" in printed
    assert TOKEN not in printed
    assert hub.private is True
    written = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert hub.files == written
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_public_repository_is_not_written_by_chance(
    push: Callable[..., int], hub: StandInHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.private = False
    assert push() == 2
    assert "me/set is public" in capsys.readouterr().err
    assert hub.files == {}
    assert push("--public", "--force") == 0
    assert "README.md" in hub.files


def test_a_refusal_keeps_the_export_and_says_how_to_go_on(
    push: Callable[..., int], hub: StandInHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses_commits = True
    assert push() == 2
    message = capsys.readouterr().err
    assert "no right to write" in message
    assert f"hf upload me/set {tmp_path / 'out'} . --repo-type dataset --private" in message
    assert TOKEN not in message
    assert (tmp_path / "out" / "README.md").is_file()


def test_a_hub_that_is_not_there_is_one_message(
    push: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert push() == 2
    assert "the Hub didn't take me/set" in capsys.readouterr().err


@pytest.mark.parametrize("repo", ["set", "a/b/c", "../x", "me/"])
def test_a_name_that_is_no_repository(repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ExportError, match="expected the name of a repository"):
        check_push(repo)


def test_without_a_token_nothing_is_exported(
    push: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", " ")
    assert push() == 2
    assert "HF_TOKEN" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
