"""Saving a panel's tables, in a real Chromium: by keyboard, all rows, as text."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from panel_fake_models import listing

from noa_lab.models import StoredModel
from noa_lab.widgets import ModelPanel, RunView, ServerPanel, SetupPanel

pytestmark = pytest.mark.browser


SAID = """button => {
    button.said = [];
    new MutationObserver(() => button.said.push(button.textContent)).observe(button, { childList: true });
}"""
"""A button says for two seconds that it has saved; what it says is kept."""


def saved(shown, label, press=lambda button: button.click()):
    """What the file has that the button beside this table gives: its name, its rows."""
    button = shown.page.get_by_role("button", name=f"Save CSV: {label}", exact=True)
    button.evaluate(SAID)
    with shown.page.expect_download() as info:
        press(button)
        shown.until(lambda: "Saved ✓" in button.evaluate("button => button.said"))
    data = Path(info.value.path()).read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")
    assert data.endswith(b"\r\n")
    return info.value.suggested_filename, list(
        csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    )


def downloads(shown):
    """The files that the page gives from now on."""
    files = []

    def keep(file):
        files.append(file)

    shown.page.on("download", keep)
    return files


def test_every_table_of_every_panel_can_be_saved(show, lab):
    lab.installed = True
    wanted = {
        SetupPanel: {"What is here", "Ways to get llama.cpp", "What Install would do", "llama.cpp on this machine"},
        ModelPanel: {"Models", "Models of other tools", "What takes disk"},
        ServerPanel: {"Servers"},
    }
    for kind, labels in wanted.items():
        panel = kind(lab=lab)
        if kind is ServerPanel:
            panel.press("start")
        shown = show(panel)
        shown.page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        tables = shown.page.locator(".noa-tablebox:has(tbody tr)")
        assert labels <= {table.get_by_role("table").locator("caption").inner_text() for table in tables.all()}
        for table in tables.all():
            label = table.locator("caption").inner_text()
            heads = table.locator("th").all_inner_texts()
            _, rows = saved(shown, label)
            assert rows[0] == heads
            assert len(rows) == 1 + table.locator("tbody tr").count()
        assert shown.problems == []


def test_all_rows_of_a_long_table_are_saved_by_keyboard(show, lab):
    lab.models.rows = [listing(f"m{number:03}", number == 0) for number in range(45)]
    shown = show(ModelPanel("m000", lab=lab))
    shown.page.get_by_role("button", name="Later rows").click()
    shown.until(lambda: "rows 21 to 40 of 45" in shown.page.locator(".noa").inner_text())

    def press(button):
        button.focus()
        shown.page.keyboard.press("Enter")

    name, rows = saved(shown, "Models", press)
    assert name == "models.csv"
    assert [row[0] for row in rows] == ["Model", *(f"m{number:03}" for number in range(45))]
    assert rows[1][1:3] == ["here", "98.4 MB"]
    assert "rows 21 to 40 of 45" in shown.page.locator(".noa").inner_text()
    shown.until(lambda: shown.page.locator("[aria-live]").inner_text() == "Saved: models.csv")
    assert shown.page.get_by_role("button", name="Save CSV: Models").evaluate("e => e === document.activeElement")


def test_only_the_view_that_asked_gets_the_file(show, lab):
    lab.models.rows = [listing(f"m{number:03}", False) for number in range(45)]
    shown = show(ModelPanel("m000", lab=lab))
    files = downloads(shown)
    shown.page.evaluate("window.stub.answer({ reply: 'another-1', rows: [['x']] })")
    saved(shown, "Models")
    assert len(files) == 1


def test_cells_are_text_for_spreadsheets(show, lab):
    evil = ['=HYPERLINK("http://x","y")', "+1", "@SUM(A1)", "\t=1", "-2+3", "a,b;=1\n\"c\"", "<b>x</b>", "-", "-0.5", "é模"]  # fmt: skip
    lab.models.stored_models = [StoredModel(each, each, (Path("/x"),), 1) for each in evil]
    shown = show(ModelPanel(lab=lab))
    shown.page.get_by_text("Use a model that is on this machine already").click()
    _, rows = saved(shown, "Models of other tools")
    tools = [row[1] for row in rows[1:]]
    assert tools == [*(f"'{each}" for each in evil[:5]), *evil[5:]]
    assert rows[1][0] == f"Import {evil[0]}"


def test_nothing_is_saved_of_an_empty_table_or_without_a_kernel(show, lab):
    shown = show(ServerPanel(lab=lab))
    assert shown.page.get_by_role("button", name="Save CSV: Servers").count() == 0
    models = show(ModelPanel(lab=lab))
    models.page.evaluate("window.stub.cut()")
    files = downloads(models)
    models.page.get_by_role("button", name="Save CSV: Models").click()
    models.page.wait_for_timeout(200)
    assert files == []


def test_the_answers_of_a_run_have_their_own_way(show, lab):
    import noa_lab

    run = lab.compare(noa_lab.Grid({"a": "x {{ text }}", "b": "{{ text }}"}, [{"text": "one"}]))
    run.answer(2)
    shown = show(RunView(run, lab=lab))
    names = [button.inner_text() for button in shown.page.get_by_role("button", name="CSV").all()]
    assert names == ["Save CSV", "Save answers as CSV"]
    assert saved(shown, "Means by prompt")[1][0][:3] == ["Prompt", "Inputs", "Answers"]
