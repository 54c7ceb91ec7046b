"""What a report says of a run besides its cells, and the Python that repeats the run."""

from __future__ import annotations

import pprint
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from noa_lab.experiments.score._specs import COMBINED, call_of_spec
from noa_lab.experiments.statistics._margin import DEFAULT_MARGIN

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunFacts", "RunLike", "facts_of"]

_MOST_INPUTS = 50
_MOST_CHARACTERS = 12_000
_FUNCTIONS = {"function", "not_function"}


class RunLike(Protocol):
    """What a report needs of a run."""

    @property
    def grid(self) -> Any:
        """Its grid; the report uses the order and content of `grid.inputs`."""

    def cells(self) -> pd.DataFrame:
        """See `Run.cells`."""

    def as_dict(self) -> dict[str, Any]:
        """See `Run.as_dict`."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a report says of a run besides its cells.

    Attributes:
        run_id: The run's id.
        name: Its name; may be empty.
        created: When it was made, for people (ISO 8601).
        prompts: Name -> the prompt: a text, or a list of messages (mappings with `role` and `content`). The first is the baseline.
        inputs: Ids of the inputs in the order of the grid; empty for the order of the cells.
        sampling: The samplings, by index.
        repeats: How often a cell is sampled.
        seed: From which the cells' seeds are derived.
        models: The models' names.
        scorers: The scorers' specifications.
        provenance: Facts about model, binary, executor, machine, versions; may be nested.
        snippet: Python that repeats the run.
        margin: The smallest difference that matters, for all verdicts.
    """

    run_id: str
    name: str = ""
    created: str = ""
    prompts: Mapping[str, Any]
    inputs: Sequence[str] = ()
    sampling: Sequence[Mapping[str, Any]] = ()
    repeats: int = 1
    seed: int | None = None
    models: Sequence[str] = ()
    scorers: Sequence[Mapping[str, Any]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    snippet: str = ""
    margin: float = DEFAULT_MARGIN


def facts_of(run: RunLike, margin: float = DEFAULT_MARGIN) -> RunFacts:
    """The facts of a run of ours."""
    about = run.as_dict()
    inputs = list(run.grid.inputs)
    return RunFacts(
        run_id=about["run_id"],
        name=about["name"],
        created=about["created"],
        prompts=about["prompts"],
        inputs=[each.id for each in inputs],
        sampling=about["sampling"],
        repeats=about["repeats"],
        seed=about["seed"],
        models=about["models"],
        scorers=about["scorers"],
        provenance=about["provenance"],
        snippet=_snippet(about, inputs),
        margin=margin,
    )


def _snippet(about: Mapping[str, Any], inputs: Sequence[Any]) -> str:
    """Python that runs the same grid again; long lists of inputs are taken from the stored run."""
    rows = [_input(each) for each in inputs]
    sampling = [f"lab.InferenceConfig({_arguments(each)})" for each in about["sampling"]]
    given = _listed("[", [repr(row) for row in rows], "]")
    if len(rows) > _MOST_INPUTS or len(given) > _MOST_CHARACTERS:
        given = f"lab.open_run({about['run_id']!r}).grid.inputs"
    prompts = [f"{name!r}: {_indented(_prompt(turns))}" for name, turns in about["prompts"].items()]
    scorers = [_scorer(each) for each in about["scorers"]]
    lines = [
        "import noa_lab as lab",
        "",
        "grid = lab.Grid(",
        f"    prompts={_listed('{', prompts, '}')},",
        f"    inputs={given},",
        f"    models={list(about['models'])!r},",
        f"    sampling={_listed('[', sampling, ']')},",
        f"    repeats={about['repeats']},",
        f"    seed={about['seed']},",
        *([f"    exclude={about['exclude']!r},"] if about["exclude"] else []),
        ")",
        f"scorers = {_listed('[', scorers, ']', indent=0)}",
        f"run = lab.compare(grid, scorers=scorers, name={about['name']!r}, executor={about['executor']!r}, fresh=True)",
        "run.result()",
    ]
    return "\n".join(lines)


def _input(found: Any) -> dict[str, Any]:
    # An id that nobody gave is left out: with it, the seeds would be others.
    row = {"id": found.id, **found.variables} if found.seed_key == found.id else dict(found.variables)
    if found.cluster is not None:
        row["cluster"] = found.cluster
    return row | ({"tags": list(found.tags)} if found.tags else {})


def _prompt(turns: Any) -> Any:
    """One user message as a text, others as a mapping with messages: what `lab.Grid` takes."""
    if isinstance(turns, str):
        return turns
    plain = [{"role": str(turn["role"]), "content": turn["content"]} for turn in turns]
    if len(plain) == 1 and plain[0]["role"] == "user":
        return plain[0]["content"]
    return {"messages": plain}


def _scorer(spec: Mapping[str, Any]) -> str:
    """A scorer's constructor; for a function, its place as a name to be filled in."""
    options = dict(spec)
    for key in _FUNCTIONS & set(options):
        place = str(options[key])
        negated = ", negate=True" if key == "not_function" else ""
        more = "".join(f", {name}={options[name]!r}" for name in ("low", "high", "weight", "when") if name in options)
        return f"# {place!r}:\n    lab.score.function(...{negated}, name={options['name']!r}{more})"
    kind, positional, named = call_of_spec(options)
    if kind in COMBINED:
        first = [_listed("[", [_scorer(each) for each in positional[0]], "]", indent=4)]
    else:
        first = [repr(each) for each in positional]
    return f"lab.score.{kind}({', '.join([*first, _arguments(named)]).removesuffix(', ')})"


def _arguments(values: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in dict(values).items() if value is not None)


def _listed(opening: str, items: Sequence[str], closing: str, indent: int = 4) -> str:
    """A list with an item on each line."""
    space = " " * indent
    return (
        "\n".join([opening, *(f"{space}    {item}," for item in items), f"{space}{closing}"])
        if items
        else opening + closing
    )


def _indented(value: Any) -> str:
    return pprint.pformat(value, width=100, sort_dicts=False).replace("\n", "\n            ")
