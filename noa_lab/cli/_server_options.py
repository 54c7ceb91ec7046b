"""How a server is to be run, as options of the commands that start one; one for each field of `ServerSettings`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from noa_lab.errors import BadInput

__all__ = ["server_options", "server_settings"]

_CACHE_TYPES = "f16, q8_0, q4_0, ..."
_FIELDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "context_size": (("--context",), {"type": int, "help": "Tokens one request may use (default: 4096)."}),
    "slots": (("--slots",), {"type": int, "help": "Requests worked on at the same time (default: as tuned, else 2)."}),
    "threads": (("--threads",), {"type": int, "help": "CPU threads (default: as tuned, else as measured at install)."}),
    "threads_batch": (("--threads-batch",), {"type": int, "help": "CPU threads for prompts (default: as --threads)."}),
    "batch_size": (("--batch",), {"type": int, "help": "Most prompt tokens handed over at once (default: as --ubatch; on a GPU 2048)."}),
    "ubatch_size": (("--ubatch",), {"type": int, "help": "Most prompt tokens computed at once (default: 512)."}),
    "gpu_layers": (("--gpu-layers",), {"type": int, "help": "Layers kept on the GPU; -1 for all (default: 0)."}),
    "flash_attention": (("--flash-attn",), {"help": "Fused attention: auto, on or off (default: auto)."}),
    "cache_type_k": (("--cache-type-k",), {"help": f"Format of the keys in the KV cache: {_CACHE_TYPES} (default: f16)."}),
    "cache_type_v": (("--cache-type-v",), {"help": f"Format of the values in the KV cache: {_CACHE_TYPES} (default: f16)."}),
    "load_mode": (("--load-mode",), {"help": "How the model gets into memory: auto, none, mmap, mlock, mmap+mlock, dio."}),
    "embeddings": (("--embeddings",), {"is_flag": True, "default": None, "help": "Answer /v1/embeddings too."}),
    "pooling": (("--pooling",), {"help": "How a text's embedding is made: mean, cls, last, none (default: the model's)."}),
    "host": (("--host",), {"help": "Address to listen on (default: 127.0.0.1)."}),
    "allow_remote": (("--allow-remote",), {"is_flag": True, "default": None, "help": "Let --host be one that others can reach."}),
    "port": (("--port",), {"type": int, "help": "Port (default: one that the system chooses)."}),
    "hang_seconds": (("--hang-seconds",), {"type": float, "help": "Seconds of silence that count as a hang (default: 60)."}),
}  # fmt: skip

_SWITCHES = {"true": True, "false": False}


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options; it takes them as keyword arguments, to be handed to `server_settings`."""
    command = click.option(
        "--option", "options", multiple=True, metavar="NAME=VALUE", help="A further option of llama-server; see docs/server.md."
    )(command)  # fmt: skip
    for field, (names, more) in reversed(_FIELDS.items()):
        command = click.option(*names, field, **more)(command)
    return command


def server_settings(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of `ServerSettings` that were given.

    Raises:
        BadInput: For a further option that is not written NAME=VALUE.
    """
    settings = {field: given[field] for field in _FIELDS if given.get(field) is not None}
    if given.get("options"):
        settings["options"] = dict(map(_pair, given["options"]))
    return settings


def _pair(written: str) -> tuple[str, str | bool]:
    name, equals, value = written.partition("=")
    if not name or (equals and not value):
        raise BadInput(
            f"--option {written!r} is not written NAME=VALUE.",
            fix="Write for example --option cache-reuse=256, or the name alone for one without a value.",
            field="--option",
            value=written,
        )
    return name, _SWITCHES.get(value.lower(), value) if equals else True
