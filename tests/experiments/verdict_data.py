"""Made-up cells for verdicts and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd


def cells_of(
    scores: Mapping[str, Sequence[Any]],
    *,
    name: str = "contains",
    repeats: int = 1,
    clusters: Iterable[Any] | None = None,
) -> pd.DataFrame:
    """Cells of one model and sampling, all done.

    Args:
        scores: Prompt -> for each input a score, or a list with one for each repeat.
        name: The scorer.
        repeats: Used where a score is no list.
        clusters: The inputs' clusters.
    """
    names = list(clusters) if clusters is not None else None
    rows = []
    for prompt, values in scores.items():
        for number, value in enumerate(values):
            turns = value if isinstance(value, list) else [value] * repeats
            for repeat, one in enumerate(turns):
                row = {
                    "run_id": "r-1",
                    "cell_id": f"{prompt}-{number}-{repeat}",
                    "prompt": prompt,
                    "input_id": f"i{number}",
                    "model": "m",
                    "sampling": 0,
                    "repeat": repeat,
                    "status": "done",
                    "answer": "an answer",
                    "error": None,
                    "finish_reason": "stop",
                    "prompt_tokens": 10,
                    "cached_tokens": 5,
                    "completion_tokens": 4,
                    "total_ms": 20.0,
                    "cached": False,
                    f"score.{name}": one,
                    "input.text": f"text {number}",
                }
                if names is not None:
                    row["input.cluster"] = names[number]
                rows.append(row)
    return pd.DataFrame(rows)
