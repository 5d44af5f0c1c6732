"""What a server behind `OwnOriginOnly` takes, request by request."""

import asyncio
from typing import Any

import pytest

from dagster_project.own_origin import Message, OwnOriginOnly, Receive, Scope, Send, netlocs
from dagster_project.serve import own_origins

ORIGIN = "http://127.0.0.1:3000"
JSON = ("content-type", "application/json")
HTML = ("accept", "text/html,application/xhtml+xml")
NAVIGATION = [
    ("sec-fetch-site", "cross-site"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-dest", "document"),
]


class Probe:
    """An application that says that it was reached."""

    reached = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached = True
        if scope["type"] == "http":
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"x-frame-options", b"ALLOWALL")],
                }
            )
            await send({"type": "http.response.body", "body": b""})


def ask(
    method: str,
    path: str = "/",
    headers: list[tuple[str, str]] | None = None,
    *,
    host: str | None = "127.0.0.1:3000",
    kind: str = "http",
    **settings: Any,
) -> tuple[bool, list[Message]]:
    """Whether a request reaches the application, and what is answered."""
    probe, answers = Probe(), []
    guard = OwnOriginOnly(
        probe, origins=[ORIGIN, "http://localhost:3000", "https://dagster.example.org"], **settings
    )
    pairs = [*([("host", host)] if host is not None else []), *(headers or [])]
    scope: Scope = {
        "type": kind,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in pairs],
    }
    if kind == "http":
        scope["method"] = method

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    async def send(message: Message) -> None:
        answers.append(message)

    asyncio.run(guard(scope, receive, send))
    return probe.reached, answers


def status(*args: Any, **kwargs: Any) -> int:
    reached, answers = ask(*args, **kwargs)
    assert reached == (answers[0]["status"] == 200)
    return int(answers[0]["status"])


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:3000",
        "localhost:3000",
        "LOCALHOST:3000",
        "dagster.example.org",
        "dagster.example.org:443",
    ],
)
def test_its_own_hosts(host: str) -> None:
    assert status("GET", host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1",
        "127.0.0.1:3001",
        "localhost",
        "localhost:3000.evil.example",
        "dagster.example.org:80",
        "",
        None,
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_no_other_host(host: str | None, kind: str) -> None:
    reached, answers = ask("GET", host=host, kind=kind)
    assert not reached
    assert answers[0] == {
        **answers[0],
        **({"status": 403} if kind == "http" else {"type": "websocket.close", "code": 1008}),
    }


def test_a_header_that_occurs_twice_decides_nothing() -> None:
    assert status("GET", "/", [("host", "127.0.0.1:3000")]) == 400
    assert status("POST", "/graphql", [JSON, ("content-type", "text/plain")]) == 400


@pytest.mark.parametrize("origin", [ORIGIN, "HTTP://127.0.0.1:3000"])
def test_its_own_origin(origin: str) -> None:
    assert (
        status("POST", "/graphql", [JSON, ("origin", origin), ("sec-fetch-site", "same-origin")])
        == 200
    )
    assert ask("GET", "/graphql", [("origin", origin)], kind="websocket")[0]


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "https://evil.example",
            "null",
            "",
            "http://127.0.0.1:8199",
            "http://127.0.0.1",
            "http://localhost:3000",
            "https://127.0.0.1:3000",
        ),
        "https://dagster.example.org",  # one of its own, but not of the host that is asked
    ],
)
def test_no_other_origin(origin: str) -> None:
    assert status("POST", "/graphql", [JSON, ("origin", origin)]) == 403
    assert status("GET", "/", [("origin", origin)]) == 403
    assert not ask("GET", "/graphql", [("origin", origin)], kind="websocket")[0]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_what_the_browser_says_another_page_sent(site: str) -> None:
    assert (
        status(
            "GET",
            "/",
            [("sec-fetch-site", site), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
        )
        == 403
    )
    assert (
        status(
            "GET",
            "/",
            [
                ("sec-fetch-site", site),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "iframe"),
            ],
        )
        == 403
    )
    assert not ask(
        "GET",
        "/graphql",
        [("sec-fetch-site", site), ("sec-fetch-mode", "websocket")],
        kind="websocket",
    )[0]


def test_a_link_may_be_followed_from_anywhere_but_changes_nothing() -> None:
    assert status("GET", "/runs/1", NAVIGATION) == 200
    assert status("GET", "/graphql", [*NAVIGATION, HTML]) == 200  # the page, not an answer
    assert status("GET", "/graphql", [*NAVIGATION, ("accept", "*/*")]) == 405
    assert status("POST", "/graphql", [*NAVIGATION, JSON]) == 403


def test_no_graphql_by_get() -> None:
    for method in ("GET", "HEAD"):
        for path in ("/graphql", "/graphql/"):
            assert status(method, path) == 405
            assert status(method, path, [("accept", "application/json")]) == 405
            assert status(method, path, [HTML], has_query_page=False) == 405
    assert status("GET", "/graphql", [HTML]) == 200


@pytest.mark.parametrize(
    "content_type",
    [
        *(
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/graphql",
            "",
        ),
        *(
            "text/plain; application/json",
            "application/jsonx",
            "Application/JSON",
            "text/plain, application/json",
        ),
    ],
)
def test_posts_are_json(content_type: str) -> None:
    for path in ("/graphql", "/report_asset_materialization/masksyn"):
        assert status("POST", path, [("content-type", content_type)]) == 415
        assert status("POST", path) == 415
        assert status("POST", path, [("content-type", "application/json; charset=utf-8")]) == 200


@pytest.mark.parametrize(
    "method", ["PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "FOO", "get"]
)
def test_other_methods_only_where_they_are_needed(method: str) -> None:
    assert status(method) == 405
    assert status(method, methods=[method]) == 200
    assert status(method, "/", [("origin", "http://localhost:1")], methods=[method]) == 403


def test_answers_arent_framed_elsewhere() -> None:
    headers = dict(ask("GET")[1][0]["headers"])
    assert headers == {b"x-frame-options": b"SAMEORIGIN"}


def test_refusals_say_what_is_expected_and_repeat_nothing_of_the_request() -> None:
    body = ask("GET", host="<script>")[1][1]["body"].decode()
    assert "127.0.0.1:3000" in body and "script" not in body


def test_origins_that_arent() -> None:
    assert netlocs("https://a.example") == {"a.example", "a.example:443"}
    assert netlocs("http://[::1]:3000") == {"[::1]:3000"}
    for text in (
        "a.example",
        "ftp://a.example",
        "http://",
        "http://a.example/",
        "http://u:p@a.example",
        "http://a.example?x",
        "*",
        "null",
    ):
        with pytest.raises(ValueError, match="no origin"):
            netlocs(text)


def test_only_loopback_addresses_are_their_own_origin() -> None:
    assert own_origins("127.0.0.1", 3000) == ["http://127.0.0.1:3000", "http://localhost:3000"]
    assert own_origins("::1", 3000) == ["http://[::1]:3000", "http://localhost:3000"]
    assert own_origins("0.0.0.0", 3000) == ()
    assert own_origins("192.168.1.5", 3000) == ()
