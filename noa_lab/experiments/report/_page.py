"""The report of a run: one HTML file that opens anywhere, today and in ten years.

Nothing in it is fetched and nothing in it runs: the style sheet and the charts are in the page, a content security policy forbids the
rest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.experiments.report._answers import answers_table
from noa_lab.experiments.report._charts import difference_chart, means_chart
from noa_lab.experiments.report._differences import differences_section
from noa_lab.experiments.report._facts import RunFacts, RunLike, facts_of
from noa_lab.experiments.report._files import output_path
from noa_lab.experiments.report._style import STYLE
from noa_lab.experiments.report._tables import arm_scores, markdown_table, summary_table
from noa_lab.experiments.report._text import clean, esc, flat, number, plain, pre
from noa_lab.experiments.score._specs import declared_range, score_facts
from noa_lab.experiments.statistics._compare import verdicts
from noa_lab.experiments.statistics._latency import is_latency_pass
from noa_lab.experiments.statistics._margin import DEFAULT_MARGIN
from noa_lab.experiments.statistics._scores import score_names
from noa_lab.experiments.statistics._verdict import Verdicts
from noa_lab.paths import write_atomic

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["all_verdicts", "report_html", "write_markdown", "write_report"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

_BADGES = {
    "better": ("better", "▲ Better"),
    "worse": ("worse", "▼ Worse"),
    "same": ("same", "= Same"),
    "not enough data": ("open", "? Not enough data"),
}


_SHARES = "Times are shares of a machine that several cells used at once; they are not comparable between prompts."
_LATENCY = "Times are those of a latency pass: one request at a time, nothing reused, prompts in turn."
_TIMES = ("ttft_ms", "total_ms")


def all_verdicts(cells: pd.DataFrame, facts: RunFacts) -> Verdicts:
    """The verdict on each prompt over the first one, for each scorer that has any score; of a latency pass, on its times too."""
    present = set(cells["prompt"].astype(str))
    names = [name for name in facts.prompts if name in present]
    if len(names) < 2:
        return Verdicts([])
    over, arms, known = names[0], names[1:], score_facts(facts.scorers)
    found = list(verdicts(cells, over=over, arms=arms, margin=facts.margin, facts=known))
    if is_latency_pass(cells):
        times = [name for name in _TIMES if name in cells]
        found += verdicts(cells, over=over, arms=arms, on=times, margin=facts.margin)
    return Verdicts(found)


def write_report(run: RunLike, path: str | os.PathLike[str], *, margin: float = DEFAULT_MARGIN) -> Path:
    """Write the report of a run.

    Args:
        run: A run.
        path: A path that ends in .html; written as a whole or not at all.
        margin: The smallest difference that matters, for all verdicts.

    Returns:
        The absolute path.

    Raises:
        BadInput: When the path cannot be an HTML file.
    """
    target = output_path(path, ".html", ".htm")
    page = report_html(run.cells(), facts_of(run, margin))
    write_atomic(target, page.encode("utf-8", "replace"))
    return target


def write_markdown(run: RunLike, path: str | os.PathLike[str], *, margin: float = DEFAULT_MARGIN) -> Path:
    """Write a run's verdicts and its table of arms as Markdown; arguments as for `write_report`, the path ends in .md."""
    target = output_path(path, ".md", ".markdown")
    cells, facts = run.cells(), facts_of(run, margin)
    lines = [f"# {_one_line(facts.name or facts.run_id)}", ""]
    lines += [f"Run {_one_line(facts.run_id)}, {_one_line(facts.created)}.", ""]
    lines += [f"- **{each.outcome.capitalize()}.** {_one_line(each.sentence)}" for each in all_verdicts(cells, facts)]
    table, times = summary_table(cells), _SHARES
    if is_latency_pass(cells):
        table, times = table.rename(columns={"share_ms": "time, ms"}), _LATENCY
    lines += ["", markdown_table(table), times, ""]
    write_atomic(target, "\n".join(lines).encode("utf-8", "replace"))
    return target


