"""A comparison as the Python that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.widgets._scorers import scorer_code
from noa_lab.widgets._source import Raw, call

if TYPE_CHECKING:
    from noa_lab.experiments import Grid, Prompt
    from noa_lab.inference import InferenceConfig

__all__ = ["comparison_code"]


def comparison_code(grid: Grid, scorers: Sequence[Any], name: str, inputs: str | None) -> str:
    """The Python that makes this grid and runs it.

    Args:
        grid: The grid.
        scorers: Its scorers.
        name: What the run is called.
        inputs: Path of the inputs, when they are in a file; else they are written out.
    """
    arguments: dict[str, object] = {
        "prompts": {label: _prompt(prompt) for label, prompt in grid.prompts.items()},
        "inputs": inputs if inputs is not None else [_row(found) for found in grid.inputs],
    }
    if grid.models:
        arguments["models"] = list(grid.models)
    arguments["sampling"] = [_sampling(config) for config in grid.sampling]
    arguments |= {key: value for key, value in (("repeats", grid.repeats), ("seed", grid.seed)) if value != 1}
    run: dict[str, object] = {"0": _Name("grid")}
    if scorers:
        run["scorers"] = [_Name(scorer_code(scorer)) for scorer in scorers]
    if name:
        run["name"] = name
    return f"import noa_lab as lab\n\ngrid = {call('lab.Grid', arguments)}\nrun = {call('lab.compare', run)}"


class _Name(Raw):
    """An expression that is written as it stands."""

    def __init__(self, expression: str) -> None:
        self._expression = expression

    def at(self, indent: int) -> str:
        del indent
        return self._expression


def _prompt(prompt: Prompt) -> object:
    if prompt.user is not None and prompt.system is None:
        return prompt.user
    parts: dict[str, object] = {} if prompt.system is None else {"system": prompt.system}
    if prompt.user is not None:
        return Raw("lab.Prompt", {**parts, "user": prompt.user})
    turns = [{"role": turn.role.value, "content": turn.content} for turn in prompt.messages]  # type: ignore[union-attr]
    return Raw("lab.Prompt", {**parts, "messages": turns})


def _row(found: Any) -> dict[str, Any]:
    """An input as a user would write it: its id only where one was given."""
    row: dict[str, Any] = {"id": found.id} if found.seed_key == found.id else {}
    row |= dict(found.variables)
    if found.cluster is not None:
        row["cluster"] = found.cluster
    if found.tags:
        row["tags"] = list(found.tags)
    return row


def _sampling(config: InferenceConfig) -> Raw:
    chosen = {name: getattr(config, name) for name in type(config).model_fields if name in config.model_fields_set}
    return Raw("lab.InferenceConfig", chosen)
