"""Static SVG for reports: no script, readable at 300 pixels, described for those who do not see it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from noa_lab.experiments.report._tables import ArmScore
from noa_lab.experiments.report._text import esc, number
from noa_lab.experiments.statistics._verdict import Verdict

__all__ = ["difference_chart", "means_chart"]

_WIDTH = 400
_PAD = 10
_ROW = 46
_LABEL = 26


def _x(value: float, low: float, high: float) -> float:
    share = (min(max(value, low), high) - low) / (high - low) if high > low else 0.5
    return round(_PAD + share * (_WIDTH - 2 * _PAD), 1)


def _short(text: str, most: int = _LABEL) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _bar(left: float, right: float, y: float) -> str:
    """An interval with end caps; at least a pixel long."""
    right = max(right, left + 1)
    return (
        f'<path class="bar" d="M{left} {y}H{right}"/>'
        f'<path class="cap" d="M{left} {y - 5}V{y + 5}M{right} {y - 5}V{y + 5}"/>'
    )


def _svg(identity: str, height: float, title: str, description: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {_WIDTH} {height:g}" aria-labelledby="{identity}-t {identity}-d">'
        f'<title id="{identity}-t">{esc(title)}</title><desc id="{identity}-d">{esc(description)}</desc>{"".join(parts)}</svg>'
    )


def means_chart(scores: Sequence[ArmScore], identity: str) -> str:
    """Each prompt's mean with its 95 % interval on one scorer.

    Args:
        scores: One for each prompt, all of one scorer.
        identity: A name for ids in the page: letters, digits and dashes.
    """
    low, high = scores[0].low, scores[0].high
    bottom = _ROW * len(scores) + 4
    ticks = [low + (high - low) * step / 4 for step in range(5)]
    parts = [f'<path class="grid" d="M{_x(tick, low, high)} 4V{bottom}"/>' for tick in ticks]
    anchors = ("start", "middle", "middle", "middle", "end")
    for tick, anchor in zip(ticks, anchors, strict=True):
        edge = {"start": 0, "end": _WIDTH}.get(anchor, _x(tick, low, high))
        parts.append(f'<text class="tick" x="{edge}" y="{bottom + 16}" text-anchor="{anchor}">{tick:.4g}</text>')
    sentences = []
    for index, each in enumerate(scores):
        top = index * _ROW
        certain = not math.isnan(each.interval.low)
        span = f"{number(each.interval.low)} to {number(each.interval.high)}" if certain else "not known"
        parts.append(f'<text class="name" x="0" y="{top + 18}">{esc(_short(each.prompt))}</text>')
        value = f"{number(each.mean)}  ({span})" if each.n else "no scores"
        parts.append(f'<text class="value" x="{_WIDTH}" y="{top + 18}" text-anchor="end">{value}</text>')
        if each.n:
            y = top + 34
            if certain:
                parts.append(_bar(_x(each.interval.low, low, high), _x(each.interval.high, low, high), y))
            parts.append(f'<circle class="dot" cx="{_x(each.mean, low, high)}" cy="{y}" r="5.5"/>')
            sentences.append(f"{each.prompt}: {number(each.mean)}, interval {span}, n = {each.n}")
        else:
            sentences.append(f"{each.prompt}: no scores")
    title = f"Mean of {scores[0].score} for each prompt, with 95 % intervals"
    return _svg(identity, bottom + 22, title, "; ".join(sentences) + ".", parts)


def difference_chart(verdict: Verdict, identity: str) -> str:
    """The difference of two prompts with its interval, 0, and the band within which they count as the same; empty without an interval."""
    if not all(map(math.isfinite, verdict.interval)):
        return ""
    reach = max(abs(verdict.interval[0]), abs(verdict.interval[1]), 2 * verdict.margin)
    low, high = -reach, reach
    left, right = _x(-verdict.margin, low, high), _x(verdict.margin, low, high)
    zero, y = _x(0, low, high), 18
    parts = [
        f'<rect class="band" x="{left}" y="4" width="{round(right - left, 1)}" height="28"/>',
        f'<path class="zero" d="M{zero} 2V34"/>',
        _bar(_x(verdict.interval[0], low, high), _x(verdict.interval[1], low, high), y),
    ]
    if verdict.difference == verdict.difference:
        parts.append(f'<circle class="dot" cx="{_x(verdict.difference, low, high)}" cy="{y}" r="5.5"/>')
    for text, anchor, x in ((f"{low:+.2f}", "start", 0), ("0", "middle", zero), (f"{high:+.2f}", "end", _WIDTH)):
        parts.append(f'<text class="tick" x="{x}" y="48" text-anchor="{anchor}">{text}</text>')
    for text, anchor, x in (
        (f"← {_short(verdict.over, 20)}", "start", 0),
        (f"{_short(verdict.arm, 20)} →", "end", _WIDTH),
    ):
        parts.append(f'<text class="name" x="{x}" y="66" text-anchor="{anchor}">{esc(text)}</text>')
    title = f"Difference on {verdict.on}: {verdict.arm} minus {verdict.over}"
    description = f"{verdict.sentence} The shaded band is the margin of {verdict.margin:g} to both sides of 0."
    return _svg(identity, 72, title, description, parts)
