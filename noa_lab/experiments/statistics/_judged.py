"""What a pairwise judge said, and whether it can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MAX_FLIPS", "Judged", "is_judged", "judged"]

MAX_FLIPS = 0.2
"""With a larger share of decided pairs in which the order of the two answers decided, a judge names no winner."""

MIN_DECIDED = 10
"""With fewer pairs that were decided both times, the share of flips is not known well enough to withhold anything."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Pairs of answers that were shown to a judge twice, each answer once as the first.

    Attributes:
        wins: Pairs that the arm won in both orders, or once with a tie in the other.
        losses: Pairs that it lost so.
        ties: Pairs in which both orders gave a tie.
        flips: Pairs in which the judge chose the same place twice: its answer was about the order.
        decided: Pairs in which neither order gave a tie.
        first_rate: How often the answer that was shown first was chosen, of all choices but ties; NaN without any.
        most_flips: The largest `flip_rate` with which a winner is named.
    """

    wins: int
    losses: int
    ties: int
    flips: int
    decided: int
    first_rate: float
    most_flips: float = MAX_FLIPS

    @property
    def flip_rate(self) -> float:
        """Flips among the pairs that were decided in both orders; 0 without any."""
        return self.flips / self.decided if self.decided else 0.0

    @property
    def believed(self) -> bool:
        """Whether a winner may be named."""
        return self.decided < MIN_DECIDED or self.flip_rate <= self.most_flips

    @property
    def words(self) -> str:
        """The counts, for people."""
        changed = (
            f"changed its mind with the order in {self.flips} of {self.decided}" if self.decided else "decided none"
        )
        return f"wins {self.wins}, losses {self.losses}, ties {self.ties}; the judge {changed} decided pairs"


def is_judged(cells: pd.DataFrame, name: str) -> bool:
    """Whether a score comes from a pairwise judge."""
    return f"score_orders.{name}" in cells


def judged(cells: pd.DataFrame, arm: str, name: str, axis: str, most_flips: float = MAX_FLIPS) -> Judged:
    """Count a judge's answers on one arm.

    Args:
        cells: Cells with the columns of `Run.cells()`; `score_orders.<name>` holds what was chosen when the arm was shown first, and what
            when it was shown second: "arm", "over" or "tie", with a comma between them.
        arm: The arm.
        name: The judge's scorer.
        axis: The column that holds the arm.
        most_flips: See `Judged`.
    """
    own: Any = cells[cells[axis].astype(str) == arm][f"score_orders.{name}"].dropna()
    pairs = [tuple(str(orders).split(",")) for orders in own]
    wins = sum(1 for pair in pairs if "arm" in pair and "over" not in pair)
    losses = sum(1 for pair in pairs if "over" in pair and "arm" not in pair)
    ties = sum(1 for pair in pairs if set(pair) == {"tie"})
    decided = [pair for pair in pairs if "tie" not in pair]
    chosen = sum(1 for pair in pairs for each in pair if each != "tie")
    first = sum((pair[0] == "arm") + (pair[1] == "over") for pair in pairs)
    return Judged(
        wins=wins,
        losses=losses,
        ties=ties,
        flips=sum(1 for pair in decided if len(set(pair)) > 1),
        decided=len(decided),
        first_rate=first / chosen if chosen else float("nan"),
        most_flips=most_flips,
    )
