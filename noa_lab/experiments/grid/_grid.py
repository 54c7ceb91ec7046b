"""The grid: prompts x inputs x models x sampling x repeats."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from noa_lab.errors import BadInput
from noa_lab.experiments.grid._cells import Cell, derive_seed
from noa_lab.experiments.grid._conversations import Conversations
from noa_lab.experiments.grid._inputs import Input, load_inputs
from noa_lab.experiments.grid._prompts import Prompt, content_hash
from noa_lab.experiments.grid._selection import Exclusions, draw_inputs
from noa_lab.inference import InferenceConfig

__all__ = ["Grid"]

_MAX_REPEATS = 10_000
_MAX_CELLS = 1_000_000


class Grid:
    """What a comparison runs; everything is checked when it is made, and nothing changes afterwards.

    Args:
        prompts: Prompts by name: a text is one user message; a `Prompt`; or a mapping with system, user or messages.
        inputs: A list of dicts, a pandas DataFrame, or the path of a CSV, JSONL or Parquet file. The fields `id`, `cluster` and
            `tags` are optional and ours; all others, such as `expected`, are variables for templates and scorers.
        models: References of models; None leaves the choice to the lab's default.
        sampling: `InferenceConfig`s or mappings of their fields; None is one with the defaults.
        repeats: How often each cell is sampled; greedy cells (temperature 0) run once whatever this says.
        seed: From which the cells' seeds are derived.
        exclude: What is left out: mappings of prompt, model, input (its id), tag, or sampling (its number) to a value or a list of values;
            a cell that has one of the values for each key of a mapping is left out.
        sample: Take so many inputs, drawn by the seed and their contents: the same ones each time, and mostly the same ones when others
            are added. All prompts get the same inputs. None takes all.

    Attributes:
        prompts: `Prompt` by name, in the order given.
        inputs: The inputs.
        models: References; empty where the lab's default is meant.
        sampling: The samplings.
        repeats: As given.
        seed: As given.
        exclude: What is left out.
        drawn_from: How many inputs there were before the sample was drawn; None where none was.

    Raises:
        BadInput: Naming the field, its value and what to do.
        TemplateInvalid: When a template cannot be parsed.
    """

    def __init__(
        self,
        prompts: Mapping[str, Any],
        inputs: Any,
        models: Iterable[str] | str | None = None,
        sampling: Iterable[InferenceConfig | Mapping[str, Any]] | InferenceConfig | Mapping[str, Any] | None = None,
        repeats: int = 1,
        seed: int = 1,
        exclude: Iterable[Mapping[str, Any]] = (),
        sample: int | None = None,
    ) -> None:
        self.prompts: Mapping[str, Prompt] = _prompts(prompts)
        self.inputs: tuple[Input, ...] = load_inputs(inputs)
        self.models: tuple[str, ...] = _models(models)
        self.sampling: tuple[InferenceConfig, ...] = _samplings(sampling)
        self.repeats = _whole("repeats", repeats, 1, _MAX_REPEATS)
        self.seed = _whole("seed", seed, 0, 2**63 - 1)
        self.drawn_from: int | None = None
        if sample is not None and _whole("sample", sample, 1, 2**31) < len(self.inputs):
            self.drawn_from, self.inputs = len(self.inputs), draw_inputs(self.inputs, sample, self.seed)
        self.exclude = Exclusions(
            exclude, prompts=self.prompts, inputs=self.inputs, models=self.models, samplings=len(self.sampling)
        )
        if not self.exclude.leaves_some(self):
            raise BadInput(
                "Everything in the grid is excluded.",
                fix="Take a rule out of exclude=, or make one narrower.",
                field="exclude",
                value=self.exclude.as_list(),
            )
        if len(self) > _MAX_CELLS:
            raise BadInput(
                f"The grid has {len(self):,} cells, more than {_MAX_CELLS:,}.",
                fix="Use fewer inputs or repeats, or draw some inputs with sample=.",
                field="grid",
                value=len(self),
            )

    def __len__(self) -> int:
        """Number of cells; a grid without models is counted with one."""
        repeats = [1 if config.greedy else self.repeats for config in self.sampling]
        if not self.exclude:
            return len(self.prompts) * len(self.inputs) * max(1, len(self.models)) * sum(repeats)
        models = self.models or ("",)
        places = itertools.product(models, self.prompts, self.inputs, range(len(self.sampling)))
        return sum(repeats[place[3]] for place in places if not self.exclude.has(*place))

    def __repr__(self) -> str:
        parts = [f"{len(self.prompts)} prompts", f"{len(self.inputs)} inputs", f"{max(1, len(self.models))} models"]
        parts += [f"{len(self.sampling)} samplings", f"{self.repeats} repeats"]
        notes = ["greedy cells run once"] if self.repeats > 1 and any(c.greedy for c in self.sampling) else []
        notes += [f"inputs drawn from {self.drawn_from:,}"] if self.drawn_from else []
        notes += ["some left out"] if self.exclude else []
        note = f" ({', '.join(notes)})" if notes else ""
        return f"<Grid {' x '.join(parts)} = {len(self):,} cells{note}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(self.hash)

    def cells(self) -> Iterator[Cell]:
        """All cells, always in the same order: by model, prompt, input, sampling, repeat."""
        for model in self.models:
            for prompt in self.prompts:
                for found in self.inputs:
                    for index, config in enumerate(self.sampling):
                        if self.exclude and self.exclude.has(model, prompt, found, index):
                            continue
                        for repeat in range(1 if config.greedy else self.repeats):
                            seed = derive_seed(self.seed, found.seed_key, config, repeat)
                            yield Cell.make(prompt, found.id, model, index, repeat, seed)

    def render(self) -> Conversations:
        """Every prompt filled in for every input, by prompt name and input id.

        Raises:
            TemplateInvalid: Naming the prompt, the variable, the inputs that lack it and the nearest field.
        """
        found = self.conversations()
        found.fill()
        return found

    def conversations(self) -> Conversations:
        """The same, each filled in when it is asked for."""
        return Conversations(self.prompts, self.inputs)

    @property
    def fields(self) -> frozenset[str]:
        """Names of the variables that at least one input has."""
        return frozenset(name for found in self.inputs for name in found.variables)

    @property
    def hash(self) -> str:
        """sha256 (hex) of everything in the grid: the same for the same question, however it was written."""
        return content_hash({name: value for name, value in self.as_dict().items() if name != "parents"})

    def with_default_model(self, name: str) -> Grid:
        """This grid, or, where it names no models, the same with this one."""
        return self if self.models else self.replace(models=(name,))

    def replace(self, **changes: Any) -> Grid:
        """The grid with some of its arguments changed.

        Raises:
            BadInput: As the constructor does.
        """
        now = {name: getattr(self, name) for name in ("prompts", "inputs", "models", "sampling", "repeats", "seed")}
        now["exclude"] = self.exclude.as_list()
        made = Grid(**{**now, **changes})
        if "inputs" not in changes and made.drawn_from is None:
            made.drawn_from = self.drawn_from
        return made

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the store; `from_dict` makes the same grid of it."""
        return {
            "prompts": [[name, prompt.turns()] for name, prompt in self.prompts.items()],
            "inputs": [found.as_dict() for found in self.inputs],
            "models": list(self.models),
            "sampling": [config.model_dump(mode="json") for config in self.sampling],
            "repeats": self.repeats,
            "seed": self.seed,
            **({"exclude": self.exclude.as_list()} if self.exclude else {}),
            **({"parents": parents} if (parents := self._parents()) else {}),
        }

    def _parents(self) -> dict[str, str]:
        return {name: prompt.parent for name, prompt in self.prompts.items() if prompt.parent is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Grid:
        """The grid of which `as_dict` gave `data`."""
        parents = data.get("parents", {})
        return cls(
            prompts={name: Prompt(messages=turns, parent=parents.get(name)) for name, turns in data["prompts"]},
            inputs=[Input.from_dict(found) for found in data["inputs"]],
            models=data["models"],
            sampling=data["sampling"],
            repeats=data["repeats"],
            seed=data["seed"],
            exclude=data.get("exclude", ()),
        )


def _prompts(given: object) -> dict[str, Prompt]:
    if not isinstance(given, Mapping) or not given:
        raise BadInput(
            "A grid needs prompts by name.",
            fix='Write prompts={"plain": "Summarise: {{ text }}", ...}.',
            field="prompts",
            value=given,
        )
    for name in given:
        if not isinstance(name, str) or not name.strip():
            raise BadInput(
                f"{name!r} cannot be the name of a prompt.",
                fix="Use a text that is not empty.",
                field="prompts",
                value=name,
            )
    return {name: Prompt.of(value, name) for name, value in given.items()}


def _models(given: Iterable[str] | str | None) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given or ())
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise BadInput(
                f"{name!r} cannot name a model.",
                fix="Use a name of the catalogue, a reference or a path.",
                field="models",
                value=name,
            )
        if names.count(name) > 1:
            raise BadInput(
                f"The model {name!r} is named {names.count(name)} times.",
                fix="Name each model once; repeats= asks it several times.",
                field="models",
                value=name,
            )
    return names


