"""From a cell to its row: what is sent, what comes back, how it is scored."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput
from noa_lab.experiments.grid._cells import Cell
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.grid._inputs import ANSWER_FACTS
from noa_lab.experiments.score._model import needs_model
from noa_lab.inference import Completion, InferenceConfig, Timings

if TYPE_CHECKING:
    from noa_lab.experiments.score._base import Scorer

__all__ = ["check_scorers", "config_of", "finished_values", "score"]


_TIMES = tuple(field.name for field in fields(Timings))


def config_of(grid: Grid, cell: Cell) -> InferenceConfig:
    """The sampling of a cell, with the cell's seed."""
    return grid.sampling[cell.sampling].model_copy(update={"seed": cell.seed})


def finished_values(completion: Completion, executor: str) -> dict[str, Any]:
    """The columns of a finished cell, except for its scores.

    Args:
        completion: The answer.
        executor: How it was asked for, see `ExecutorName`.
    """
    return {
        "answer": storable(completion.text),
        "error": None,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "cached_tokens": completion.cached_tokens,
        "completion_tokens": completion.completion_tokens,
        **{name: getattr(completion.timings, name) for name in _TIMES},
        "executor": executor,
        "request": completion.raw_request,
        "response": completion.raw_response,
        "finished": time.time(),
    }


def storable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def score(
    scorers: Sequence[Scorer], cell: Mapping[str, Any], variables: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What each scorer says of an answer; those that ask a model are left out, their stage comes later.

    Args:
        scorers: The scorers.
        cell: `answer`, and what else is known of it: `finish_reason` and `completion_tokens`.
        variables: The input's fields; scorers also see these two facts among them.

    Returns:
        By scorer name: `value` (a finite number, True being 1, or None for "not applicable") and `error` (None, or what the
        scorer raised: a scorer that fails never ends a run).
    """
    answer, row = cell["answer"], {**variables, **{name: cell.get(name) for name in ANSWER_FACTS}}
    found: dict[str, dict[str, Any]] = {}
    for scorer in scorers:
        if needs_model(scorer):
            continue
        try:
            value = scorer(answer, row)
            number = None if value is None else float(value)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"the score {number} is not finite")
        except Exception as error:
            found[scorer.name] = {"value": None, "error": f"{type(error).__name__}: {error}"}
        else:
            found[scorer.name] = {"value": number, "error": None}
    return found


def check_scorers(scorers: Sequence[Scorer], fields: set[str]) -> None:
    """Make sure that the scorers can be told apart and that the inputs have what they need.

    Raises:
        BadInput: When two have one name.
        TemplateInvalid: When one uses a field that no input has.
    """
    names = [scorer.name for scorer in scorers]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(
                f"{names.count(name)} scorers are called {name!r}.",
                fix="Give them names of their own with name=.",
                field="scorers",
                value=name,
            )
    for scorer in scorers:
        scorer.check(fields | set(ANSWER_FACTS))
