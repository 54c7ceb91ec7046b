"""Comparison files: a grid and its scorers in YAML, for `noa-lab compare` and the notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from noa_lab.config import StrictModel, YamlDocument, load_yaml, validate_yaml
from noa_lab.errors import BadInput, TemplateInvalid, UnknownName
from noa_lab.experiments.execution._answers import check_scorers
from noa_lab.experiments.execution._budget import Budget
from noa_lab.experiments.execution._wish import Requested
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.grid._inputs import Input, load_inputs
from noa_lab.experiments.grid._prompt_files import load_prompts
from noa_lab.experiments.grid._prompts import Prompt
from noa_lab.experiments.score._base import Scorer
from noa_lab.experiments.score._specs import scorer_from_spec
from noa_lab.experiments.statistics._margin import DEFAULT_MARGIN
from noa_lab.inference import InferenceConfig

__all__ = ["Comparison", "comparison_from", "load_comparison"]

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison file says.

    Attributes:
        name: Its name.
        grid: What to run; `grid.models` is empty where the file names none.
        scorers: How answers are scored.
        margin: The smallest difference that matters, for `Run.verdict` and `Run.report`.
        executor: How cells are asked for, see `start`.
        budget: What the run may use up; None for no limit.
    """

    name: str
    grid: Grid
    scorers: tuple[Scorer, ...]
    margin: float = DEFAULT_MARGIN
    executor: Requested = "auto"
    budget: Budget | None = None


class _File(StrictModel):
    """The keys of a comparison file; what stands under them is checked by what it is for."""

    kind_name: ClassVar[str] = "The comparison file"

    name: str = Field(min_length=1)
    prompts: Any
    inputs: Any
    models: tuple[str, ...] = ()
    sampling: tuple[InferenceConfig, ...] = ()
    repeats: int = 1
    seed: int = 1
    exclude: tuple[dict[str, Any], ...] = ()
    sample: int | None = None
    executor: Requested = "auto"
    budget: dict[str, Any] | None = None
    scorers: tuple[dict[str, Any], ...] = ()
    margin: float = Field(default=DEFAULT_MARGIN, gt=0)


def load_comparison(path: Path | str) -> Comparison:
    """Read a comparison file.

    Its keys are `name`, `prompts` and `inputs` (needed), `models`, `sampling`, `repeats`, `seed`, `exclude`, `sample`, `executor`,
    `budget`, `scorers` and `margin`. Prompts are a mapping by name, or the path of a file or folder (see `load_prompts`); inputs are a
    list, or the path of a CSV, JSONL or Parquet file. Paths start from the comparison file's folder.

    Args:
        path: The YAML file.

    Raises:
        ConfigInvalid: With file, line, key, value and the nearest known key.
        TemplateInvalid: When a template uses a variable that an input lacks.
    """
    return comparison_from(load_yaml(Path(path)))


def comparison_from(document: YamlDocument) -> Comparison:
    """The comparison in a YAML document; see `load_comparison`."""
    read = validate_yaml(_File, document)
    prompts = _prompts(document, read.prompts)
    budget = None if read.budget is None else _located(document, ("budget",), _budget, read.budget)
    inputs = _inputs(document, read.inputs)
    scorers = tuple(
        _located(document, ("scorers", number), scorer_from_spec, spec) for number, spec in enumerate(read.scorers)
    )

    def make() -> Grid:
        grid = (prompts, inputs, read.models, read.sampling or None, read.repeats, read.seed)
        return Grid(*grid, exclude=read.exclude, sample=read.sample)

    grid = _located(document, (), make)
    _check(document, grid, scorers)
    return Comparison(read.name, grid, scorers, read.margin, read.executor, budget)


def _prompts(document: YamlDocument, given: Any) -> dict[str, Prompt]:
    if isinstance(given, str):
        path = document.file.absolute().parent / given
        found: dict[str, Prompt] = _located(document, ("prompts",), load_prompts, path)
        return found
    if not isinstance(given, Mapping) or not given:
        raise document.invalid(
            "prompts holds no prompts by name.",
            fix='Write `plain: "Summarise: {{ text }}"` below it, or the path of a file or folder.',
            at=("prompts",),
            value=given,
        )
    return {str(name): _located(document, ("prompts", name), Prompt.of, value, name) for name, value in given.items()}


def _budget(given: Mapping[str, Any]) -> Budget:
    for name in given:
        if name not in {"minutes", "tokens"}:
            raise UnknownName.among("limit", str(name), ("minutes", "tokens"), where="the budget")
    return Budget(**given)


def _inputs(document: YamlDocument, given: Any) -> tuple[Input, ...]:
    if isinstance(given, list):
        for number, row in enumerate(given):
            # One by one first: a wrong one is then found with its line.
            if isinstance(row, Mapping):
                _located(document, ("inputs", number), load_inputs, [row])
    found: tuple[Input, ...] = _located(document, ("inputs",), load_inputs, given, document.file.absolute().parent)
    return found


def _check(document: YamlDocument, grid: Grid, scorers: tuple[Scorer, ...]) -> None:
    """Fill in every prompt, so that a file with a wrong variable is refused before any model is loaded."""
    for name in grid.prompts:
        _located(document, ("prompts", name), Grid.render, grid.replace(prompts={name: grid.prompts[name]}))
    for number, scorer in enumerate(scorers):
        _located(document, ("scorers", number), check_scorers, (scorer,), set(grid.fields))
    _located(document, ("scorers",), check_scorers, scorers, set(grid.fields))


def _located(document: YamlDocument, at: Place, function: Any, *args: Any) -> Any:
    """Call `function`; what is wrong with its arguments is reported with file and line."""
    try:
        return function(*args)
    except TemplateInvalid as error:
        line = document.line(at)
        fields = {**error.fields, "file": str(document.file), "line": line}
        raise TemplateInvalid(f"{document.file}, line {line}: {error.message}", fix=error.fix, **fields) from None
    except BadInput as error:
        inner = error.fields.get("path")
        field = error.fields.get("field")
        deeper: Place = inner if isinstance(inner, tuple) else (field,) if isinstance(field, str) else ()
        found, near = error.fields.get("value"), error.fields.get("nearest")
        raise document.invalid(error.message, fix=error.fix, at=(*at, *deeper), value=found, nearest=near) from None
