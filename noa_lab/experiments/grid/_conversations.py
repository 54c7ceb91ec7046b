"""The filled-in conversations of a grid, kept small: a large grid has many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from noa_lab.errors import TemplateInvalid, nearest
from noa_lab.experiments.grid._inputs import Input
from noa_lab.experiments.grid._prompts import Prompt, content_hash
from noa_lab.inference import ChatMessage

__all__ = ["Conversations"]

_SHOWN_INPUTS = 5


class Conversations(Mapping[tuple[str, str], list[ChatMessage]]):
    """Every prompt filled in for every input, by prompt name and input id.

    A conversation is filled in when it is first asked for, and kept as bare texts: as messages it would take several times the memory.

    Args:
        prompts: Prompts by name.
        inputs: The inputs.
    """

    def __init__(self, prompts: Mapping[str, Prompt], inputs: Iterable[Input]) -> None:
        self._prompts = prompts
        self._variables = {found.id: found.variables for found in inputs}
        self._texts: dict[str, dict[str, tuple[str, ...]]] = {name: {} for name in prompts}

    def __len__(self) -> int:
        return len(self._prompts) * len(self._variables)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((name, input_id) for name in self._prompts for input_id in self._variables)

    def __getitem__(self, place: tuple[str, str]) -> list[ChatMessage]:
        return [ChatMessage(role=role, content=text) for role, text in self._turns(place)]

    def _turns(self, place: tuple[str, str]) -> Iterator[tuple[Any, str]]:
        return zip(self._prompts[place[0]].roles, self.texts(place), strict=True)

    def texts(self, place: tuple[str, str]) -> tuple[str, ...]:
        """The contents of a conversation's turns.

        Raises:
            TemplateInvalid: Naming the prompt and, for a missing variable, the inputs that lack it and the nearest field they have.
        """
        name, input_id = place
        known = self._texts[name]
        if input_id not in known:
            known[input_id] = self._filled(name, input_id)
        return known[input_id]

    def hash(self, place: tuple[str, str]) -> str:
        """sha256 (hex) of a filled-in conversation."""
        return content_hash([[role.value, text] for role, text in self._turns(place)])

    def fill(self) -> None:
        """Fill in all of them; raises as `texts` does."""
        for place in self:
            self.texts(place)

    def forget(self) -> None:
        """Let the texts go; they are filled in again where they are asked for."""
        for known in self._texts.values():
            known.clear()

    def _filled(self, name: str, input_id: str) -> tuple[str, ...]:
        try:
            return self._prompts[name].texts(self._variables[input_id])
        except TemplateInvalid as error:
            missing = str(error.fields.get("variable") or "")
            if missing:
                raise _lacking(name, missing, self._variables) from None
            message = error.message.replace(
                "A template", f"The prompt {name!r}, filled in for the input {input_id!r},", 1
            )
            raise TemplateInvalid(message, fix=error.fix, prompt=name, variable="", input_id=input_id) from None


def _lacking(name: str, variable: str, inputs: Mapping[str, Mapping[str, Any]]) -> TemplateInvalid:
    lacking = [input_id for input_id, variables in inputs.items() if variable not in variables]
    fields = sorted({key for variables in inputs.values() for key in variables})
    near = nearest(variable, [key for key in fields if key != variable])
    if len(lacking) == len(inputs):
        who = "no input has"
        fix = f"Did you mean {near!r}?" if near else f"The inputs have: {', '.join(fields) or 'no fields'}."
    else:
        shown = ", ".join(lacking[:_SHOWN_INPUTS]) + (", ..." if len(lacking) > _SHOWN_INPUTS else "")
        who = f"{len(lacking)} of {len(inputs)} inputs lack ({shown})"
        fix = f"Give these inputs {variable!r}, or write {{{{ {variable} | default('') }}}}."
    return TemplateInvalid(
        f"The prompt {name!r} uses {{{{ {variable} }}}}, which {who}.",
        fix=fix,
        prompt=name,
        variable=variable,
        lacking=lacking,
        nearest=near,
    )
