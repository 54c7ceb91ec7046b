"""The tables of panels: what is sent of a long one, and what can be saved."""

from __future__ import annotations

import json

import pytest
from panel_fake_models import listing
from test_panels import block, send
from test_panels_in_browser import STATES

from noa_lab.widgets import ModelPanel
from noa_lab.widgets._view import flat


def test_a_long_table_is_sent_one_page_at_a_time(lab, opened):
    lab.models.rows = [listing(f"m{number:03}", False) for number in range(107)]
    panel = opened(ModelPanel("m000", lab=lab))
    assert len(block(panel, "models")["rows"]) == 20
    for turn in range(1, 9):
        send(panel, "page", seq=turn, table="models", by=1)
    shown = block(panel, "models")
    assert (shown["offset"], shown["total"], len(shown["rows"])) == (100, 107, 7)
    send(panel, "page", seq=99, table="models", by=-1)
    assert block(panel, "models")["offset"] == 80


def test_the_rows_of_all_pages_go_to_the_view_that_asked(lab, opened):
    lab.models.rows = [listing(f"m{number:03}", False) for number in range(107)]
    panel = opened(ModelPanel("m000", lab=lab))
    assert panel.settle()
    answers = []
    panel.send = answers.append
    send(panel, "rows", table="models", reply="c1-1")
    assert panel.settle()
    assert answers[0]["reply"] == "c1-1"
    assert [row[0]["text"] for row in answers[0]["rows"]] == [f"m{number:03}" for number in range(107)]
    assert json.dumps(answers)
    send(panel, "rows", seq=2, table="modles", reply="c1-2")
    assert panel.settle()
    assert "models" in panel.view["messages"][0]["fix"]


@pytest.mark.parametrize("state", [state for state in STATES if not state.endswith("busy")])
def test_every_table_can_be_saved_but_the_one_that_has_a_better_way(lab, opened, state):
    panel = opened(STATES[state](lab))
    assert panel.settle()
    tables = {block["id"]: block["export"] for block in flat(panel.view["blocks"]) if block["type"] == "table"}
    assert not tables.pop("answers-table", False)
    assert all(tables.values())
