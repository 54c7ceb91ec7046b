"""JSON in a model's reply."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from noa_lab.inference.structure._result import How

__all__ = ["NoJson", "read_lenient", "read_strict"]

_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_MOST_STARTS = 40


class NoJson(Exception):
    """The reply holds no JSON; the message says what was found."""


def read_strict(reply: str) -> Any:
    """The reply as JSON; white space around it is allowed, nothing else."""
    try:
        return json.loads(reply, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NoJson(f"it is no JSON ({error})") from None


def read_lenient(reply: str) -> Iterator[tuple[Any, How]]:
    """The JSON values that a reply may mean, the likeliest first.

    The whole; fenced blocks; objects and lists within the text; then the same with small faults repaired (missing quotes and commas,
    comments, a missing end).
    """
    fenced = [match[1] for match in _FENCE.finditer(reply)]
    texts: list[tuple[str, How]] = [(reply, "exact"), *((block, "extracted") for block in fenced)]
    for text, how in texts:
        with contextlib.suppress(NoJson):
            yield read_strict(text), how
    decoder = json.JSONDecoder(parse_constant=_refuse)
    for match in itertools.islice(re.finditer(r"[{\[]", reply), _MOST_STARTS):
        with contextlib.suppress(ValueError, RecursionError):
            yield decoder.raw_decode(reply, match.start())[0], "extracted"
    for block in fenced or [reply]:
        with contextlib.suppress(NoJson):
            yield _repaired(block), "repaired"


def _repaired(text: str) -> Any:
    from json_repair import repair_json

    start = re.search(r"[{\[]", text)
    if start is None:
        raise NoJson("it holds no object and no list")
    try:
        found = repair_json(text[start.start() :], return_objects=True, skip_json_loads=True)
    except (ValueError, RecursionError) as error:
        raise NoJson(f"its JSON cannot be repaired ({error})") from None
    if not found:
        raise NoJson("its JSON is empty or cannot be repaired")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
