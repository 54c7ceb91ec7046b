"""Verdicts on pairwise judges: wins, ties, and judges that go by the order."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from verdict_data import cells_of

from noa_lab.errors import BadInput
from noa_lab.experiments.statistics import ScoreFacts, verdict, verdicts

VALUES = {"arm": 1.0, "tie": 0.5, "over": 0.0}


def _cells(orders: list[str], baseline: str = "plain") -> pd.DataFrame:
    scores: dict[str, Any] = {
        baseline: [0.5] * len(orders),
        "persona": [sum(VALUES[each] for each in pair.split(",")) / 2 for pair in orders],
    }
    cells = cells_of(scores, name="judge")
    said = [f"persona-{n}-0" for n in range(len(orders))]
    cells["score_orders.judge"] = cells["cell_id"].map(dict(zip(said, orders, strict=True)))
    return cells


def test_a_judge_that_is_sure() -> None:
    found = verdict(_cells(["arm,arm"] * 20 + ["over,over"] * 5 + ["tie,tie"] * 5), "persona", over="plain", on="judge")
    assert found.outcome == "better"
    assert found.difference == pytest.approx(0.25)
    assert found.judged is not None
    assert (found.judged.wins, found.judged.losses, found.judged.ties, found.judged.flips) == (20, 5, 5, 0)
    assert found.judged.first_rate == 0.5
    assert "wins 20, losses 5, ties 5" in found.sentence
    assert "Tango" in found.method
    assert found.interval[1] <= 0.5


def test_a_judge_that_goes_by_the_order_names_no_winner() -> None:
    found = verdict(_cells(["arm,arm"] * 20 + ["arm,over"] * 10), "persona", over="plain", on="judge")
    assert found.interval[0] > 0
    assert found.outcome == "not enough data"
    assert found.withheld
    assert found.more_inputs is None
    assert found.judged is not None
    assert found.judged.flip_rate == pytest.approx(1 / 3)
    assert found.judged.first_rate == pytest.approx(40 / 60)
    assert "by the order of the two answers" in found.sentence
    assert "33%" in found.sentence
    plain = found.as_dict()["judged"]
    assert plain["believed"] is False
    assert plain["flip_rate"] == pytest.approx(1 / 3)
    patient = verdict(_cells(["arm,arm"] * 20 + ["arm,over"] * 10), "persona", over="plain", on="judge", most_flips=0.5)
    assert patient.outcome == "better"


def test_a_tie_in_one_order_is_half_a_win() -> None:
    found = verdict(_cells(["arm,tie"] * 30), "persona", over="plain", on="judge")
    assert found.difference == pytest.approx(0.25)
    assert found.judged is not None
    assert found.judged.wins == 30
    assert found.judged.decided == 0
    assert found.judged.believed


def test_only_ties_are_the_same_when_there_are_enough() -> None:
    found = verdict(_cells(["tie,tie"] * 100), "persona", over="plain", on="judge")
    assert found.outcome == "same"
    assert found.judged is not None
    assert math.isnan(found.judged.first_rate)


def test_it_only_answers_what_it_was_asked() -> None:
    cells = pd.concat([_cells(["arm,arm"] * 20), cells_of({"third": [None] * 20}, name="judge")])
    with pytest.raises(BadInput, match="has not compared anything with 'persona'"):
        verdict(cells, "third", over="persona", on="judge")
    assert len(verdicts(cells, over="persona")) == 0
    assert verdicts(cells, over="plain", facts={"judge": ScoreFacts(most_flips=0.1)}).of("persona").outcome == "better"
