"""Charts for notebooks. JupyterLab draws them itself: nothing is fetched."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal

from noa_lab.errors import BadInput, UnknownName
from noa_lab.experiments.report._differences import wins
from noa_lab.experiments.report._tables import arm_scores
from noa_lab.experiments.statistics._verdict import Verdicts

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

__all__ = ["ChartKind", "chart", "inputs_chart", "means_chart", "verdicts_chart"]

ChartKind = Literal["verdicts", "means", "inputs"]

KINDS: tuple[ChartKind, ...] = ("verdicts", "means", "inputs")

_MIME = "application/vnd.vegalite.v5+json"
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
"""JupyterLab's own Vega-Lite, which draws without a network, is of version 5; these charts use nothing newer."""

_MOST_INPUTS = 300
_COLOURS = {"better": "#1a7f37", "worse": "#a40e26", "same": "#4a3aa8", "not enough data": "#7a7f87"}


@functools.cache
def _shown() -> type[alt.LayerChart]:
    """A layered chart that notebooks draw without a network."""
    import altair as alt

    class LabChart(alt.LayerChart):
        def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
            del args, kwargs
            return {_MIME: {**self.to_dict(), "$schema": _SCHEMA}, "text/plain": "<a chart for JupyterLab>"}

    return LabChart


def _layered(*layers: Any, title: str) -> alt.LayerChart:
    return _shown()(layer=list(layers), title=title, width=420)


def verdicts_chart(verdicts: Verdicts) -> alt.LayerChart:
    """Each difference with its interval, and the margin within which two prompts count as the same.

    Raises:
        BadInput: When there is no verdict with an interval.
    """
    import altair as alt
    import pandas as pd

    rows = [
        {
            "comparison": f"{each.arm} over {each.over}, {each.on}",
            "difference": each.difference,
            "low": each.interval[0],
            "high": each.interval[1],
            "outcome": each.outcome,
            "inputs": each.n_inputs,
            "verdict": each.sentence,
        }
        for each in verdicts
        if each.n_inputs and math.isfinite(each.interval[0]) and math.isfinite(each.interval[1])
    ]
    if not rows:
        raise BadInput(
            "There is no comparison with an interval to draw.",
            fix="Wait until the run has answers and scores, then draw it again.",
            field="run",
            value=None,
        )
    margin = verdicts[0].margin
    colour = alt.Color("outcome:N", scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())))
    base = alt.Chart(pd.DataFrame(rows)).encode(y=alt.Y("comparison:N", title=None, sort=None))
    about = ["comparison:N", "outcome:N", "difference:Q", "low:Q", "high:Q", "inputs:Q", "verdict:N"]
    band = alt.Chart(pd.DataFrame({"from": [-margin], "to": [margin]})).mark_rect(opacity=0.15, color="#2757c4")
    zero = alt.Chart(pd.DataFrame({"at": [0.0]})).mark_rule(strokeDash=[3, 3], color="#7a7f87")
    return _layered(
        band.encode(x=alt.X("from:Q", title="difference"), x2="to:Q"),
        zero.encode(x="at:Q"),
        base.mark_rule(strokeWidth=3).encode(x="low:Q", x2="high:Q", color=colour),
        base.mark_point(filled=True, size=90, opacity=1).encode(x="difference:Q", color=colour, tooltip=about),
        title=f"Differences with {verdicts[0].confidence:.0%} intervals; the band is the margin",
    )


def means_chart(cells: pd.DataFrame, score: str, bounds: tuple[float, float] | None = None) -> alt.LayerChart:
    """Each prompt's mean on one scorer with its 95 % interval; the paired difference can be clear although these overlap."""
    import altair as alt
    import pandas as pd

    rows = [
        {
            "prompt": each.prompt,
            "mean": each.mean,
            "low": each.interval.low,
            "high": each.interval.high,
            "inputs": each.n,
        }
        for each in arm_scores(cells, score, bounds=bounds)
        if each.n
    ]
    base = alt.Chart(pd.DataFrame(rows)).encode(y=alt.Y("prompt:N", title=None, sort=None))
    return _layered(
        base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q", title=score), x2="high:Q"),
        base.mark_point(filled=True, size=90, opacity=1).encode(
            x="mean:Q", tooltip=["prompt:N", "mean:Q", "low:Q", "high:Q", "inputs:Q"]
        ),
        title=f"Mean {score} for each prompt, with 95 % intervals",
    )


def inputs_chart(cells: pd.DataFrame, arm: str, over: str, score: str) -> alt.LayerChart:
    """The difference on every input, the largest gain first; the first 300 inputs."""
    import altair as alt
    import pandas as pd

    found = wins(cells, arm, over, score)
    frame = pd.DataFrame({"input": found.index.astype(str), "difference": found.to_numpy(dtype=float)})
    frame["outcome"] = ["better" if each > 0 else "worse" if each < 0 else "same" for each in frame["difference"]]
    colour = alt.Color("outcome:N", scale=alt.Scale(domain=list(_COLOURS)[:3], range=list(_COLOURS.values())[:3]))
    bars = (
        alt.Chart(frame.head(_MOST_INPUTS))
        .mark_bar()
        .encode(
            x=alt.X("input:N", sort=None, axis=alt.Axis(labels=len(frame) <= 40), title="input"),
            y=alt.Y("difference:Q", title=f"{arm} minus {over}"),
            color=colour,
            tooltip=["input:N", "difference:Q"],
        )
    )
    return _layered(bars, title=f"{score}: {arm} minus {over}, input by input")


def chart(
    cells: pd.DataFrame,
    kind: ChartKind,
    verdicts: Verdicts,
    *,
    on: str | None = None,
    arm: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> alt.LayerChart:
    """A chart of a run; see `RunFindings.chart`."""
    if kind not in KINDS:
        raise UnknownName.among("chart", str(kind), KINDS)
    if kind == "verdicts":
        return verdicts_chart(verdicts)
    names = [each.on for each in verdicts]
    score = on or (names[0] if names else "")
    if kind == "means":
        return means_chart(cells, score, bounds)
    chosen = next((each for each in verdicts if each.on == score and arm in {None, each.arm}), None)
    if chosen is None:
        raise UnknownName.among("prompt", str(arm), {each.arm for each in verdicts}, where="the comparisons")
    return inputs_chart(cells, chosen.arm, chosen.over, score)
