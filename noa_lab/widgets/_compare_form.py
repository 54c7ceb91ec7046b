"""The comparison form as a configuration, and a configuration as a form and as Python.

What the form cannot hold (several samplings, a DataFrame, a scorer that is a function) is kept as it was given.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput
from noa_lab.widgets._form import Form, real, whole, words

if TYPE_CHECKING:
    from noa_lab.experiments import Grid

__all__ = ["FEWEST_PROMPTS", "FORMATS", "Given", "configuration", "empty_prompt", "first_form", "prompt_keys"]

FORMATS = (("lines", "one text a line: {{ text }}"), ("csv", "CSV with a header"), ("jsonl", "JSON, one object a line"))
"""How the inputs may be typed."""

FEWEST_PROMPTS = 1
"""A comparison has at least so many prompts."""

_EXAMPLE_PROMPTS = {"plain": "{{ text }}", "brief": {"system": "Answer in one short sentence.", "user": "{{ text }}"}}
_EXAMPLE_INPUTS = "What is the capital of France?\nWhy is the sky blue?\nWhat does a compiler do?"


@dataclass(frozen=True)
class Given:
    """What was given from Python and is not in the form.

    Attributes:
        inputs: A list of dicts, a DataFrame or a path; None when they are typed.
        scorers: Scorers; None when they are typed.
        sampling: The samplings; the form holds temperature and max_tokens where there is one.
    """

    inputs: Any
    scorers: tuple[Any, ...] | None
    sampling: tuple[Mapping[str, Any], ...]


def first_form(
    prompts: Mapping[str, Any] | None,
    models: Iterable[str] | str | None,
    given: Given,
    numbers: Mapping[str, int],
    name: str,
) -> dict[str, str | bool]:
    """The form that stands for these arguments.

    Raises:
        BadInput: When a prompt cannot be used.
    """
    from noa_lab.experiments import Prompt

    names = (models,) if isinstance(models, str) else tuple(models or ())
    form: dict[str, str | bool] = {
        "name": name,
        "models": ", ".join(names),
        **{key: str(value) for key, value in numbers.items()},
    }
    first = given.sampling[0]
    form |= {"temperature": str(first.get("temperature", 0.7)), "max_tokens": str(first.get("max_tokens", 48))}
    form |= {"inputs": "" if given.inputs is not None else _EXAMPLE_INPUTS, "inputs_as": "lines", "scorers": ""}
    for number, (label, value) in enumerate((prompts or _EXAMPLE_PROMPTS).items()):
        prompt = Prompt.of(value, label)
        form |= empty_prompt(number, label)
        if prompt.user is None:
            turns = [{"role": turn.role.value, "content": turn.content} for turn in prompt.messages]  # type: ignore[union-attr]
            form[f"prompt{number}.messages"] = json.dumps(turns, ensure_ascii=False, indent=1)
            del form[f"prompt{number}.user"]
        else:
            form[f"prompt{number}.user"] = prompt.user
        form[f"prompt{number}.system"] = prompt.system or ""
    return form


def empty_prompt(number: int, name: str) -> dict[str, str | bool]:
    """The fields of a prompt."""
    return {f"prompt{number}.name": name, f"prompt{number}.system": "", f"prompt{number}.user": ""}


def prompt_keys(form: Form) -> list[str]:
    """The beginnings of the prompts' fields, in order: "prompt0", "prompt1", ..."""
    return [key.removesuffix(".name") for key in form if key.startswith("prompt") and key.endswith(".name")]


def configuration(form: Form, given: Given, loaded: Sequence[Any] | None = None) -> Grid:
    """The grid that the form and what was given describe.

    Args:
        form: What the fields hold.
        given: What is not in the form.
        loaded: The inputs of `given`, when they were read before.

    Raises:
        BadInput: `fields["field"]` names the form's field where it is one.
    """
    from noa_lab.experiments import Grid

    return Grid(
        prompts=_prompts(form),
        inputs=loaded if loaded is not None else given.inputs if given.inputs is not None else typed_inputs(form),
        models=[ref.strip() for ref in words(form, "models").split(",") if ref.strip()],
        sampling=samplings(form, given),
        repeats=_count(form, "repeats"),
        seed=_count(form, "seed"),
    )


