"""How servers are shown: a table, facts about one, snippets for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from noa_lab.widgets._job import seconds
from noa_lab.widgets._models import megabytes
from noa_lab.widgets._source import literal
from noa_lab.widgets._view import Block, Kind, cell, code, column, facts, section, table

if TYPE_CHECKING:
    from noa_lab.server import ServerStatus

__all__ = ["KINDS", "READY", "about", "servers_table", "snippets"]

READY = ("ready", "busy")
"""States in which a server answers."""

KINDS: dict[str, Kind] = {
    "starting": "busy",
    "ready": "ok",
    "busy": "busy",
    "draining": "busy",
    "crashed": "error",
    "unresponsive": "error",
    "elsewhere": "info",
    "stopped": "info",
}
"""What each state of a server means."""

_SETTINGS = (("context_size", "Context"), ("slots", "Slots"), ("threads", "Threads"))
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


def servers_table(up: Sequence[ServerStatus], chosen: str) -> Block:
    """The servers that are up; the name of each chooses it."""
    return table("servers", "Servers", _COLUMNS, [_row(one, one.name == chosen) for one in up])


def _row(one: ServerStatus, chosen: bool) -> list[str | Block]:
    return [
        cell(one.name, action="choose", chosen=chosen, args={"server": one.name}),
        cell("", marks=[(KINDS.get(one.state, "info"), one.state)]),
        one.base_url or "-",
        f"{one.slots_busy} of {one.slots_total}" if one.slots_total else "-",
        f"{one.tokens_per_second:.0f}" if one.tokens_per_second else "-",
        megabytes(one.memory_bytes) if one.memory_bytes else "-",
        seconds(one.uptime_seconds or 0),
        str(one.holders),
    ]


def about(one: ServerStatus) -> Block:
    """What is known of one server."""
    settings = one.settings or {}
    items: list[tuple[str, object]] = [("Model", one.model), ("Process", one.pid or "-")]
    items += [(label, settings[name]) for name, label in _SETTINGS if name in settings]
    items += [
        ("Held by", ", ".join(one.held_by) or "nobody"),
        ("Stays", "yes, until it is stopped" if one.keep else "as long as it is held"),
    ]
    items += [("Note", note) for note in one.notes[:1]] + ([("Ended", one.reason)] if one.reason else [])
    return section("about", f"About {one.name}", [facts("server-facts", f"About {one.name}", items)])


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
