"""How servers are shown: a table, facts about one, its slots, snippets for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from noa_lab.tables import size
from noa_lab.widgets._job import seconds
from noa_lab.widgets._source import literal
from noa_lab.widgets._view import Block, Kind, cell, code, column, facts, progress, section, table

if TYPE_CHECKING:
    from noa_lab.server import ServerStatus

__all__ = ["KINDS", "OURS", "READY", "about", "loading", "servers_table", "snippets", "words_of"]

READY = ("ready", "busy")
"""States in which a server answers."""

OURS = ("starting", "ready", "busy", "draining", "unresponsive", "crashed")
"""States of servers that can be stopped from here."""

KINDS: dict[str, Kind] = {
    "starting": "busy",
    "ready": "ok",
    "busy": "busy",
    "draining": "busy",
    "crashed": "error",
    "unresponsive": "error",
    "elsewhere": "info",
    "foreign": "info",
    "stopped": "info",
}
"""What each state of a server means."""

_SETTINGS = (
    ("context_size", "Context"),
    ("slots", "Slots"),
    ("threads", "Threads"),
    ("ubatch_size", "Micro-batch"),
)
_COLUMNS = [
    column("Server"),
    column("State"),
    column("Address", wide=True),
    column("Slots", align="end"),
    column("Tokens/s", align="end"),
    column("Memory", align="end"),
    column("Up", align="end"),
    column("Holders", align="end"),
]
_SLOT_COLUMNS = [
    column("Slot", align="end"),
    column("State"),
    column("Prompt read", align="end"),
    column("Written", align="end"),
    column("Context", align="end"),
]


def servers_table(up: Sequence[ServerStatus], foreign: Sequence[ServerStatus], chosen: str) -> Block:
    """The servers that are up, and those that others have started; the name of each of ours chooses it."""
    rows = [_row(one, one.name == chosen) for one in (*up, *foreign)]
    return table("servers", "Servers", _COLUMNS, rows)


def words_of(one: ServerStatus) -> str:
    """The state in words, with how far the loading is."""
    return one.state if one.loaded is None else f"{one.state} {one.loaded:.0%}"


def _row(one: ServerStatus, chosen: bool) -> list[str | Block]:
    rate = one.tokens_per_second_now or one.tokens_per_second
    ours = one.state != "foreign"
    return [
        cell(one.name, action="choose", chosen=chosen, args={"server": one.name}) if ours else one.name,
        cell("", marks=[(KINDS.get(one.state, "info"), words_of(one))]),
        one.base_url or "-",
        f"{one.slots_busy} of {one.slots_total}" if one.slots_total else "-",
        f"{rate:.0f}" if rate else "-",
        size(one.memory_bytes) if one.memory_bytes else "-",
        seconds(one.uptime_seconds or 0),
        str(one.holders) if ours else "-",
    ]


def loading(one: ServerStatus) -> Block | None:
    """How far the loading of a server is, that somebody else may have started."""
    if one.state != "starting":
        return None
    return progress("loading", f"{one.name} is loading", one.loaded, one.phase or "starting")


def about(one: ServerStatus) -> Block:
    """What is known of one server."""
    settings, origins = one.settings or {}, one.origins or {}
    items: list[tuple[str, object]] = [("Model", one.model), ("Process", one.pid or "-")]
    items += [(label, _with_origin(settings[name], origins.get(name))) for name, label in _SETTINGS if name in settings]
    if one.memory_peak_bytes:
        items.append(("Memory", f"{size(one.memory_bytes)} now, {size(one.memory_peak_bytes)} at most"))
    if one.tokens_per_second:
        items.append(("Tokens/s", f"{one.tokens_per_second_now:.0f} now, {one.tokens_per_second:.0f} on average"))
    items += [
        ("Held by", ", ".join(one.held_by) or "nobody"),
        ("Stays", "yes, until it is stopped" if one.keep else "as long as it is held"),
    ]
    if one.restarts:
        times = "once" if one.restarts == 1 else f"{one.restarts} times"
        items.append(("Restarted", f"{times}; the last time because {one.last_failure}"))
    items += [("Note", note) for note in one.notes[:3]] + ([("Ended", one.reason)] if one.reason else [])
    blocks = [facts("server-facts", f"About {one.name}", items), _slots(one)]
    return section("about", f"About {one.name}", blocks)


def _with_origin(value: object, origin: str | None) -> str:
    return str(value) if origin in (None, "default", "given") else f"{value} ({origin})"


def _slots(one: ServerStatus) -> Block | None:
    if not one.slots:
        return None
    rows: list[list[str | Block]] = [
        [
            str(slot["id"]),
            cell("", marks=[("busy", "busy") if slot["busy"] else ("ok", "idle")]),
            f"{slot['read']:,}",
            f"{slot['written']:,}",
            f"{slot['context_size']:,}",
        ]
        for slot in one.slots
    ]
    return table("slots-table", "Slots", _SLOT_COLUMNS, rows)


def snippets(one: ServerStatus) -> Block:
    """How other programs talk to a server; the key is read from the environment and is never here."""
    shell = (
        f"# the key: noa-lab status --show-key, then export NOA_LAB_API_KEY=...\n"
        f"curl {one.base_url}/v1/chat/completions \\\n"
        f'  -H "Authorization: Bearer $NOA_LAB_API_KEY" -H "Content-Type: application/json" \\\n'
        f'  -d \'{{"messages": [{{"role": "user", "content": "What is GGUF?"}}], "max_tokens": 60}}\''
    )
    python = (
        f"import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{one.base_url}/v1", api_key=os.environ["NOA_LAB_API_KEY"])\n'
        f"answer = client.chat.completions.create(\n    model={literal(one.model)},\n    max_tokens=60,\n"
        f'    messages=[{{"role": "user", "content": "What is GGUF?"}}],\n)\n'
        f"print(answer.choices[0].message.content)"
    )
    return section(
        "use",
        "Use it from elsewhere",
        [code("curl", "curl", shell), code("openai", "Python, with the openai package", python)],
        folded=True,
    )
