"""Parts of a grid: what is left out of it, and inputs drawn from many."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments.grid._inputs import Input
from noa_lab.experiments.grid._prompts import content_hash

if TYPE_CHECKING:
    from noa_lab.experiments.grid._grid import Grid

__all__ = ["Exclusions", "draw_inputs"]

_KEYS = ("prompt", "model", "input", "tag", "sampling")


def draw_inputs(inputs: Sequence[Input], count: int, seed: int) -> tuple[Input, ...]:
    """Some of the inputs, in their order.

    Each input is ranked by a hash of the seed and of what its own seeds are derived from, so that which are drawn depends on nothing
    else: adding an input takes the place of one at most.
    """
    ranked = sorted(inputs, key=lambda found: content_hash([seed, "sample", found.seed_key]))
    drawn = {found.id for found in ranked[:count]}
    return tuple(found for found in inputs if found.id in drawn)


class Exclusions:
    """What is left out of a grid.

    Args:
        given: Mappings, see `Grid`.
        prompts: The grid's prompts.
        inputs: Its inputs.
        models: Its models; empty where the choice is left to the lab.
        samplings: How many samplings it has.

    Raises:
        BadInput: When a mapping has no key or an unknown one.
        UnknownName: When it names what the grid has not.
    """

    def __init__(
        self,
        given: Iterable[Mapping[str, Any]],
        *,
        prompts: Collection[str],
        inputs: Sequence[Input],
        models: Collection[str],
        samplings: int,
    ) -> None:
        known: dict[str, Collection[Any]] = {
            "prompt": prompts,
            "model": models,
            "input": [found.id for found in inputs],
            "tag": {tag for found in inputs for tag in found.tags},
            "sampling": range(samplings),
        }
        self._rules = [_rule(number, rule, known) for number, rule in enumerate(_listed(given))]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def has(self, model: str, prompt: str, found: Input, sampling: int) -> bool:
        """Whether a place of the grid is left out."""
        values: dict[str, set[Any]] = {
            "prompt": {prompt},
            "model": {model},
            "input": {found.id},
            "tag": set(found.tags),
            "sampling": {sampling},
        }
        return any(all(values[key] & wanted for key, wanted in rule.items()) for rule in self._rules)

    def leaves_some(self, grid: Grid) -> bool:
        """Whether anything of the grid is left."""
        if not self._rules:
            return True
        places = itertools.product(grid.models or ("",), grid.prompts, grid.inputs, range(len(grid.sampling)))
        return any(not self.has(*place) for place in places)

    def as_list(self) -> list[dict[str, list[Any]]]:
        """Plain data, of which the same exclusions can be made."""
        return [{key: sorted(values) for key, values in rule.items()} for rule in self._rules]


def _listed(given: object) -> list[Any]:
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise BadInput(
            "exclude is not a list of mappings.",
            fix='Write exclude=[{"prompt": "plain", "model": "small"}].',
            field="exclude",
            value=given,
        )
    return list(given)


def _rule(number: int, given: object, known: Mapping[str, Collection[Any]]) -> dict[str, set[Any]]:
    if not isinstance(given, Mapping) or not given:
        raise BadInput(
            f"exclude[{number}] = {given!r} says nothing.",
            fix=f"Give a mapping with some of {', '.join(_KEYS)}.",
            field=f"exclude[{number}]",
            value=given,
        )
    rule: dict[str, set[Any]] = {}
    for key, value in given.items():
        if key not in _KEYS:
            raise UnknownName.among("key", str(key), _KEYS, where=f"exclude[{number}]")
        values = set(value) if isinstance(value, list | tuple | set) else {value}
        for one in values:
            # A model may be named before the lab has chosen one.
            if one not in known[key] and (key != "model" or known[key]):
                raise UnknownName.among(key, str(one), map(str, known[key]), where=f"exclude[{number}]")
        rule[key] = values
    return rule
