"""The panels in a real Chromium, without Jupyter: what is seen, typed, pressed and heard."""

from __future__ import annotations

from pathlib import Path


import pytest

from noa_lab.experiments import score
from noa_lab.widgets import ComparePanel, ModelPanel, ServerPanel, SetupPanel

pytestmark = pytest.mark.browser
SHOTS = Path(__file__).parents[2] / "screenshots"


def shot(shown, name):
    SHOTS.mkdir(exist_ok=True)
    shown.page.locator(".noa").screenshot(path=str(SHOTS / f"{name}.png"), caret="hide", animations="disabled")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_shots(show, lab, theme):
    p = show(SetupPanel(lab), theme=theme)
    shot(p, f"setup-{theme}")
    p = show(ModelPanel(lab=lab), theme=theme)
    shot(p, f"models-{theme}")
    p = show(ModelPanel(lab=lab), theme=theme, width=380)
    shot(p, f"models-{theme}-narrow")
    p = show(ServerPanel(lab=lab), theme=theme)
    p.panel.press("start")
    p.settle()
    p.page.locator("summary").nth(1).click()
    shot(p, f"server-{theme}")
    p = show(ComparePanel(lab=lab, scorers=[score.contains("Paris"), score.max_words(12)]), theme=theme)
    p.panel.press("run")
    p.settle()
    lab.run.answer(3, "Paris is the capital of France.\nIt lies on the Seine.", 1.0)
    lab.run.answer(1, "Because of physics, mostly.", 0.0)
    lab.run.answer(1, error="Unreachable: nothing answers")
    p.panel.refresh()
    p.settle()
    shot(p, f"compare-{theme}-running")
    lab.run.answer(1)
    p.panel.refresh()
    p.settle()
    shot(p, f"compare-{theme}")
    assert not p.problems
