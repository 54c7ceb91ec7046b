"""The shipped notebooks in a real JupyterLab, with the real llama-server and the real model, as a reader uses them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from noa_lab import server
from noa_lab.paths import Home
from noa_lab.testing import borrowed_home

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.timeout(300)]

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
MINUTES = 60_000


@pytest.fixture
def own_home(tmp_path):
    """Code that gives a kernel a home of the test's own, with the installed runtime and model."""
    home = borrowed_home(tmp_path / "home", Home.default())
    yield f"import os; os.environ['NOA_LAB_HOME'] = {str(home.root)!r}"
    server.stop_all(home)


@pytest.fixture
def notebook(jupyterlab, page, own_home):
    """Opens a shipped notebook, its kernel in a home of the test's own."""

    def open_shipped(name: str, **size: int):
        shutil.copy(NOTEBOOKS / name, jupyterlab.root / name)
        lab = page(name, **size)
        lab.kernel(own_home)
        return lab

    return open_shipped


WATCH = """() => {
    const panel = document.querySelector("[data-testid=ComparePanel]");
    const look = () => { window.underWay ||= Boolean(panel.querySelector("[data-action=pause]")); };
    new MutationObserver(look).observe(panel, { childList: true, subtree: true });
}"""
"""Notes in the page that a run was under way, however short that was."""


def test_05_press_run_and_see_scored_answers(notebook):
    lab = notebook("05_compare_prompts.ipynb", height=2400)
    lab.run_all()
    panel = lab.outputs.get_by_test_id("ComparePanel")
    panel.wait_for(timeout=3 * MINUTES)
    lab.outputs.get_by_text("capitals.html").wait_for(timeout=3 * MINUTES)
    panel.get_by_label("User message (question)").fill("Name the capital city of {{ country }}.")
    lab.page.evaluate(WATCH)
    panel.get_by_role("button", name="Run", exact=True).click()
    # The run of the prompts as they were is shown, and is done: the new one first has to be under way.
    lab.page.wait_for_function("window.underWay", timeout=MINUTES)
    panel.locator(".noa-status", has_text="done").wait_for(timeout=3 * MINUTES)
    assert panel.get_by_text(re.compile("contains: (yes|no)")).count() >= 20
    assert panel.get_by_text("Tokyo").count() >= 1
    panel.get_by_text(re.compile("on contains")).first.wait_for()
    assert lab.axe("[data-testid=ComparePanel]") == []
    lab.shot("notebook-05-panel", panel)
    lab.shot("notebook-05")


@pytest.mark.parametrize(
    ("name", "panel", "shown"),
    [
        ("01_install_llama_cpp", "SetupPanel", "b11312"),
        ("02_get_a_model", "ModelPanel", "smollm2-135m"),
        ("03_launch_the_server", "ServerPanel", "smollm2-135m"),
    ],
)
def test_panels_show_the_truth(notebook, name, panel, shown):
    lab = notebook(f"{name}.ipynb", height=1600)
    lab.run_all()
    view = lab.outputs.get_by_test_id(panel)
    view.wait_for(timeout=3 * MINUTES)
    view.get_by_text(shown).filter(visible=True).first.wait_for()
    assert lab.axe(f"[data-testid={panel}]") == []
    lab.shot(f"notebook-{name[:2]}-panel", view)


PANEL = "import noa_lab as lab\npanel = lab.ServerPanel('smollm2-135m', context_size=512)\npanel"
ASK = "panel.server.engine().generate('Once upon a time', lab.InferenceConfig(max_tokens=40))"


def test_a_server_from_start_to_stop_in_its_panel(jupyterlab, page, own_home):
    """All that the panel of servers offers, on the real server."""
    lab = page(jupyterlab.notebook("server-panel.ipynb", PANEL), height=1900)
    lab.kernel(own_home)
    lab.run_all()
    panel = lab.outputs.get_by_test_id("ServerPanel")
    status = panel.locator(".noa-status")
    panel.get_by_role("button", name="Start", exact=True).click(timeout=MINUTES)
    panel.get_by_text("smollm2-135m is ready at").first.wait_for(timeout=MINUTES)
    lab.kernel(ASK)
    panel.get_by_role("button", name="Check it").click()
    panel.get_by_text(re.compile(r"completion: \d+ tokens at")).first.wait_for(timeout=MINUTES)
    panel.get_by_role("button", name="Keep it").click()
    panel.get_by_text("smollm2-135m stays until it is stopped.").first.wait_for()
    panel.get_by_role("button", name="Let it follow its holders").wait_for()
    for fold in ("Log of smollm2-135m", "Use it from elsewhere"):
        panel.get_by_text(fold, exact=True).first.click()
    panel.get_by_text(re.compile("OpenAI\\(base_url=")).first.wait_for()
    panel.get_by_text(re.compile("print_timing")).first.wait_for()
    key = lab.kernel("print(''.join(panel.server.api_key))").strip()
    assert len(key) >= 32
    assert key not in lab.page.content()
    assert lab.axe("[data-testid=ServerPanel]") == []
    lab.shot("notebook-03-server-panel", panel)
    panel.get_by_role("button", name="Stop smollm2-135m").click()
    panel.get_by_text("smollm2-135m is stopped.").first.wait_for()
    status.get_by_text("No server is up").wait_for()
    assert lab.kernel("print(len(lab.servers()))").strip() == "0"
