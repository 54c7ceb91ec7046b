"""How models are shown: the catalogue, one model's facts, its memory, what other tools have, the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.tables import size
from noa_lab.widgets._form import Form
from noa_lab.widgets._view import (
    Block,
    Kind,
    button,
    buttons,
    cell,
    clip,
    column,
    facts,
    field,
    section,
    table,
    text,
)

if TYPE_CHECKING:
    from noa_lab.models import DiskReport, Fit, ModelListing, Removal, StoredModel

__all__ = ["about", "catalogue", "choice", "disk", "importing", "memory", "quantizing", "removal"]

_CACHE_TYPES = (("f16", "f16"), ("q8_0", "q8_0: half as much"), ("q4_0", "q4_0: a quarter"))

_COLUMNS = [
    column("Model"),
    column("Here"),
    column("Size", align="end"),
    column("Needs", align="end"),
    column("Fits"),
    column("Context", align="end"),
    column("For", wide=True),
]
_FITS: dict[str, Kind] = {"fits": "ok", "tight": "warn", "does not fit": "error"}
_FACTS = {
    "path": "File",
    "size_bytes": "Size",
    "sha256": "sha256",
    "verified": "Verified",
    "source": "Source",
    "architecture": "Architecture",
    "parameters": "Parameters",
    "quantization": "Quantisation",
    "context_length": "Context",
    "layers": "Layers",
    "vocabulary": "Vocabulary",
    "chat_template": "Chat template",
    "licence": "Licence",
    "use_case": "For",
}


def catalogue(rows: Sequence[ModelListing], chosen: str) -> Block:
    """The models there are; the name of each chooses it."""
    shown = [_row(row, row.name == chosen) for row in rows]
    return table("models", "Models", _COLUMNS, shown, empty="The catalogue is empty.")


def _row(row: ModelListing, chosen: bool) -> list[str | Block]:
    return [
        cell(
            row.name,
            action="choose",
            chosen=chosen,
            args={"model": row.name},
            marks=[("info", "default")] if row.default else [],
        ),
        _here(row),
        row.size or "?",
        row.needs or "?",
        cell("", marks=[(_FITS[row.fits], row.fits)]) if row.fits in _FITS else "?",
        f"{row.context_length:,}" if row.context_length else "?",
        clip(row.use_case, 240 if row.missing else 120),
    ]


def _here(row: ModelListing) -> Block:
    if row.installed or row.missing:
        return cell("", marks=[("ok", "here") if row.installed else ("warn", "gone")])
    return cell("no", marks=[("info", f"{size(row.here_bytes)} are here")] if row.here_bytes else [])


def memory(fit: Fit | None, problem: str) -> list[Block]:
    """Whether the chosen model fits, in a sentence and in numbers."""
    if fit is None:
        return [text("fit-problem", problem, kind="warn")] if problem else []
    verdict = {"fits": "It fits", "tight": "It may not fit", "does not fit": "It does not fit"}[fit.verdict]
    words = f"{verdict}: {size(fit.bytes)} of memory are needed, {size(fit.free_bytes)} are free."
    names = {"made up of": "Made up of", "largest context": "Largest context", "known from": "Known from"}
    rows = [
        ("Between", f"{size(fit.low_bytes)} and {size(fit.high_bytes)}"),
        *((names[name], value) for name, value in fit.rows() if name in names),
        *((each.name, value) for each in fit.devices for name, value in fit.rows() if name == each.name),
        *(("Note", note) for note in (*fit.notes, *([problem] if problem else []))),
    ]
    return [text("verdict", words, kind=_FITS[fit.verdict]), facts("fit-facts", "Memory", rows)]


def about(name: str, details: Mapping[str, Any]) -> Block:
    """What is known about a model."""
    flat = {**details, **(details.get("metadata") or {})}
    items = [(label, _words(key, flat[key])) for key, label in _FACTS.items() if flat.get(key) not in {None, ""}]
    if details.get("parts"):
        items.append(("Files", str(len(details["parts"]))))
    return section("details", f"About {name}", [facts("detail-facts", f"About {name}", items)])


def _words(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "size_bytes" and isinstance(value, int):
        return size(value)
    if isinstance(value, int):
        return f"{value:,}" + (" tokens" if key == "context_length" else "")
    return str(value)


def removal(plan: Removal, asked: bool, *, enabled: bool) -> Block:
    """What removing does. The button asks, and takes the question back; another one, that appears before it, does it."""
    args = {"model": plan.model}
    sure = button("really_remove", f"Yes, remove {plan.model}", enabled=enabled, primary=True, args=args)
    ask = button(
        "remove", "Keep it" if asked else f"Remove {plan.model}", enabled=enabled and not plan.used_by, args=args
    )
    return section(
        "remove-fold",
        "Remove it",
        [
            text("removal", str(plan), kind="warn" if asked or plan.used_by else None),
            buttons("remove-buttons", [sure if asked else None, ask]),
        ],
        folded=not asked,
    )


def choice(form: Form, problem: str, mistakes: Mapping[str, str], *, enabled: bool) -> Block:
    """Which model, and how it would be run."""

    def one(name: str, label: str, **more: Any) -> Block:
        return field(name, label, form[name], enabled=enabled, **{"error": mistakes.get(name, ""), **more})

    where = "A name from the table, hf://owner/repo/file.gguf, owner/repo:QUANT, https://, or a path."
    return section(
        "choice",
        "",
        [
            one("model", "Model", help=where, error=problem),
            one("context_size", "Context", kind="number", help="tokens; default 4096"),
            one("slots", "Slots", kind="number", help="requests; default 2"),
            one("cache_type", "KV cache", kind="select", options=_CACHE_TYPES),
        ],
        layout="row",
    )


def quantizing(form: Form, types: Sequence[str], *, enabled: bool) -> Block:
    """Making a smaller model of the chosen one."""
    options = [("", "choose"), *((each, each) for each in types)]
    fields = [
        field("to", "Type", form["to"], kind="select", options=options, enabled=enabled),
        field(
            "requantize", "Also of a quantised model, at a loss", form["requantize"], kind="checkbox", enabled=enabled
        ),
    ]
    return section(
        "quantize-fold",
        "Make a smaller model from it",
        [
            section("quantize-row", "", fields, layout="row"),
            buttons("quantize-buttons", [button("quantize", "Quantise", enabled=enabled and bool(types))]),
        ],
        folded=True,
    )


def importing(form: Form, found: Sequence[StoredModel], *, enabled: bool) -> Block:
    """What other tools have, each with a button that makes it known here; and any file."""
    rows: list[list[str | Block]] = [
        [
            cell(f"Import {each.name}", action="take", args={"name": each.name}) if enabled else each.name,
            each.tool,
            size(each.size_bytes),
        ]
        for each in found
    ]
    columns = [column("Model", wide=True), column("Tool"), column("Size", align="end")]
    nothing = "Hugging Face's cache, Ollama and LM Studio have no GGUF models here."
    return section(
        "import-fold",
        "Use a model that is on this machine already",
        [
            table("stored", "Models of other tools", columns, rows, empty=nothing),
            field("path", "A file or folder", form["path"], help="its bytes stay where they are", enabled=enabled),
            buttons("import-buttons", [button("import_path", "Import it", enabled=enabled)]),
        ],
        folded=True,
    )


def disk(report: DiskReport) -> Block:
    """What models take of the disk."""
    columns = [column("What"), column("Kind"), column("Takes", align="end"), column("Note", wide=True)]
    rows: list[list[str | Block]] = [[use.name, use.kind, size(use.bytes), clip(use.note, 240)] for use in report.uses]
    words = f"{size(report.own_bytes)} are taken, {size(report.free_bytes)} are free in {report.folder}."
    return section(
        "disk-fold", "Disk", [text("disk-sum", words), table("disk", "What takes disk", columns, rows)], folded=True
    )
