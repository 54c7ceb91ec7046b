"""Panels where no script runs: HTML, Markdown and plain text made from the same view."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from panel_fakes import FakeLab
from test_panels_in_browser import STATES

from noa_lab.widgets._static import LIMIT, as_html, as_markdown, as_text
from noa_lab.widgets._view import cell, column, facts, field, log, message, panel_view, progress, section, table, text

ALLOWED = {"div", "span", "b", "table", "thead", "tbody", "tr", "th", "td", "pre"}
VOID = {"br", "img", "input", "hr", "meta", "link"}


class Checker(HTMLParser):
    """Well-formed, only allowed tags, only style and a few plain attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        assert tag in ALLOWED
        assert {name for name, _ in attrs} <= {"style", "cellpadding", "aria-hidden"}
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker.text


@pytest.mark.parametrize("state", [state for state in STATES if not state.endswith("busy")])
def test_each_state_reads_as_prose_everywhere(lab, opened, state):
    panel = opened(STATES[state](lab))
    assert panel.settle()
    data, _ = panel._repr_mimebundle_()
    assert len(data["text/html"].encode()) <= LIMIT
    shown = read(data["text/html"])
    for form in (shown, data["text/plain"]):
        assert panel.view["status"] in form
    assert panel.title in shown
    assert panel.title in data["text/markdown"]
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "Save CSV" not in data["text/html"] + data["text/markdown"]
    if state == "run":
        assert "brief is better than plain on contains" in shown
        assert "Paris is the capital of France." in shown
        assert "| plain | 2 | 2 | 1.000 | 1.000 |" in data["text/markdown"]


hostile = st.one_of(
    st.text(max_size=200),
    st.sampled_from(
        [
            "<script>x</script>",
            "</pre><img src=x onerror=y>",
            "`````",
            "| a | b |",
            "'\"><b",
            "x" * 50_000,
            "](javascript:x)",
        ]
    ),
)


@settings(max_examples=150)
@given(hostile, hostile, hostile, st.integers(0, 400))
def test_hostile_texts_stay_text_and_the_size_is_bounded(one, two, three, rows):
    view = panel_view(
        "X", "A title", intro=one, kind="error", status=two, messages=[message("warn", one, two)],
        blocks=[
            facts("f", one, [(two, three)]), field("g", one, two, help=three, error=one), log("l", one, [two, three]),
            progress("p", one, 0.5, two), text("t", three, kind="ok"),
            section("s", one, [table("r", two, [column(one), column(two)], [[three, cell(one, marks=[("ok", two)])]] * rows)]),
        ],
    )  # fmt: skip
    page = as_html(view)
    assert len(page.encode()) <= LIMIT
    read(page)
    assert not re.search(r"(?<!\\)<", as_markdown(view).split("```")[0])
    assert as_text(view).startswith("X: ")


LEFT = """import threading, time
left = lambda: [thread.name for thread in threading.enumerate() if thread.name.startswith("noa-lab")]
end = time.monotonic() + 30
while left() and time.monotonic() < end:
    time.sleep(0.05)
left()"""
"""The threads of panels that do not end by themselves, soon."""


def test_a_notebook_run_without_a_browser_shows_what_is_true_and_ends(tmp_path):
    cells = [
        "import sys; sys.path.insert(0, 'tests/widgets')\nfrom panel_fakes import FakeLab\nfrom noa_lab.paths import Home\nfrom pathlib import Path",
        "import noa_lab.widgets._panel as made\nmade._FIRST_LOOK_SECONDS = 60\nfrom noa_lab.widgets import *\nfake = FakeLab(Home(Path('HOME')))".replace(
            "HOME", str(tmp_path)
        ),
        "SetupPanel(fake)",
        "ModelPanel(lab=fake)",
        "ServerPanel(lab=fake)",
        "panel = ComparePanel(lab=fake)\npanel",
        LEFT,
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": "."}}).execute()
    shown = [read(one["outputs"][0]["data"]["text/html"]) for one in notebook.cells[2:6]]
    for status, page in zip(
        ("1 thing is missing", "1 of 4 here", "No server is up", "Ready to run: 6 answers"), shown, strict=True
    ):
        assert status in page
    assert notebook.cells[6]["outputs"][0]["data"]["text/plain"] == "[]"
    saved = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert max(len(str(one)) for one in saved.values()) < 60_000


def test_a_panel_whose_look_never_ends_is_still_shown(opened, tmp_path, monkeypatch):
    import threading

    gate = threading.Event()
    lab = FakeLab()
    lab.check = gate.wait
    monkeypatch.setattr("noa_lab.widgets._panel._FIRST_LOOK_SECONDS", 0.1)
    from noa_lab.widgets import SetupPanel

    panel = opened(SetupPanel(lab))
    data, _ = panel._repr_mimebundle_()
    assert "Looking at this machine" in data["text/html"]
    gate.set()
