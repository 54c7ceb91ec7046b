"""The shipped notebooks in a real JupyterLab, with the real llama-server and the real model, as a reader uses them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from noa_lab.paths import Home

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.timeout(300)]

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
MINUTES = 60_000


@pytest.fixture
def notebook(jupyterlab, page, tmp_path):
    """Opens a shipped notebook, its kernel in a home of the test's own that is linked to the installed runtime and model."""
    root = tmp_path / "home"
    root.mkdir()
    for name in ("runtimes", "models"):
        os.symlink(getattr(Home.default(), name), root / name)

    def open_shipped(name: str, **size: int):
        shutil.copy(NOTEBOOKS / name, jupyterlab.root / name)
        lab = page(name, **size)
        lab.kernel(f"import os; os.environ['NOA_LAB_HOME'] = {str(root)!r}")
        return lab

    return open_shipped


def test_05_press_run_and_see_scored_answers(notebook):
    lab = notebook("05_compare_prompts.ipynb", height=2400)
    lab.run_all()
    panel = lab.outputs.get_by_test_id("ComparePanel")
    panel.wait_for(timeout=3 * MINUTES)
    lab.outputs.get_by_text("capitals.html").wait_for(timeout=3 * MINUTES)
    panel.get_by_label("User message (question)").fill("Name the capital city of {{ country }}.")
    panel.get_by_role("button", name="Run", exact=True).click()
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
    view.get_by_text(shown).first.wait_for()
    assert lab.axe(f"[data-testid={panel}]") == []
    lab.shot(f"notebook-{name[:2]}-panel", view)
