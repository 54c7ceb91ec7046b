"""What a run may use up before it pauses by itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from noa_lab.errors import BadInput, BudgetSpent
from noa_lab.experiments.store._writer import Change

__all__ = ["Allowance", "Budget"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may use up each time it is started or resumed; then it pauses, and resuming it goes on.

    Args:
        minutes: Time from the start; cells under way are finished.
        tokens: Prompt tokens evaluated and tokens generated; answers taken over from other runs cost nothing.

    Raises:
        BadInput: When one is not positive.
    """

    minutes: float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("minutes", "tokens"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
                raise BadInput(
                    f"The budget's {name} = {value!r} is not possible.",
                    fix="Give a number above 0, or leave it out.",
                    field=name,
                    value=value,
                )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the store."""
        return asdict(self)


class Allowance:
    """What is left of a budget. `spend` is called on one thread, `reason` on any.

    Args:
        run_id: The run.
        budget: Fields of a `Budget`, or None for no limit.
    """

    def __init__(self, run_id: str, budget: Mapping[str, Any] | None) -> None:
        self._run_id = run_id
        self._minutes = (budget or {}).get("minutes")
        self._tokens = (budget or {}).get("tokens")
        self._started = time.monotonic()
        self._spent = 0

    def spend(self, change: Change) -> None:
        """Count what an answer has cost."""
        if self._tokens is not None and change.status == "done" and not change.values.get("cached"):
            values = change.values
            evaluated = (values.get("prompt_tokens") or 0) - (values.get("cached_tokens") or 0)
            self._spent += evaluated + (values.get("completion_tokens") or 0)

    def reason(self) -> BudgetSpent | None:
        """Why the run has to pause; None while there is something left."""
        if self._tokens is not None and self._spent >= self._tokens:
            return self._spent_all(f"{self._tokens:,} tokens", tokens=self._spent)
        if self._minutes is not None and time.monotonic() - self._started >= self._minutes * 60:
            return self._spent_all(f"{self._minutes:g} minutes", minutes=self._minutes)
        return None

    def _spent_all(self, what: str, **fields: Any) -> BudgetSpent:
        return BudgetSpent(
            f"The run {self._run_id} has used up its budget of {what}.",
            fix="run.resume() goes on, with as much again.",
            run_id=self._run_id,
            **fields,
        )
