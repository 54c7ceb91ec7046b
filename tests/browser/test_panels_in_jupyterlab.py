"""Panels in a real JupyterLab, on a Lab that answers at once: what only the real front end and the real kernel can break."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

IMPORTS = """import tempfile, threading, time
from pathlib import Path
from panel_fakes import FakeLab
from noa_lab.paths import Home
from noa_lab.experiments import score
from noa_lab.widgets import ComparePanel, ModelPanel, RunView, ServerPanel, SetupPanel, show_run
fake = FakeLab(Home(Path(tempfile.mkdtemp())))"""
NOTHING_LEFT = """
left = lambda: [thread.name for thread in threading.enumerate() if thread.name.startswith("noa-lab")]
end = time.monotonic() + 30
while left() and time.monotonic() < end:
    time.sleep(0.05)
print(left())"""


def test_install_watch_and_themes(jupyterlab, page):
    lab = page(jupyterlab.notebook("setup.ipynb", IMPORTS, "panel = SetupPanel(fake)\npanel"))
    lab.run_all()
    panel = lab.outputs.get_by_test_id("SetupPanel")
    panel.locator(".noa-status", has_text="1 thing is missing").wait_for()
    panel.get_by_role("button", name="Install", exact=True).click()
    panel.locator(".noa-status", has_text="Everything is here").wait_for()
    for theme in ("Light", "Dark"):
        lab.theme(f"JupyterLab {theme}")
        assert lab.axe("[data-testid=SetupPanel]") == []
        lab.shot(f"lab-setup-{theme.lower()}", panel)
    lab.theme("JupyterLab Light")


def test_a_comparison_from_press_to_verdict(jupyterlab, page):
    code = "panel = ComparePanel(scorers=[score.contains('Paris')], lab=fake)\npanel"
    lab = page(jupyterlab.notebook("compare.ipynb", IMPORTS, code), height=1900)
    lab.run_all()
    panel = lab.outputs.get_by_test_id("ComparePanel")
    panel.get_by_label("User message (plain)").fill("Briefly: {{ text }}")
    panel.get_by_role("button", name="Run", exact=True).click()
    panel.get_by_role("progressbar", name="Answers").wait_for()
    assert lab.kernel("print(fake.run.grid.prompts['plain'].user)").strip() == "Briefly: {{ text }}"
    lab.kernel("fake.run.answer(4, 'Paris it is.')")
    panel.get_by_text("4 of 6 answers").wait_for()
    lab.kernel("fake.run.answer(2, 'London.', 0.0)")
    panel.get_by_text("brief is better than plain on contains").wait_for()
    lab.shot("lab-compare", panel)
    panel.get_by_role("button", name="Save answers as CSV").click()
    # Not by its text alone: soon after it is shown, the page also has it for those who hear it.
    panel.locator(".noa-message", has_text="Written:").wait_for()
    assert (jupyterlab.root / "compare-r-2f9c81d4.csv").exists()


def test_a_table_of_several_pages_becomes_a_file_of_the_users(jupyterlab, page):
    rows = "from panel_fake_models import listing\nfake.models.rows = [listing(f'm{n:03}', False) for n in range(45)]"
    lab = page(jupyterlab.notebook("table.ipynb", IMPORTS, rows, "panel = ModelPanel('m000', lab=fake)\npanel"))
    lab.run_all()
    panel = lab.outputs.get_by_test_id("ModelPanel")
    with lab.page.expect_download() as info:
        panel.get_by_role("button", name="Save CSV: Models").click()
    assert info.value.suggested_filename == "models.csv"
    lines = Path(info.value.path()).read_text("utf-8-sig").splitlines()
    assert [line.split(",")[0] for line in lines] == ['"Model"', *(f'"m{number:03}"' for number in range(45))]


def test_typing_reaches_the_field_and_shortcuts_reach_jupyterlab(jupyterlab, page):
    lab = page(jupyterlab.notebook("keys.ipynb", IMPORTS, "panel = ComparePanel(lab=fake)\npanel", "1 + 1"))
    lab.run_all()
    lab.all_have_run()
    area = lab.outputs.get_by_test_id("ComparePanel").get_by_label("User message (plain)")
    area.click()
    area.press("Control+a")
    for key in ("a", "b", "d", "d", "x", "z", "m", "Enter", "0", "0", "y", "ArrowUp", "End"):
        lab.page.keyboard.press(key)
    assert area.input_value() == "abddxzm\n00y"
    assert lab.page.evaluate("window.jupyterapp.shell.currentWidget.content.model.cells.length") == 3
    assert lab.page.locator(".jp-Dialog").count() == 0
    lab.page.keyboard.press("Control+s")
    assert lab.saved(lambda notebook: notebook["cells"][-1]["execution_count"] == 3)


def test_a_press_during_an_async_cell_works_at_once(jupyterlab, page):
    lab = page(
        jupyterlab.notebook(
            "async.ipynb", IMPORTS, "panel = SetupPanel(fake)\npanel", "import asyncio\nawait asyncio.sleep(150)"
        )
    )
    lab.run_all()
    panel = lab.outputs.get_by_test_id("SetupPanel")
    panel.get_by_role("button", name="Install", exact=True).click()
    panel.locator(".noa-status", has_text="Everything is here").wait_for()
    assert lab.page.evaluate("window.jupyterapp.shell.currentWidget.content.model.cells.get(2).executionCount") is None


def test_work_goes_on_and_is_drawn_while_a_cell_keeps_the_kernel_busy(jupyterlab, page):
    busy = (
        "fake.gate = threading.Event()\npanel.press('install')\nseen, end = Path('busy.seen'), time.time() + 120\n"
        "while not seen.exists() and time.time() < end: time.sleep(0.01)\nassert seen.exists()\nfake.gate.set()"
    )
    lab = page(jupyterlab.notebook("busy.ipynb", IMPORTS, "panel = SetupPanel(fake)\npanel", busy))
    lab.run_all()
    panel = lab.outputs.get_by_test_id("SetupPanel")
    panel.get_by_role("progressbar", name="Installing").wait_for()
    (jupyterlab.root / "busy.seen").touch()  # for this the cell waits, and keeps the kernel busy
    panel.locator(".noa-status", has_text="Everything is here").wait_for()


def test_reload_shows_the_truth_and_restart_says_what_to_do(jupyterlab, page):
    lab = page(jupyterlab.notebook("reload.ipynb", IMPORTS, "panel = ServerPanel(lab=fake)\npanel"))
    lab.run_all()
    panel = lab.outputs.get_by_test_id("ServerPanel")
    panel.get_by_role("textbox", name="Slots").fill("3")
    panel.get_by_role("button", name="Start").click()
    panel.locator(".noa-status", has_text="smollm2-135m ready").wait_for()
    lab.save()
    lab.page.reload()
    panel = lab.outputs.get_by_test_id("ServerPanel")
    panel.locator(".noa-status", has_text="smollm2-135m ready").wait_for()
    assert panel.get_by_role("textbox", name="Slots").input_value() == "3"
    assert "THE-SECRET" not in (jupyterlab.root / "reload.ipynb").read_text()
    lab.wait_for("() => window.jupyterapp.shell.currentWidget?.sessionContext.session?.kernel")
    lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    banner = panel.get_by_role("alert")
    banner.wait_for()
    assert "Run this cell again" in banner.inner_text()
    lab.shot("lab-server-disconnected", panel)


def test_an_untrusted_notebook_shows_the_static_form(jupyterlab, page):
    patient = "import noa_lab.widgets._panel as made\nmade._FIRST_LOOK_SECONDS = 60\nSetupPanel(fake)"
    lab = page(jupyterlab.notebook("made.ipynb", IMPORTS, patient))
    lab.run_all()
    lab.outputs.get_by_test_id("SetupPanel").wait_for()
    lab.command("docmanager:save")
    copy = lab.saved(lambda notebook: "text/markdown" in str(notebook))
    copy["cells"].append({"cell_type": "markdown", "id": "other", "metadata": {}, "source": "From somebody else."})
    (jupyterlab.root / "copied.ipynb").write_text(json.dumps(copy))
    copied = page("copied.ipynb")
    copied.outputs.get_by_text("Run this cell in JupyterLab to use the panel.").wait_for()
    assert "1 thing is missing" in copied.outputs.first.inner_text()
    copied.shot("lab-untrusted", copied.outputs.first)


def test_show_run_displays_a_live_view_and_closing_leaves_no_thread(jupyterlab, page):
    grid = "import noa_lab\ngrid = noa_lab.Grid({'a': 'x {{ text }}', 'b': '{{ text }}'}, [{'text': 'one'}])"
    lab = page(jupyterlab.notebook("run.ipynb", IMPORTS, grid, "run = fake.compare(grid)\nview = show_run(run)"))
    lab.run_all()
    view = lab.outputs.get_by_test_id("RunView")
    view.get_by_text("0 of 2 answers").wait_for()
    view.get_by_role("button", name="Pause").click()
    view.get_by_role("button", name="Continue").click()
    lab.kernel("run.answer(2)")
    view.get_by_text("2 of 2 answers").wait_for()
    lab.kernel("view.close()")
    assert lab.kernel(NOTHING_LEFT).strip() == "[]"
