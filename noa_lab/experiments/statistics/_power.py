"""Before the run: how many inputs a question needs, or how small a difference so many inputs can show."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput
from noa_lab.experiments.statistics._margin import DEFAULT_MARGIN
from noa_lab.experiments.statistics._needed import MIN_UNITS, POWER, needed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["InputPlan", "plan_inputs"]

_MARGINS = (0.02, 0.03, 0.05, 0.1, 0.15, 0.2)
_REPEATS = (1, 2, 4, 8)
_SHARED_BASELINE = 0.5
"""Correlation of two differences from one baseline whose arms are equally noisy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPlan:
    """How many inputs, and what was assumed.

    Attributes:
        margin: The smallest difference that matters, in the score's own units.
        power: Probability of seeing a true difference of `margin`.
        confidence: Of the intervals that will judge; of all at once, where there are several prompts.
        prompts: Prompts, the baseline included.
        repeats: Answers for each prompt and input, averaged.
        deviation: Standard deviation of the differences between two prompts' single answers to one input.
        by_chance: Share of that variance that comes from sampling, and shrinks with repeats.
        cluster_size: Inputs in a cluster; 1 where inputs come one by one.
        alike: Intraclass correlation of the differences within a cluster.
    """

    margin: float
    power: float = POWER
    confidence: float = 0.95
    prompts: int = 2
    repeats: int = 1
    deviation: float
    by_chance: float = 0.5
    cluster_size: float = 1.0
    alike: float = 0.0

    @property
    def averaged_deviation(self) -> float:
        """Deviation of the differences with repeats averaged, by input; within a cluster as if inputs were independent."""
        chance = self.by_chance / self.repeats
        design = 1 + (self.cluster_size - 1) * self.alike
        return self.deviation * math.sqrt((1 - self.by_chance + chance) * design)

    @property
    def single_confidence(self) -> float:
        """What each interval needs so that all of them hold with `confidence`."""
        return _single_confidence(self.prompts, self.confidence)

    @property
    def inputs(self) -> int:
        """Inputs needed to see a true difference of `margin` with `power`."""
        return self._total(self.power)

    @property
    def inputs_same(self) -> int:
        """Inputs needed to show "same" with `power`, if there is no difference at all."""
        return self._total((1 + self.power) / 2)

    @property
    def clusters(self) -> int | None:
        """Clusters that hold these inputs; None without clusters."""
        return math.ceil(self.inputs / self.cluster_size) if self.cluster_size > 1 else None

    @property
    def cells(self) -> int:
        """Answers to be had for one model and one sampling."""
        return self.inputs * self.prompts * self.repeats

    def _total(self, power: float) -> int:
        # Counted in clusters: the allowance for Student's t is so many independent units.
        deviation = self.averaged_deviation / math.sqrt(self.cluster_size)
        found = needed(deviation, self.margin, confidence=self.single_confidence, power=power)
        return math.ceil(max(found, MIN_UNITS) * self.cluster_size)

    def power_with(self, inputs: int) -> float:
        """Probability of seeing a true difference of `margin` with so many inputs (normal approximation)."""
        from scipy.special import ndtr, ndtri

        z = float(ndtri((1 + self.single_confidence) / 2))
        usable = max(inputs - self.cluster_size * z * z / 2, 0.0)
        return float(ndtr(self.margin * math.sqrt(usable) / self.averaged_deviation - z))

    def table(self) -> pd.DataFrame:
        """Inputs needed for several margins (rows) and repeats (columns), all else as planned."""
        import pandas as pd

        margins: list[float] = sorted({self.margin, *(each for each in _MARGINS if each < 2 * self.deviation)})
        rows = {
            margin: {repeats: replace(self, margin=margin, repeats=repeats).inputs for repeats in _REPEATS}
            for margin in margins
        }
        frame = pd.DataFrame.from_dict(rows, orient="index")
        return frame.rename_axis(index="margin", columns="repeats")

    @property
    def sentence(self) -> str:
        """The plan in plain English."""
        clusters = f" in {self.clusters:,} clusters" if self.clusters is not None else ""
        family = f" for each of {self.prompts - 1} comparisons" if self.prompts > 2 else ""
        times = f", {self.repeats} answers each" if self.repeats > 1 else ""
        return (
            f"About {self.inputs:,} inputs{clusters}{times} give {self.power:.0%} power to see a true difference of "
            f"{self.margin:.3g}{family}; about {self.inputs_same:,} to show that two equal prompts are the same within {self.margin:.3g}. "
            f"That is {self.cells:,} answers. Assumed: the difference between single answers to one input has a deviation of "
            f"{self.deviation:.2g}, {self.by_chance:.0%} of its variance by chance."
        )

    def __str__(self) -> str:
        return self.sentence

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        names = (
            "margin",
            "power",
            "confidence",
            "prompts",
            "repeats",
            "deviation",
            "by_chance",
            "cluster_size",
            "alike",
        )
        found = ("inputs", "inputs_same", "clusters", "cells", "sentence")
        return {name: getattr(self, name) for name in (*names, *found)}

    def _repr_html_(self) -> str:
        frame = self.table()
        heads = "".join(f"<th>{repeats} repeat{'s' if repeats > 1 else ''}</th>" for repeats in _REPEATS)
        rows = "".join(
            f"<tr><th>{margin:.3g}</th>{''.join(f'<td>{count:,}</td>' for count in row)}</tr>"
            for margin, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)
        )
        return (
            f"<p>{html.escape(self.sentence)}</p><table><caption>Inputs needed, by the smallest difference that matters</caption>"
            f"<thead><tr><th>margin</th>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        )


def plan_inputs(
    margin: float | None = None,
    *,
    inputs: int | None = None,
    power: float = POWER,
    confidence: float = 0.95,
    prompts: int = 2,
    repeats: int = 1,
    disagree: float = 0.3,
    deviation: float | None = None,
    by_chance: float = 0.5,
    cluster_size: float = 1.0,
    alike: float = 0.0,
) -> InputPlan:
    """How many inputs a comparison needs; or, with `inputs`, how small a difference it can show.

    n = (z + y)^2 s^2 / margin^2 (E. Miller, arXiv 2411.00640, section 5), with s^2 = deviation^2 (1 - by_chance + by_chance / repeats),
    times the design effect 1 + (cluster_size - 1) alike of clusters. With several prompts, z is Dunnett's.

    Args:
        margin: The smallest difference that matters, in the score's own units; default 0.05.
        inputs: How many there are; then the plan's `margin` is the smallest difference that they show with `power`.
        power: Probability of seeing a true difference of `margin`.
        confidence: Of the verdicts.
        prompts: How many, the baseline included.
        repeats: Answers for each prompt and input.
        disagree: For 0/1 scores: the share of inputs on which single answers of two prompts are scored differently. 0.3 is usual for
            prompts that differ in more than words; a first small run shows it.
        deviation: For other scores, instead of `disagree`: standard deviation of the differences between single answers.
        by_chance: Share of their variance that comes from sampling alone; 0 for greedy answers.
        cluster_size: Inputs in a cluster, on average.
        alike: Intraclass correlation of the differences within a cluster: 0 where inputs of a cluster are as different as any, 1 where
            they all say the same.

    Raises:
        BadInput: For a number out of its range, or with both `margin` and `inputs`.
    """
    if margin is not None and inputs is not None:
        fix = "Leave one of the two out: it is what is worked out."
        raise BadInput("Both margin and inputs are given.", fix=fix, field="inputs", value=inputs)
    _check("power", power, 0.5, 0.999)
    _check("confidence", confidence, 0.5, 0.9999)
    _check("prompts", prompts, 2, 1_000)
    _check("repeats", repeats, 1, 10_000)
    _check("disagree", disagree, 1e-6, 1.0)
    _check("by_chance", by_chance, 0.0, 1.0)
    _check("cluster_size", cluster_size, 1.0, 1e6)
    _check("alike", alike, 0.0, 1.0)
    chosen = math.sqrt(disagree) if deviation is None else deviation
    _check("deviation", chosen, 1e-9, 1e12)
    plan = InputPlan(
        margin=DEFAULT_MARGIN if margin is None else margin,
        power=power,
        confidence=confidence,
        prompts=prompts,
        repeats=repeats,
        deviation=chosen,
        by_chance=by_chance,
        cluster_size=cluster_size,
        alike=alike,
    )
    _check("margin", plan.margin, 1e-9, 1e12)
    return plan if inputs is None else replace(plan, margin=_smallest(plan, inputs))


def _smallest(plan: InputPlan, inputs: int) -> float:
    """The margin at which `plan` needs just so many inputs."""
    from scipy.special import ndtri

    least = math.ceil(MIN_UNITS * plan.cluster_size)
    _check("inputs", inputs, least, 1_000_000_000)
    z, y = float(ndtri((1 + plan.single_confidence) / 2)), float(ndtri(plan.power))
    return (z + y) * plan.averaged_deviation / math.sqrt(inputs - plan.cluster_size * z * z / 2)


def _check(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadInput(
            f"{name} = {value!r} is not allowed.",
            fix=f"Use a number from {low:g} to {high:g}.",
            field=name,
            value=value,
        )


def _single_confidence(prompts: int, confidence: float) -> float:
    if prompts <= 2:
        return confidence
    import numpy as np
    from scipy.special import ndtr

    from noa_lab.experiments.statistics._simultaneous import joint_quantile

    matrix = np.full((prompts - 1, prompts - 1), _SHARED_BASELINE)
    np.fill_diagonal(matrix, 1.0)
    return float(2 * ndtr(joint_quantile(matrix, 1e6, confidence)) - 1)
