"""Where two prompts differ: on how many inputs one is better, and the answers there, word by word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.experiments.report._diff import word_diff
from noa_lab.experiments.report._text import esc, prose
from noa_lab.experiments.statistics._scores import score_names, scored

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["differences_section", "wins"]

_EACH = 5
"""Inputs shown for each direction."""

_MOST = 60
"""Inputs shown in all."""


def wins(cells: pd.DataFrame, arm: str, over: str, score: str) -> pd.Series[float]:
    """The difference of the mean scores on each input that both arms have a score on, largest gain first."""
    frame = scored(cells, f"score.{score}")
    means = frame[frame["arm"].isin([arm, over])].groupby(["input_id", "setting", "arm"], sort=False)["value"].mean()
    both = means.unstack("arm").reindex(columns=[arm, over]).dropna()
    found: pd.Series[float] = (both[arm] - both[over]).groupby(level="input_id", sort=False).mean()
    return found.sort_values(ascending=False, kind="stable")


def differences_section(cells: pd.DataFrame, prompts: Sequence[str]) -> str:
    """A table of how often each prompt is better and worse than the first, and the inputs on which it differs most."""
    over, *arms = prompts or [""]
    scores = [score for score in score_names(cells) if cells[f"score.{score}"].notna().any()]
    rows, folds, shown = [], [], 0
    for arm in arms:
        for score in scores:
            found = wins(cells, arm, over, score)
            if found.empty:
                continue
            rows.append(_counts(arm, score, found))
            chosen = [*found[found > 0].index[:_EACH], *found[found < 0].index[::-1][:_EACH]]
            if chosen and shown < _MOST:
                shown += len(chosen)
                folds.append(_fold(cells, arm, over, score, [(str(key), float(found[key])) for key in chosen]))
    if not rows:
        return '<p class="quiet">No input has scores of two prompts.</p>'
    heads = ("prompt", "score", f"better than {over}", "worse", "equal")
    head = "".join(f'<th scope="col" role="columnheader">{esc(each)}</th>' for each in heads)
    return (
        '<div class="scroll" role="region" aria-label="Table of differences" tabindex="0"><table class="numbers stack" role="table">'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead><tbody role="rowgroup">{"".join(rows)}</tbody></table></div>'
        '<p class="quiet">Number of inputs; repeats are averaged first.</p>' + "".join(folds)
    )


def _counts(arm: str, score: str, found: pd.Series[float]) -> str:
    better, worse = int((found > 0).sum()), int((found < 0).sum())
    numbers = (("score", esc(score)), ("better", f"{better:,}"), ("worse", f"{worse:,}"))
    cells = "".join(f'<td role="cell" data-label="{label}">{text}</td>' for label, text in numbers)
    equal = f'<td role="cell" data-label="equal">{len(found) - better - worse:,}</td>'
    return f'<tr role="row"><th scope="row" role="rowheader">{esc(arm)}</th>{cells}{equal}</tr>'


def _fold(cells: pd.DataFrame, arm: str, over: str, score: str, chosen: Sequence[tuple[str, float]]) -> str:
    own = cells[
        cells["input_id"].astype(str).isin([key for key, _ in chosen]) & (cells["status"].astype(str) == "done")
    ]
    answers: dict[tuple[str, str], Any] = {}
    for prompt, key, answer in zip(own["prompt"].astype(str), own["input_id"].astype(str), own["answer"], strict=True):
        answers.setdefault((prompt, key), answer)
    items = "".join(
        _pair(key, difference, str(answers.get((over, key), "")), str(answers.get((arm, key), "")), (over, arm))
        for key, difference in chosen
    )
    title = f"{arm} and {over} on {score}: the inputs that differ most"
    return f"<details><summary>{esc(title)}</summary>{items}</details>"


def _pair(key: str, difference: float, before: str, after: str, names: tuple[str, str]) -> str:
    diff = word_diff(before, after)
    changed = (
        f'<p class="label">{esc(names[1])}, with what it adds and leaves out</p><p class="text diff" dir="auto">{diff}</p>'
        if diff
        else f'<p class="label">{esc(names[1])}</p>{prose(after)}'
    )
    return (
        f'<div class="pair"><p class="id">{esc(key)} <span class="label">{difference:+.3g}</span></p>'
        f'<p class="label">{esc(names[0])}</p>{prose(before)}{changed}</div>'
    )
