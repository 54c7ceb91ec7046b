"""The second answer: llama.cpp's own, from `llama-fit-params`, which lays out the model and allocates nothing.

It needs the header only, so a file of which nothing but the header is here does as well (`_stand_in`). What it says is right for every
architecture that this llama.cpp knows, but for one thing: it makes room for the scores of all tokens of a step, where llama-server
wants those of one for each slot (b11312: `n_outputs_max`). Facts about its output: `common/fit.cpp`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from noa_lab.errors import UnknownName
from noa_lab.events import CancelToken
from noa_lab.models._gguf_header import GgufHeader
from noa_lab.models.memory._compute import compute_bytes, logits_bytes
from noa_lab.models.memory._layout import Layout
from noa_lab.models.memory._parts import DeviceMemory, MemoryParts, Prediction
from noa_lab.models.memory._program import program_bytes
from noa_lab.models.memory._settings import MemorySettings
from noa_lab.models.memory._slots import slots_bytes
from noa_lab.runtime import Runtime, run_tool

__all__ = ["ask_fit_params", "parse_rows", "prediction_of"]

_MIB = 2**20
_SECONDS = 60.0
_PLAIN = re.compile(r"(?P<name>[A-Za-z][\w.-]*) (?P<model>\d+) (?P<context>\d+) (?P<compute>\d+)")

Row = dict[str, Any]


def ask_fit_params(
    runtime: Runtime,
    path: Path,
    header: GgufHeader,
    settings: MemorySettings,
    *,
    cancel: CancelToken | None = None,
) -> Prediction | None:
    """What `llama-fit-params` says about a model file; takes a tenth of a second to a second.

    Args:
        runtime: Whose program.
        path: The model's file, its first part, or one that has its header and its size.
        header: The header of the whole model.
        settings: How it would be run.
        cancel: Ends it.

    Returns:
        None where this llama.cpp has no such program, does not know the architecture, or cannot read the file.

    Raises:
        Cancelled: When `cancel` was.
    """
    arguments = _arguments(path, settings)
    for extra in (["--log-jsonl", "-lv", "4"], []):  # older builds have no --log-jsonl
        lines: list[str] = []
        try:
            done = run_tool(
                runtime, "llama-fit-params", [*arguments, *extra], seconds=_SECONDS, on_line=lines.append, cancel=cancel
            )
        except UnknownName:
            return None
        rows = list(parse_rows(lines)) if done.returncode == 0 and not done.timed_out else []
        if any(row["kind"] == "host" for row in rows):
            return prediction_of(rows, header, settings)
    return None


def _arguments(path: Path, settings: MemorySettings) -> list[str]:
    layers = "all" if settings.gpu_layers < 0 else str(settings.gpu_layers)
    return [
        *("-m", str(path), "-c", str(settings.context_size * settings.slots), "-np", str(settings.slots)),
        *("-ub", str(settings.ubatch_size), "-b", str(max(2048, settings.ubatch_size)), "-ngl", layers),
        *("-ctk", settings.cache_type_k, "-ctv", settings.cache_type_v, "-fa", settings.flash_attention),
        *("-t", "1", "--fit-print", "on"),
    ]


def parse_rows(lines: Iterable[str]) -> Iterator[Row]:
    """The rows of its table: kind ("device", "host", "buffer_type"), name, and model, context, compute in MiB.

    The last report wins; where there is none, the bare lines that older builds print do.
    """
    report: list[Row] = []
    plain: list[Row] = []
    for line in lines:
        if line.startswith('{"type":"fit_memory_breakdown"'):
            report = _report_of(line)
        elif (match := _PLAIN.fullmatch(line.strip())) is not None:
            kind = "host" if match["name"] == "Host" else "device"
            numbers = {name: int(match[name]) for name in ("model", "context", "compute")}
            plain.append({"kind": kind, "name": match["name"], **numbers})
    yield from report or plain


def _report_of(line: str) -> list[Row]:
    try:
        rows = json.loads(line)["data"]["rows"]
        return [row for row in rows if {"kind", "name", "model", "context", "compute"} <= row.keys()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def prediction_of(rows: list[Row], header: GgufHeader, settings: MemorySettings) -> Prediction:
    """What the rows come down to for a llama-server.

    Args:
        rows: From `parse_rows`.
        header: The header of the whole model.
        settings: How it would be run.
    """
    devices = [row for row in rows if row["kind"] == "device"]
    here = [row for row in rows if row["kind"] != "device"]
    on_devices = sum(_bytes(row["model"]) for row in devices)
    weights = sum(tensor.size_bytes for tensor in header.tensors)
    layout = Layout.of(header)
    fullest = max(rows, key=lambda row: int(row["compute"]))
    computes = {
        id(row): _server_compute(_bytes(row["compute"]), layout, settings) if row is fullest else _bytes(row["compute"])
        for row in rows
    }
    host = MemoryParts(
        # Exact where all of it is here; MiB are all that is told otherwise.
        weights=sum(_bytes(row["model"]) for row in here) if on_devices else weights,
        kv_cache=sum(_bytes(row["context"]) for row in here),
        compute=sum(computes[id(row)] for row in here),
        output=logits_bytes(layout, settings.slots),
        program=program_bytes(layout),
        slots=slots_bytes(layout, settings),
    )
    found = tuple(
        DeviceMemory(
            str(row["name"]),
            MemoryParts(_bytes(row["model"]), _bytes(row["context"]), computes[id(row)]),
            int(row["free"]) * _MIB if isinstance(row.get("free"), int) else None,
        )
        for row in devices
    )
    repacked = sum(_bytes(row["model"]) for row in here if row["kind"] == "buffer_type")
    return Prediction(host, found, repacked)


def _bytes(mebibytes: int) -> int:
    """MiB that were cut to whole ones, as bytes: half a MiB more is the likeliest."""
    return int(mebibytes) * _MIB + (_MIB // 2 if mebibytes else 0)


def _server_compute(told: int, layout: Layout, settings: MemorySettings) -> int:
    """Its compute buffer without the scores of tokens that llama-server does not ask for."""
    tokens = settings.tokens_at_once
    mine = compute_bytes(layout, settings)
    if told > logits_bytes(layout, tokens) + 8 * tokens * layout.width * 4 + mine // 4:
        return told  # something else was wider than the scores
    return min(told, mine)
