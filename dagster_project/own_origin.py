"""ASGI middleware that lets a web server be used by its own pages alone.

A server on a loopback address is within reach of every page that a browser on the same machine
shows. Such a page may send it GET requests and simple POST requests (forms, text/plain) without
asking; by DNS rebinding it may even read the answers. What the middleware relies on can't be forged
by a page: the headers Host, Origin and Sec-Fetch-* are set by the browser, and a request with
another type than that of a form is asked for first (Fetch standard, CORS-preflight), which nothing
here grants.
"""

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

DEFAULT_PORTS = {"http": 80, "https": 443}
READING = ("GET", "HEAD")
CHECKED_HEADERS = (
    "host",
    "origin",
    "content-type",
    "accept",
    "sec-fetch-site",
    "sec-fetch-mode",
    "sec-fetch-dest",
)
POLICY_VIOLATION = 1008
"""Close code of a refused WebSocket (RFC 6455, 7.4.1)."""


class OwnOriginOnly:
    """Passes on to `app` what its own pages and programs send, and refuses pages of other origins.

    - Host is that of one of `origins`.
    - Origin, where there is one, is the origin of that host; WebSockets too.
    - Sec-Fetch-Site, where there is one, is "same-origin" or "none"; a link that is followed may
      come from anywhere.
    - GET and HEAD change nothing: below `query_paths`, where GET could, they get the HTML page or
      are refused.
    - POST has a JSON body.

    Answers may be framed by pages of the same origin alone.

    Args:
        app: the ASGI application.
        origins: "http://127.0.0.1:3000", each the address of the server as browsers see it.
        methods: that the application needs beside GET, HEAD and POST. Of other origins' pages, no
            request with one of them arrives without having been asked for.
        query_paths: paths that take GraphQL.
        has_query_page: whether GET of `query_paths` has an HTML page for those who accept HTML.

    Raises:
        ValueError: one of `origins` isn't an origin.
    """

    def __init__(
        self,
        app: App,
        *,
        origins: Collection[str],
        methods: Collection[str] = (),
        query_paths: Collection[str] = ("/graphql",),
        has_query_page: bool = True,
    ) -> None:
        self._app = app
        self._origins: dict[str, set[str]] = {}
        for origin in origins:
            for netloc in netlocs(origin):
                self._origins.setdefault(netloc, set()).add(origin.lower())
        self._methods = frozenset(methods)
        self._query_paths = frozenset(query_paths)
        self._has_query_page = has_query_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, connection or lifespan event."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            else:  # before it is accepted, so that the server answers with 403
                await receive()
                await send(
                    {
                        "type": "websocket.close",
                        "code": POLICY_VIOLATION,
                        "reason": refusal[1][:100],
                    }
                )
        elif refusal is None:
            await self._app(scope, receive, _unframed(send))
        else:
            status, reason = refusal
            body = f"Refused: {reason}\n".encode()
            headers = [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
            ]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:  # noqa: PLR0911 (one for each rule)
        """HTTP status and reason, or None where the request may pass."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name = raw_name.decode("latin-1").lower()
            if name in headers and name in CHECKED_HEADERS:
                return 400, f"the header {name} occurs twice"
            headers[name] = raw_value.decode("latin-1")
        origins = self._origins.get(headers.get("host", "").lower())
        if origins is None:
            return 403, f"the header host has to be one of {', '.join(sorted(self._origins))}"
        if "origin" in headers and headers["origin"].lower() not in origins:
            return 403, f"the header origin has to be {' or '.join(sorted(origins))}"
        method = scope.get("method", "GET")  # a WebSocket has none
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            opened = (
                headers.get("sec-fetch-mode") == "navigate"
                and headers.get("sec-fetch-dest") == "document"
            )
            if scope["type"] != "http" or method not in READING or not opened:
                return 403, "a page of another origin sent it"
        if scope["type"] == "websocket":
            return None
        if method in READING:
            is_page = self._has_query_page and "text/html" in headers.get("accept", "")
            if scope["path"].rstrip("/") in self._query_paths and not is_page:
                return 405, "GraphQL is taken by POST alone"
        elif method == "POST":
            # As it is written here: some applications compare it with case.
            if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return 415, "the header content-type has to be application/json"
        elif method not in self._methods:
            return 405, f"the method {method} isn't taken"
        return None


def netlocs(origin: str) -> set[str]:
    """What Host may be in requests to an origin: with its port, without one that is the scheme's.

    Raises:
        ValueError: it isn't an origin.
    """
    parts = urlsplit(origin.lower())
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    is_origin = (
        parts.scheme in DEFAULT_PORTS and host and parts.netloc in (host, f"{host}:{parts.port}")
    )
    if not is_origin or origin.lower() != f"{parts.scheme}://{parts.netloc}":
        raise ValueError(
            f"{origin!r} is no origin; expected one such as http://127.0.0.1:3000 or https://dagster.example.org"
        )
    port = parts.port or DEFAULT_PORTS[parts.scheme]
    return {f"{host}:{port}"} | ({host} if port == DEFAULT_PORTS[parts.scheme] else set())


def _unframed(send: Send) -> Send:
    """`send` that forbids other origins to show the answer in a frame, where clicks are stolen."""

    async def framed_by_itself_alone(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [
                header
                for header in message.get("headers", [])
                if header[0].lower() != b"x-frame-options"
            ]
            message = {**message, "headers": [*headers, (b"x-frame-options", b"SAMEORIGIN")]}
        await send(message)

    return framed_by_itself_alone