def _count(form: Form, field: str) -> int:
    found = whole(form, field)
    return 1 if found is None else found


def samplings(form: Form, given: Given) -> list[Any]:
    """The samplings: those given, or the one whose temperature and length the form holds."""
    from noa_lab.inference import InferenceConfig

    if len(given.sampling) > 1:
        return [InferenceConfig(**one) for one in given.sampling]
    typed = {"temperature": real(form, "temperature"), "max_tokens": whole(form, "max_tokens")}
    return [
        InferenceConfig(**{**given.sampling[0], **{name: value for name, value in typed.items() if value is not None}})
    ]


def _prompts(form: Form) -> dict[str, Any]:
    from noa_lab.experiments import Prompt

    prompts: dict[str, Any] = {}
    for key in prompt_keys(form):
        name = words(form, f"{key}.name")
        if not name or name in prompts:
            reason = f"Two prompts are called {name!r}." if name else "A prompt has no name."
            raise BadInput(reason, fix="Give each prompt a name of its own.", field=f"{key}.name", value=name)
        system = str(form[f"{key}.system"]) or None
        field = f"{key}.messages" if f"{key}.messages" in form else f"{key}.user"
        try:
            body = {"messages": _json(form[field])} if field.endswith("messages") else {"user": str(form[field])}
            prompts[name] = Prompt(system=system, **body)
        except BadInput as error:
            raise BadInput(error.message, fix=error.fix, field=field, value=form[field]) from None
    return prompts


def _json(typed: object) -> Any:
    try:
        return json.loads(str(typed))
    except ValueError as error:
        raise BadInput(
            f"This is not JSON: {error}.",
            fix='Write [{"role": "user", "content": "..."}].',
            field="messages",
            value=typed,
        ) from None


def typed_inputs(form: Form) -> list[dict[str, Any]]:
    """The inputs as they were typed.

    Raises:
        BadInput: Naming the line.
    """
    typed = str(form["inputs"])
    if form["inputs_as"] == "csv":
        return _csv(typed)
    lines = [(number, line.strip()) for number, line in enumerate(typed.split("\n"), 1) if line.strip()]
    if form["inputs_as"] == "lines":
        return [{"text": line} for _, line in lines]
    rows = []
    for number, line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise BadInput(
                f"Line {number} is not JSON: {error}.",
                fix='Write one object a line: {"text": "..."}.',
                field="inputs",
                value=line,
            ) from None
    return rows


def _csv(typed: str) -> list[dict[str, Any]]:
    try:
        lines = [row for row in csv.reader(io.StringIO(typed.strip(), newline=""), strict=True) if row]
    except csv.Error as error:
        raise BadInput(
            f"This is not CSV: {error}.",
            fix="Check the quotes: each one that is opened must be closed.",
            field="inputs",
            value=typed,
        ) from None
    if not lines:
        return []
    header = [name.strip() for name in lines[0]]
    for number, row in enumerate(lines[1:], 2):
        if len(row) != len(header):
            raise BadInput(
                f"Row {number} has {len(row)} fields, the header {len(header)}.",
                fix="Put texts that contain commas in double quotes.",
                field="inputs",
                value=row,
            )
    return [
        {name: value for name, value in zip(header, row, strict=True) if value or name not in {"id", "cluster", "tags"}}
        for row in lines[1:]
    ]


def given_inputs(inputs: Any) -> Any:
    """Inputs from Python as they are kept: a path as text, anything else as it is."""
    return str(inputs) if isinstance(inputs, Path) else inputs