def _samplings(given: object) -> tuple[InferenceConfig, ...]:
    if given is None:
        return (InferenceConfig(),)
    listed = [given] if isinstance(given, InferenceConfig | Mapping) else given
    if isinstance(listed, str) or not isinstance(listed, Iterable):
        raise BadInput(
            f"sampling is of type {type(given).__name__}.",
            fix="Give a list of InferenceConfig.",
            field="sampling",
            value=given,
        )
    configs = tuple(_sampling(number, value) for number, value in enumerate(listed))
    if not configs:
        raise BadInput("sampling is empty.", fix="Leave it out for the defaults.", field="sampling", value=[])
    for number, config in enumerate(configs):
        if config in configs[:number]:
            raise BadInput(
                f"sampling[{number}] repeats sampling[{configs.index(config)}].",
                fix="Remove it; repeats= samples a cell several times.",
                field=f"sampling[{number}]",
                value=config,
            )
    return configs


def _sampling(number: int, value: object) -> InferenceConfig:
    if isinstance(value, InferenceConfig):
        return value
    if not isinstance(value, Mapping):
        raise BadInput(
            f"sampling[{number}] = {value!r} is not a sampling.",
            fix="Write {temperature: 0.7, max_tokens: 24}.",
            field=f"sampling[{number}]",
            value=value,
        )
    return InferenceConfig(**{str(key): found for key, found in value.items()})


def _whole(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadInput(
            f"{name} = {value!r} is not allowed.",
            fix=f"Give a whole number from {least} to {most:,}.",
            field=name,
            value=value,
        )
    return value
