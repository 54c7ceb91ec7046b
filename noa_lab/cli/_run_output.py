"""A run in the terminal: answers, means, verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.cli._terminal import print_json, print_table, say

if TYPE_CHECKING:
    from noa_lab.experiments import Run

__all__ = ["show_run"]

ANSWER_WIDTH = 36
NAME_WIDTH = 24
SHARES = ("cached_share", "share_ms")
"""Columns that say how the machine was shared, not how the prompts differ; the report explains them."""


def show_run(run: Run, margin: float, html: Path | None, *, as_json: bool) -> None:
    """Print a run, and write its report if asked to."""
    verdicts = run.verdicts(margin=margin)
    report = run.report(html, margin=margin).resolve() if html is not None else None
    if as_json:
        print_json({**run.as_dict(), "verdicts": verdicts.as_dicts(), "report": str(report) if report else None})
        return
    for plan in run.plan:
        if plan.executor:
            say(f"Plan: {plan}")
    _print_answers(run)
    _print_means(run)
    for verdict in verdicts:
        say(f"Verdict: {verdict.sentence}")
    if any(verdict.comparisons > 1 for verdict in verdicts):
        say("The intervals of a scorer hold all at once: they are wider than that of a single comparison.")
    say(f"Run: {run.run_id}")
    if report is not None:
        say(f"Report: {report}")


def _print_answers(run: Run) -> None:
    cells = run.cells()
    by_input: dict[str, dict[str, Any]] = {item.id: {} for item in run.grid.inputs}
    for row in cells[cells["repeat"] == 0].to_dict("records"):
        by_input[str(row["input_id"])][str(row["prompt"])] = row
    rows = []
    for input_id, by_prompt in by_input.items():
        line = [_short(input_id, NAME_WIDTH)]
        for prompt in run.prompts:
            row = by_prompt.get(prompt, {})
            marks = "/".join(_number(row.get(f"score.{name}")) for name in run.scorers)
            line += [_short(str(row.get("answer") or row.get("error") or ""), ANSWER_WIDTH), marks]
        rows.append(line)
    heads = [head for prompt in run.prompts for head in (_short(prompt, NAME_WIDTH), "/".join(run.scorers))]
    print_table(
        f"{run.name or run.run_id}: {len(run.prompts)} prompts x {len(by_input)} inputs", ("input", *heads), rows
    )


def _print_means(run: Run) -> None:
    """One row for each prompt; counts that are zero for all of them are left out."""
    from noa_lab.experiments import summary_table

    summary = summary_table(run.cells())
    empty = [name for name in ("failed", "pending", "cached") if name in summary and not summary[name].any()]
    summary = summary.drop(columns=[*empty, *(name for name in SHARES if name in summary)])
    rows = [[_short(_number(value), NAME_WIDTH) for value in row] for row in summary.itertuples(index=False)]
    print_table("Means", [str(column).removeprefix("score.") for column in summary.columns], rows)


def _short(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _number(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.3g}"
    return "" if value is None else str(value)