def _one_line(text: str) -> str:
    return (
        " ".join(clean(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace("`", "'").replace("[", "\\[")
    )


def report_html(cells: pd.DataFrame, facts: RunFacts) -> str:
    """The report as a text; see `write_report`."""
    title = facts.name or facts.run_id
    cells = _in_order(cells, facts)
    sections = [
        ("verdict", "Which prompt is better?", _verdicts(cells, facts)),
        ("scores", "Scores", _charts(cells, facts)),
        ("summary", "Summary", _summary(cells, facts)),
        ("differences", "Where they differ", differences_section(cells, _prompts(cells, facts))),
        ("answers", "Answers", answers_table(cells, _prompts(cells, facts), _samplings(facts))),
        ("prompts", "Prompts", "".join(_prompt(name, prompt) for name, prompt in facts.prompts.items())),
        ("settings", "Sampling and scorers", _settings(facts)),
        ("provenance", "Provenance", _provenance(facts.provenance)),
        (
            "reproduce",
            "Run it again",
            pre(facts.snippet) if facts.snippet else '<p class="quiet">No snippet was given.</p>',
        ),
    ]
    links = "".join(f'<li><a href="#{anchor}">{esc(heading)}</a></li>' for anchor, heading, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{esc(heading)}</h2>{content}</section>'
        for anchor, heading, content in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>{esc(title)} · comparison report</title><style>{STYLE}</style></head><body>"
        '<a class="skip" href="#verdict">To the verdict</a>'
        f'<header><h1 dir="auto">{esc(title)}</h1>{_facts_line(cells, facts)}<nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f"<main>{_incomplete(cells)}{body}</main>"
        "<footer><p>Made by noa_lab. This page needs no network and runs no script; texts of models and users are shown as they are, "
        "never as HTML.</p></footer></body></html>\n"
    )


def _in_order(cells: pd.DataFrame, facts: RunFacts) -> pd.DataFrame:
    """The cells in the grid's order: cells come in the order of execution."""
    if not facts.inputs:
        return cells
    prompts = {name: place for place, name in enumerate(facts.prompts)}
    inputs = {name: place for place, name in enumerate(facts.inputs)}
    places = [
        (inputs.get(str(row[0]), len(inputs)), prompts.get(str(row[1]), len(prompts)), row[2], row[3], row[4])
        for row in cells[["input_id", "prompt", "model", "sampling", "repeat"]].itertuples(index=False)
    ]
    return cells.iloc[sorted(range(len(places)), key=places.__getitem__)]


def _prompts(cells: pd.DataFrame, facts: RunFacts) -> list[str]:
    present = list(dict.fromkeys(cells["prompt"].astype(str)))
    return [name for name in facts.prompts if name in present] + [name for name in present if name not in facts.prompts]


def _samplings(facts: RunFacts) -> list[str]:
    """What tells each sampling from the others; everything where there is one."""
    keys = list(dict.fromkeys(key for each in facts.sampling for key in each))
    if len(facts.sampling) > 1:
        keys = [key for key in keys if len({plain(each.get(key)) for each in facts.sampling}) > 1]
    return [", ".join(f"{key} {plain(each.get(key))}" for key in keys) or "defaults" for each in facts.sampling]


def _facts_line(cells: pd.DataFrame, facts: RunFacts) -> str:
    parts = [
        f"Run {facts.run_id}",
        facts.created,
        f"{len(_prompts(cells, facts))} prompts × {cells['input_id'].nunique():,} inputs",  # noqa: RUF001
        f"{len(cells):,} cells",
        ", ".join(facts.models),
    ]
    return f'<p class="quiet">{esc(" · ".join(part for part in parts if part))}</p>'


def _incomplete(cells: pd.DataFrame) -> str:
    status = cells["status"].astype(str)
    failed, done = int((status == "failed").sum()), int((status == "done").sum())
    waiting = len(cells) - failed - done
    if not failed and not waiting:
        return ""
    parts = [f"{failed:,} failed"] * bool(failed) + [f"{waiting:,} not run yet"] * bool(waiting)
    text = (
        f"Not every cell has an answer: {' and '.join(parts)} of {len(cells):,}. "
        "All numbers are over what is done; nothing missing counts as 0."
    )
    return f'<p class="notice" role="note">{text}</p>'


def _verdicts(cells: pd.DataFrame, facts: RunFacts) -> str:
    found = all_verdicts(cells, facts)
    if not found:
        reason = "Only one prompt was run" if len(_prompts(cells, facts)) < 2 else "No cell has a score"
        return f'<p class="quiet">{reason}, so there is nothing to compare.</p>'
    items = []
    for index, each in enumerate(found):
        css, words = _BADGES[each.outcome]
        items.append(
            f'<li class="verdict"><span class="badge {css}">{words}</span><p dir="auto">{esc(each.sentence)}</p>'
            f"{difference_chart(each, f'difference-{index}') if each.n_inputs else ''}"
            f'<p class="quiet">{esc(each.method)}; exact sign test p = {each.p_value:.3g}.</p></li>'
        )
    most = max(each.comparisons for each in found)
    several = (
        f" With {most} prompts over one baseline the intervals are wider, so that all of a scorer hold at once."
        if most > 1
        else ""
    )
    note = (
        f"Compared input by input over the baseline, {next(iter(facts.prompts))}. The dot is the difference of the means, the line its "
        f"95 % interval, the band the margin of {facts.margin:g} within which two prompts count as the same.{several}"
    )
    return f'<ul class="verdicts">{"".join(items)}</ul><p class="quiet">{esc(note)}</p>'


def _charts(cells: pd.DataFrame, facts: RunFacts) -> str:
    figures = []
    for index, score in enumerate(score_names(cells) if len(cells) else ()):
        scores = arm_scores(cells, score, bounds=declared_range(facts.scorers, score))
        figures.append(f"<figure><figcaption>{esc(score)}</figcaption>{means_chart(scores, f'means-{index}')}</figure>")
    if not figures:
        return '<p class="quiet">There are no scores.</p>'
    note = (
        "Mean over inputs with its 95 % interval. Intervals of single prompts may overlap although the paired difference is clear: "
        "the verdict decides."
    )
    return f'<div class="charts">{"".join(figures)}</div><p class="quiet">{note}</p>'


def _summary(cells: pd.DataFrame, facts: RunFacts) -> str:
    table = summary_table(cells)
    names = {
        "prompt_tokens": "prompt tokens",
        "completion_tokens": "answer tokens",
        "cached_share": "from prompt cache",
        "cached": "from earlier run",
        "share_ms": "ms" if is_latency_pass(cells) else "ms (share)",
    }
    heads = [names.get(str(column), str(column).removeprefix("score.")) for column in table.columns]
    rows = []
    for record in table.to_dict("records"):
        columns = [
            f'<td role="cell" data-label="{esc(head)}">{_summary_value(str(key), value, _samplings(facts))}</td>'
            for head, (key, value) in zip(heads[1:], list(record.items())[1:], strict=True)
        ]
        rows.append(
            f'<tr role="row"><th scope="row" role="rowheader">{esc(record["prompt"])}</th>{"".join(columns)}</tr>'
        )
    head = "".join(f'<th scope="col" role="columnheader">{esc(each)}</th>' for each in heads)
    return (
        '<div class="scroll" role="region" aria-label="Summary table" tabindex="0"><table class="numbers stack" role="table">'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead><tbody role="rowgroup">{"".join(rows)}</tbody></table></div>'
        f'<p class="quiet">Tokens and ms are means per answer. {_LATENCY if is_latency_pass(cells) else _SHARES}</p>'
    )


def _summary_value(key: str, value: Any, samplings: Sequence[str]) -> str:
    if key == "sampling" and str(value).isdigit() and int(value) < len(samplings):
        return esc(samplings[int(value)])
    if key == "cached_share":
        return "–" if value != value else f"{value:.0%}"  # noqa: RUF001
    if isinstance(value, float):
        return number(value, 3 if key.startswith("score.") else 0 if key == "share_ms" else 1)
    return esc(f"{value:,}" if isinstance(value, int) else value)


def _prompt(name: str, prompt: Any) -> str:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    turns = "".join(f'<p class="label">{esc(turn["role"])}</p>{pre(turn["content"])}' for turn in messages)
    return f'<h3 dir="auto">{esc(name)}</h3>{turns}'


def _settings(facts: RunFacts) -> str:
    rows = [
        (
            f"sampling {index + 1}",
            ", ".join(f"{key} {plain(value)}" for key, value in each.items() if value is not None),
        )
        for index, each in enumerate(facts.sampling)
    ]
    rows.append(("repeats", f"{facts.repeats} (greedy cells run once)" if facts.repeats > 1 else "1"))
    rows += [] if facts.seed is None else [("seed", str(facts.seed))]
    rows += [
        (f"scorer {spec.get('name', index)}", plain({k: v for k, v in spec.items() if k != "name"}))
        for index, spec in enumerate(facts.scorers)
    ]
    rows.append(("margin", f"{facts.margin:g}"))
    return _facts_table(rows)


def _provenance(facts: Mapping[str, Any]) -> str:
    """One table for the run, then one for each engine that answered."""
    engines = facts.get("engines")
    if not isinstance(engines, Mapping) or not all(isinstance(each, Mapping) for each in engines.values()):
        return _facts_table(flat(facts))
    parts = [_facts_table(flat({key: value for key, value in facts.items() if key != "engines"}))]
    parts += [f"<h3>{esc(model)}</h3>{_facts_table(flat(about))}" for model, about in engines.items()]
    return "".join(parts)


def _facts_table(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return '<p class="quiet">Nothing was recorded.</p>'
    body = "".join(
        f'<tr role="row"><th scope="row" role="rowheader">{esc(k)}</th><td role="cell">{esc(v)}</td></tr>'
        for k, v in rows
    )
    return f'<table class="facts stack" role="table"><tbody role="rowgroup">{body}</tbody></table>'
