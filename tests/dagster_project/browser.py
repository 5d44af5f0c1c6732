"""A headless Chromium, where the machine has one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGE_MS = 240_000
"""A busy machine takes its time to draw a page."""


@contextmanager
def open_page(profile: Path) -> Iterator[Any]:
    """A page of a browser with its profile in a folder; skips the test without a browser."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    with api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=CHROMIUM,
            args=FLAGS,
            viewport={"width": 1500, "height": 1000},
            timeout=PAGE_MS,
        )
        page = context.new_page()
        page.set_default_timeout(PAGE_MS)
        yield page
        context.close()
