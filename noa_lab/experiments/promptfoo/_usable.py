"""What of a comparison can be used: prompts and scorers that every input fills in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from noa_lab.errors import BadInput
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.grid._inputs import ANSWER_FACTS
from noa_lab.experiments.promptfoo._notes import Notes
from noa_lab.experiments.score._specs import scorer_from_spec
from noa_lab.experiments.score._texts import TextBased

__all__ = ["usable_prompts", "usable_specs"]


def usable_prompts(prompts: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]], notes: Notes) -> dict[str, Any]:
    """The prompts that every input fills in; the others are noted."""
    found: dict[str, Any] = {}
    for name, prompt in prompts.items():
        try:
            Grid({name: prompt}, list(inputs)).render()
        except BadInput as error:  # TemplateInvalid is one
            if error.fields.get("field") in {"inputs", "id", "tags"}:
                raise
            notes.take("left out", "prompts", name, error.message)
        else:
            found[name] = prompt
    return found


def usable_specs(
    specs: Sequence[Mapping[str, Any]], inputs: Sequence[Mapping[str, Any]], notes: Notes
) -> list[dict[str, Any]]:
    """The specifications that make scorers, whose texts every input fills in; the others are noted."""
    fields = {name for row in inputs for name in row}
    found: list[dict[str, Any]] = []
    for spec in specs:
        try:
            scorer = scorer_from_spec(spec)
            scorer.check(fields | set(ANSWER_FACTS))
            if isinstance(scorer, TextBased):
                for row in inputs:
                    scorer.texts_for(row)
        except BadInput as error:
            notes.take("left out", "tests", f"the scorer {spec.get('name')}", error.message)
        else:
            found.append(dict(spec))
    return found
