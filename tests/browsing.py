"""Debian's Chromium for tests: where it is and how it is started."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ARGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--force-device-scale-factor=1", "--font-render-hinting=none"),
]
INSTALL = "apt-get install -y chromium fonts-dejavu-core fonts-liberation"


_shared: dict[str, Browser] = {}


@contextmanager
def chromium_browser() -> Iterator[Browser]:
    """A running Chromium that talks to nobody by itself; playwright's own downloads are never used.

    Playwright's driver can run once in a thread: a second user of it, in another folder's fixtures, gets the first one's browser.
    """
    path = shutil.which("chromium")
    if path is None:
        pytest.skip(f"Chromium is not installed: {INSTALL}")
    if _shared:
        yield _shared["browser"]
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        _shared["browser"] = driver.chromium.launch(executable_path=path, args=ARGS)
        yield _shared["browser"]
        _shared.pop("browser").close()
