"""What a run will take, before it starts: cells, tokens, minutes."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from noa_lab.experiments._prompt_tokens import UNKNOWN_TEMPLATE, prompt_tokens
from noa_lab.experiments.execution._plan import Plan
from noa_lab.experiments.grid._grid import Grid

__all__ = ["Estimate", "estimate"]

_LOOKED_AT = 2_000
"""Conversations that are compared with each other; a larger grid is judged by as many of it."""

_GENERATED = 1.3
"""What a generated token costs, in evaluated ones, where several answers grow side by side."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, about.

    Attributes:
        cells: Answers.
        prompt_tokens: Tokens of their prompts after the chat template, each counted once for each answer.
        evaluated_tokens: Those that have to be evaluated when what prompts share is evaluated once.
        answer_tokens: Tokens of the answers, at most.
        minutes: Time at most; None where nothing like it has been run here yet.
        basis: What the time is taken from, in words.
    """

    cells: int
    prompt_tokens: int
    evaluated_tokens: int
    answer_tokens: int
    minutes: float | None
    basis: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        tokens = (
            f"{self.cells:,} answers; about {_round(self.prompt_tokens)} prompt tokens, of which {_round(self.evaluated_tokens)} have to "
            f"be evaluated; at most {_round(self.answer_tokens)} tokens of answers"
        )
        time = f"; that takes {_minutes(self.minutes)} at most" if self.minutes is not None else ""
        return f"{tokens}{time} ({self.basis})"

    def _repr_html_(self) -> str:
        return f"<div>{html.escape(str(self))}</div>"


def _round(number: int) -> str:
    """A number with two digits that count, as an estimate has no more."""
    if number < 100:
        return str(number)
    scale = 10 ** (len(str(number)) - 2)
    return f"{round(number / scale) * scale:,}"


def _minutes(minutes: float) -> str:
    if minutes * 60 < 10:
        return "a few seconds"
    if minutes < 1:
        return f"{minutes * 60:.0f} seconds"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def estimate(grid: Grid, past: Sequence[Plan] = (), templates: Mapping[str, str | None] | None = None) -> Estimate:
    """What a grid will take.

    Nothing is asked and no model is loaded: tokens are counted from characters and the models' chat templates, time from earlier runs
    of the same models on this machine.

    Args:
        grid: The grid.
        past: Plans of earlier runs, the newest first.
        templates: By model: its chat template, None where it has none; of a model that is missing here the usual one is taken.

    Raises:
        TemplateInvalid: When a template uses a variable that an input lacks.
    """
    rendered = grid.render()
    conversations = [rendered[place] for place in itertools.islice(rendered, _LOOKED_AT)]
    scale = len(rendered) / max(1, len(conversations))
    repeats = sum(1 if config.greedy else grid.repeats for config in grid.sampling)
    models = max(1, len(grid.models))
    share = len(grid) / max(1, len(rendered) * models * repeats)
    used = [(templates or {}).get(model, UNKNOWN_TEMPLATE) for model in grid.models or ("",)]
    counted = {template: prompt_tokens(conversations, template) for template in used}
    once, least = (sum(counted[template][which] for template in used) for which in (0, 1))
    everything = int(once * scale * repeats * share)
    evaluated = int(least * scale * share) + len(grid) - int(len(rendered) * models * share)
    longest = sum(config.max_tokens * (1 if config.greedy else grid.repeats) for config in grid.sampling)
    answers = int(len(rendered) * models * longest * share)
    minutes, basis = _time(grid, evaluated, answers, past)
    return Estimate(len(grid), everything, min(evaluated, everything), answers, minutes, basis)


def _time(grid: Grid, evaluated: int, answers: int, past: Sequence[Plan]) -> tuple[float | None, str]:
    """Minutes by the newest run of each model, and what that rests on."""
    models = grid.models or ("",)
    seconds = 0.0
    for model in models:
        plan = next((each for each in past if each.model == model and each.seconds > 1 and each.generated), None)
        if plan is None:
            return None, f"how long that takes shows when {model or 'the model'} has answered something here"
        cost = plan.seconds / (plan.evaluated + _GENERATED * plan.generated)
        seconds += cost * (evaluated + _GENERATED * answers) / len(models)
    return seconds / 60, "by the speed of earlier runs on this machine"
