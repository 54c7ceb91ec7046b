"""The panels in a real Chromium, without Jupyter: what is seen, typed, pressed and heard."""

from __future__ import annotations

from pathlib import Path

import pytest

from noa_lab.widgets import ModelPanel, SetupPanel

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
    assert not p.problems
