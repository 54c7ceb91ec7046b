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


@contextmanager
def chromium_browser() -> Iterator[Browser]:
    """A running Chromium that talks to nobody by itself; playwright's own downloads are never used."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip(f"Chromium is not installed: {INSTALL}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()
