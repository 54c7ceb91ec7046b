"""The comparison form: prompts side by side, inputs and scorers, the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from noa_lab.widgets._compare_form import FEWEST_PROMPTS, FORMATS, Given, prompt_keys
from noa_lab.widgets._form import Form, words
from noa_lab.widgets._scorers import SCORER_LINES, scorer_words
from noa_lab.widgets._view import Block, button, buttons, field, section, text

__all__ = ["form_blocks"]


@dataclass(frozen=True, slots=True)
class _Fields:
    """The form, and what is wrong with it by field."""

    form: Form
    wrong: Mapping[str, str]

    def one(self, name: str, label: str, **more: Any) -> Block:
        """A field as it is filled in."""
        return field(name, label, self.form[name], error=self.wrong.get(name, ""), **more)


def form_blocks(
    form: Form, given: Given, loaded: Sequence[Any] | None, here: Sequence[str], wrong: Mapping[str, str]
) -> list[Block]:
    """All of the form.

    Args:
        form: What the fields hold.
        given: What was given from Python and is shown, not typed.
        loaded: The given inputs, once they are read.
        here: Models on this machine.
        wrong: What is wrong, by field.
    """
    fields = _Fields(form, wrong)
    return [
        _prompts(fields),
        section("data", "", [_inputs(fields, given, loaded), _scorers(fields, given)], layout="columns"),
        _numbers(fields, given, here),
    ]


def _prompts(fields: _Fields) -> Block:
    keys = prompt_keys(fields.form)
    cards = section(
        "cards",
        "",
        [_prompt(fields, key, number, removable=len(keys) > FEWEST_PROMPTS) for number, key in enumerate(keys, 1)],
        layout="columns",
    )
    return section("prompts", "Prompts", [cards, buttons("more", [button("add_prompt", "Add a prompt", small=True)])])


def _prompt(fields: _Fields, key: str, number: int, *, removable: bool) -> Block:
    name = words(fields.form, f"{key}.name")
    if f"{key}.messages" in fields.form:
        body = fields.one(f"{key}.messages", f"Messages as JSON ({name})", kind="area", rows=8)
    else:
        body = fields.one(f"{key}.user", f"User message ({name})", kind="area", rows=3)
    remove = button("remove_prompt", f"Remove {name}", small=True, args={"prompt": key})
    return section(
        key,
        "",
        [
            fields.one(f"{key}.name", f"Name of prompt {number}"),
            fields.one(f"{key}.system", f"System message ({name})", kind="area", rows=2),
            body,
            buttons(f"{key}-buttons", [remove]) if removable else None,
        ],
    )


def _inputs(fields: _Fields, given: Given, loaded: Sequence[Any] | None) -> Block:
    if given.inputs is None:
        hint = "CSV or JSON can have a field `expected`, which scorers compare with."
        typed = fields.one("inputs", "The inputs", kind="area", rows=5, help=hint)
        return section(
            "inputs-typed", "Inputs", [fields.one("inputs_as", "Typed as", kind="select", options=FORMATS), typed]
        )
    where = f"the file {given.inputs}" if isinstance(given.inputs, str) else "Python"
    what = (
        f"{len(loaded)} inputs from {where}, with: {', '.join(loaded[0].variables)}"
        if loaded
        else f"Inputs from {where}"
    )
    return section("inputs-given", "Inputs", [text("inputs-text", fields.wrong.get("inputs") or what)])


def _scorers(fields: _Fields, given: Given) -> Block:
    if given.scorers is None:
        lines = fields.one("scorers", "How answers are scored", kind="area", rows=5, help=SCORER_LINES)
        return section("scorers-typed", "Scorers", [lines])
    listed = [text(f"scorer{number}", scorer_words(one)) for number, one in enumerate(given.scorers)]
    return section("scorers-given", "Scorers, from Python", listed or [text("scorers-none", "none")])


def _numbers(fields: _Fields, given: Given, here: Sequence[str]) -> Block:
    sampling = [
        fields.one("temperature", "Temperature", kind="number"),
        fields.one("max_tokens", "Max tokens", kind="number"),
    ]
    if len(given.sampling) > 1:
        sampling = [text("sampling", f"{len(given.sampling)} samplings from Python")]
    return section(
        "numbers",
        "",
        [
            fields.one("models", "Models", help="empty: the default" + (f"; here: {', '.join(here)}" if here else "")),
            *sampling,
            fields.one("repeats", "Repeats", kind="number"),
            fields.one("seed", "Seed", kind="number"),
            fields.one("name", "Name of the run"),
        ],
        layout="row",
    )
