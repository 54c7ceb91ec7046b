"""The comparison table: a row for each input, a column for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.experiments.report._text import esc, plain, prose
from noa_lab.experiments.statistics._scores import score_names

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MAX_CELLS", "answers_table"]

MAX_CELLS = 2_000
"""Most cells that the table shows: browsers stay quick, and nobody reads further."""

Row = Mapping[str, Any]


def answers_table(cells: pd.DataFrame, prompts: Sequence[str], samplings: Sequence[str]) -> str:
    """The table as HTML, cut after `MAX_CELLS` cells.

    Args:
        cells: Cells with the columns of `Run.cells()`.
        prompts: The prompts' names, in order.
        samplings: How each sampling is called, by its index.
    """
    scores = score_names(cells)
    fields = [str(column) for column in cells.columns if str(column).startswith("input.")]
    labelled = [key for key in ("model", "sampling") if key in cells and cells[key].astype(str).nunique() > 1]
    by_input: dict[str, list[Row]] = {}
    for record in cells.to_dict("records"):
        row = {str(key): value for key, value in record.items()}
        by_input.setdefault(str(row["input_id"]), []).append(row)
    shown, body = 0, []
    for input_id, rows in by_input.items():
        if shown and shown + len(rows) > MAX_CELLS:
            break
        shown += len(rows)
        columns = [f'<th scope="row" role="rowheader">{_input(input_id, rows[0], fields)}</th>']
        for prompt in prompts:
            own = [row for row in rows if str(row["prompt"]) == prompt]
            columns.append(
                f'<td role="cell" data-label="{esc(prompt)}">{_column(own, scores, labelled, samplings)}</td>'
            )
        body.append(f'<tr role="row">{"".join(columns)}</tr>')
    cut = (
        ""
        if len(body) == len(by_input)
        else f'<p class="notice">The table shows the first {len(body):,} of {len(by_input):,} inputs ({shown:,} of {len(cells):,} cells); '
        "all numbers above are over the whole run. The CSV export has every cell.</p>"
    )
    heads = "".join(f'<th scope="col" role="columnheader">{esc(prompt)}</th>' for prompt in prompts)
    # The roles say again what display: block takes away on narrow screens.
    return (
        f'{cut}<div class="scroll" role="region" aria-label="Table of answers" tabindex="0">'
        f'<table class="answers stack wide" role="table" style="--columns: {len(prompts)}">'
        f'<thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader">Input</th>{heads}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(body)}</tbody></table></div>'
    )


def _input(input_id: str, row: Row, fields: Sequence[str]) -> str:
    parts = [f'<div class="id">{esc(input_id)}</div>']
    for field in fields:
        value = row.get(field)
        if not _missing(value) and value not in ("", [], ()):
            name = esc(field.removeprefix("input."))
            parts.append(f'<div class="field"><b>{name}</b>{prose(plain(value))}</div>')
    return "".join(parts)


def _column(rows: Sequence[Row], scores: Sequence[str], labelled: Sequence[str], samplings: Sequence[str]) -> str:
    """One prompt's answers to one input; equal ones with equal scores are shown once."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = (*(str(row.get(name)) for name in ("model", "sampling", "status", "answer", "error", "finish_reason")),)
        groups.setdefault((*key, *(_mark(name, row.get(f"score.{name}")) for name in scores)), []).append(row)
    return "".join(_answer(group, len(rows), scores, labelled, samplings) for group in groups.values()) or (
        '<p class="label">no such cell</p>'
    )


def _answer(
    group: Sequence[Row], of: int, scores: Sequence[str], labelled: Sequence[str], samplings: Sequence[str]
) -> str:
    row = group[0]
    label = [_place(name, row[name], samplings) for name in labelled]
    if of > 1:
        turns = sorted({int(each.get("repeat") or 0) + 1 for each in group})
        label.append(f"repeat{'s' if len(turns) > 1 else ''} {', '.join(map(str, turns))}")
    if row.get("finish_reason") == "length" and str(row["status"]) == "done":
        label.append("cut at the token limit")
    if any(each.get("cached") is True or each.get("cached") == 1 for each in group):
        label.append("answer from an earlier run")
    head = f'<p class="label">{esc(" · ".join(label))}</p>' if label else ""
    status = str(row["status"])
    if status == "failed":
        error = row.get("error")
        body = f'<p class="text error" dir="auto">Failed: {esc("no reason given" if _missing(error) else str(error)[:1000])}</p>'
    elif status != "done":
        body = f'<p class="label">{esc(status)}: no answer yet</p>'
    else:
        marks = "".join(_mark(name, row.get(f"score.{name}"), row.get(f"score_error.{name}")) for name in scores)
        answer = row.get("answer")
        body = prose("" if _missing(answer) else answer) + (f'<ul class="marks">{marks}</ul>' if marks else "")
    return f'<div class="answer">{head}{body}</div>'


def _place(name: str, value: object, samplings: Sequence[str]) -> str:
    if name == "sampling" and str(value).isdigit() and int(str(value)) < len(samplings):
        return samplings[int(str(value))]
    return str(value)


def _mark(name: str, value: object, error: object = None) -> str:
    """A score in words: colour only repeats them."""
    if not _missing(error):
        return f'<li class="fail">{esc(name)}: scorer failed: {esc(str(error)[:300])}</li>'
    if _missing(value):
        return f"<li>{esc(name)}: not scored</li>"
    score = float(value)  # type: ignore[arg-type]  # a bool or a number
    if score == 1.0:
        return f'<li class="pass">✓ {esc(name)}: pass</li>'
    if score == 0.0:
        return f'<li class="fail">✗ {esc(name)}: fail</li>'
    return f"<li>{esc(name)}: {score:.3g}</li>"


def _missing(value: object) -> bool:
    import pandas as pd

    return value is None or (not isinstance(value, str | list | tuple | dict) and bool(pd.isna(value)))  # type: ignore[call-overload]
