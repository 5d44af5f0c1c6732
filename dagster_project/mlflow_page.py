"""Lets MLflow's pages begin with trainings in a browser that has never shown them.

MLflow 3 begins with pages for chatbots, with an assistant beside them, and with the notice that it
collects usage data, which it does not here. A browser remembers what its user chose instead, and
MLflow has no setting of the server for it. So its page gets a script that chooses for those who
haven't chosen yet. The script also opens the list of experiments where an address names no page.
"""

import json
from pathlib import Path

from dagster_project.own_origin import READING, App, Receive, Scope, Send

BEGINNING = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "mlflow.telemetry.info.alert.dismissed_v1": True,
}
"""What a browser remembers, by MLflow's keys of it."""

_SCRIPT = """<script>
try {{
  if (["", "#/"].includes(location.hash)) history.replaceState(null, "", "#/experiments");
  for (const [key, value] of Object.entries({beginning}))
    if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));
}} catch {{}}
</script>"""


class BeginsWithTrainings:
    """MLflow's application, whose page has the script.

    Args:
        app: the application.
        page: its index.html. Where there is none, or one without a head, `app` answers itself.
    """

    def __init__(self, app: App, *, page: Path) -> None:
        self._app = app
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        script = _SCRIPT.format(beginning=json.dumps(BEGINNING))
        self._page = text.replace("<head>", f"<head>{script}", 1).encode()
        self._has_head = "<head>" in text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, connection or lifespan event."""
        is_page = scope["type"] == "http" and scope["path"] == "/" and scope["method"] in READING
        if not (is_page and self._has_head):
            await self._app(scope, receive, send)
            return
        headers = [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-length", str(len(self._page)).encode()),
            (b"cache-control", b"no-cache"),
        ]
        body = b"" if scope["method"] == "HEAD" else self._page
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
