"""Panels with a Lab that answers at once, and Chromium to look at them."""

from __future__ import annotations

import threading
import time

import pytest
from browsing import chromium_browser
from panel_fakes import FakeLab
from panel_harness import PanelPage, Site

from noa_lab.paths import Home


@pytest.fixture
def lab(tmp_path):
    home = Home(tmp_path / "home")
    (home.logs / "smollm2-135m.log").write_text("load: model\nmain: server is listening\n")
    return FakeLab(home)


def threads_of_panels() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("noa-lab:", "noa-lab panel"))]


@pytest.fixture
def opened():
    """Panels given to it are closed at the end; then no thread of theirs may be left."""
    panels = []

    def keep(panel):
        panels.append(panel)
        return panel

    yield keep
    for panel in panels:
        panel.close()
    # A look that was under way when its panel was closed ends by itself, soon.
    end = time.monotonic() + 30
    while (left := threads_of_panels()) and time.monotonic() < end:
        time.sleep(0.01)
    assert not left


@pytest.fixture(scope="session")
def chromium():
    """One Chromium for all tests of panels."""
    with chromium_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def site():
    site = Site()
    yield site
    site.close()


@pytest.fixture
def show(chromium, site, opened):
    """Shows a panel on a page of its own."""
    contexts = []

    def open_page(panel, *, theme="light", width=1000, settle=True):
        context = chromium.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
        context.set_default_timeout(30_000)
        contexts.append(context)
        return PanelPage(context.new_page(), site, opened(panel), theme, settle)

    yield open_page
    for context in contexts:
        context.close()
