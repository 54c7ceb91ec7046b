"""The catalogue, whether a model fits, getting one, and looking after those that are here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput
from noa_lab.tables import size
from noa_lab.widgets._form import ticked, words
from noa_lab.widgets._model_blocks import (
    about,
    catalogue,
    choice,
    disk,
    importing,
    memory,
    quantizing,
    removal,
)
from noa_lab.widgets._model_look import Closer, Found, Here, look_at_model, look_here, memory_settings
from noa_lab.widgets._panel import Panel
from noa_lab.widgets._source import call
from noa_lab.widgets._view import Block, Kind, View, button, buttons

if TYPE_CHECKING:
    from collections.abc import Mapping

    from noa_lab.events import CancelToken, Report
    from noa_lab.models import Fit, ModelFile, Removal
    from noa_lab.workbench import Lab

__all__ = ["ModelPanel"]

_GETTING = "Getting the model"


class ModelPanel(Panel):
    """The models there are, which fit, getting one, and looking after those that are here.

    Downloads show their progress, can be paused, cancelled and continued; the model that is chosen can be verified, quantised and
    removed; models of other tools can be used where they are.

    Args:
        model: What to choose at first: a catalogue name, a reference or a path; default: the default model.
        context_size: Tokens one request may use, for "will it fit?"; default: as `lab.serve`.
        slots: Requests at the same time; default: as `lab.serve`.
        lab: The Lab to look at; default: the default Lab.
    """

    title = "Models"
    intro = "A model is one GGUF file, or several that belong together. Each is checked before it can be used."

    def __init__(
        self, model: str = "", *, context_size: int | None = None, slots: int | None = None, lab: Lab | None = None
    ) -> None:
        self.model: ModelFile | None = None
        """The model that was got, verified, imported or made last; None before."""
        self._here: Here | None = None
        self._asked = 1
        self._closer: Closer | None = None
        self._removing = ""
        numbers = {"context_size": context_size, "slots": slots}
        form: dict[str, str | bool] = {
            "model": model,
            **{name: "" if n is None else str(n) for name, n in numbers.items()},
            "cache_type": "f16",
            "to": "",
            "requantize": False,
            "path": "",
        }
        super().__init__(lab, form)

    def _code(self) -> str:
        ref = words(self._form, "model")
        first = {"0": ref} if ref else {}
        settings = memory_settings(self._form)
        lines = [f"fit = {call('lab.models.fit', first | settings)}"] if settings else []
        lines.append(f"model = {call('lab.models.get', first)}")
        if words(self._form, "to"):
            more: dict[str, object] = {"allow_requantize": True} if ticked(self._form, "requantize") else {}
            name = ref or (self._here.rows[0].name if self._here and self._here.rows else "")
            given = {"0": name, "1": words(self._form, "to"), **more}
            lines.append(f"smaller = {call('lab.models.quantize', given)}")
        if words(self._form, "path"):
            lines.append(f"imported = {call('lab.models.import_model', {'0': words(self._form, 'path')})}")
        return "\n".join(["import noa_lab as lab", "", *lines])

    # Looking; on a worker thread.

    def _look(self, form: Mapping[str, Any]) -> Found:
        asked, here = self._asked, self._here
        if here is None or here.asked != asked:
            here = self._here = look_here(self.lab.models, asked)
        return look_at_model(self.lab.models, here, form, self._closer)

    def _edited(self, names: frozenset[str]) -> None:
        if "model" in names:
            self._removing = ""
        self._looker.look()

    def _again(self) -> None:
        """Look at everything again."""
        self._asked += 1
        self._looker.look()

    # What is pressed.

    def do_refresh(self) -> None:
        """Look at everything again."""
        self._closer = None
        self._again()

    def do_choose(self, model: str) -> None:
        """Choose a row of the table."""
        self._edit({"model": model})

    def do_get(self) -> None:
        """Get the chosen model, or go on getting it."""
        ref = words(self._form, "model") or None
        self._work(_GETTING, lambda report, cancel: self.lab.models.get(ref, report=report, cancel=cancel), self._got)

    def do_pause(self) -> None:
        """Let the download rest, or go on: one button, so that the focus stays on it."""
        token = self._job.token if self._job is not None else None
        if token is not None:
            token.resume() if token.paused else token.pause()

    def do_verify(self) -> None:
        """Read the whole file again and compare its hash."""
        ref = words(self._form, "model") or None

        def work(report: Report, cancel: CancelToken) -> tuple[ModelFile, bool]:
            before = self.lab.models.find(ref or self.lab.models.default)
            known = before is not None and bool(before.sha256)
            return self.lab.models.verify(ref, report=report, cancel=cancel), known

        def done(found: tuple[ModelFile, bool]) -> None:
            model, known = found
            told = "has the bytes that were recorded" if known else "is recorded now; its hash was not known before"
            self._tell_of(model, told)

        self._work("Verifying the model", work, done)

    def do_fit(self) -> None:
        """Look closer at whether the chosen model fits."""
        settings = memory_settings(self._form)
        chosen = self._chosen()

        def work(report: Report, cancel: CancelToken) -> Fit:
            return self.lab.models.fit(chosen or None, report=report, cancel=cancel, **settings)

        self._work("Looking at its memory", work, lambda fit: self._looked_closer(Closer(chosen, settings, fit)))

    def _chosen(self) -> str:
        """The model that is chosen; before the first look the one that is typed."""
        found: Found | None = self._facts
        return found.chosen if found is not None else words(self._form, "model")

    def _looked_closer(self, closer: Closer) -> None:
        self._closer = closer
        self._looker.look()

    def do_quantize(self) -> None:
        """Make a smaller model of the chosen one."""
        to = words(self._form, "to")
        if not to:
            raise BadInput("No type is chosen yet.", fix="Choose one, for example Q4_K_M.", field="to", value="")
        ref = self._chosen()
        allow = ticked(self._form, "requantize")

        def work(report: Report, cancel: CancelToken) -> ModelFile:
            return self.lab.models.quantize(ref, to, allow_requantize=allow, report=report, cancel=cancel)

        self._work("Quantising the model", work, lambda model: self._tell_of(model, "is made"))

    def do_take(self, name: str) -> None:
        """Import a model of another tool."""
        self._import(str(name))

    def do_import_path(self) -> None:
        """Import the file or folder that was typed."""
        path = words(self._form, "path")
        if not path:
            raise BadInput("No file is named.", fix="Write the path of a .gguf file.", field="path", value="")
        self._import(path)

    def _import(self, what: str) -> None:
        def work(report: Report, cancel: CancelToken) -> ModelFile:
            return self.lab.models.import_model(what, report=report, cancel=cancel)

        self._work("Importing the model", work, lambda model: self._tell_of(model, "can be used where it is"))

    def do_remove(self, model: str) -> None:
        """Ask whether the model shall really go; pressed again, it stays."""
        self._removing = "" if self._removing == model else str(model)

    def do_really_remove(self, model: str) -> None:
        """Remove the model that was asked about."""
        if model != self._removing:
            raise BadInput(
                "This model was not asked about first.", fix="Press Remove first.", field="model", value=model
            )
        self._removing = ""
        self._work(
            "Removing the model",
            lambda _report, _cancel: self.lab.models.remove(model),
            self._removed,
        )

    def _removed(self, done: Removal) -> None:
        stays = f" {' '.join(done.stays)}" if done.stays else ""
        self._tell("ok", f"{done.model} is removed; that freed {size(done.frees_bytes)}.{stays}")
        self._again()

    def _got(self, model: ModelFile) -> None:
        self._tell_of(model, "is here and verified" if model.verified else "is here, unverified (no hash was known)")

    def _tell_of(self, model: ModelFile, what: str) -> None:
        self.model = model
        self._tell("ok", f"{model.name} {what}: {model.path}")
        self._again()

    # Drawing.

    def _draw(self) -> View:
        found: Found | None = self._facts
        idle = self._job is None
        kind, status = self._status(found)
        return self._show(
            kind,
            status,
            [
                catalogue(found.here.rows, found.chosen) if found else None,
                choice(self._form, found.problem if found else "", found.mistakes if found else {}, enabled=idle),
                *(memory(found.fit, found.fit_problem) if found else []),
                self._job_block(),
                self._buttons(found),
                about(found.chosen, found.details) if found and found.details else None,
                *(self._care(found, idle) if found else []),
            ],
        )

    def _status(self, found: Found | None) -> tuple[Kind, str]:
        if self._job is not None:
            return "busy", f"{self._job.label}, paused" if self._job.token.paused else self._job.label
        if found is None:
            return ("error", "The models could not be listed") if self._messages else ("busy", "Looking")
        count = sum(row.installed for row in found.here.rows)
        return "ok" if count else "warn", f"{count} of {len(found.here.rows)} here"

    def _buttons(self, found: Found | None) -> Block:
        idle = self._job is None
        here, half = (found.installed, found.half) if found else (False, False)
        getting = self._job is not None and self._job.label == _GETTING
        paused = self._job is not None and self._job.token.paused
        return buttons(
            "buttons",
            [
                button(
                    "get",
                    "Go on getting it" if half else "Get it",
                    enabled=idle and not here,
                    primary=idle and not here,
                ),
                button("verify", "Verify it", enabled=idle and here),
                button("fit", "Look closer", enabled=idle),
                button("pause", "Go on" if paused else "Pause") if getting else None,
                button("cancel", "Cancel", enabled=not idle),
                button("refresh", "Look again", enabled=idle),
            ],
        )

    def _care(self, found: Found, idle: bool) -> list[Block]:
        """Making a smaller one, removing, importing, the disk."""
        blocks = [quantizing(self._form, found.here.types, enabled=idle)] if found.installed else []
        if found.plan is not None:
            plan = replace(found.plan, model=found.chosen)
            blocks.append(removal(plan, self._removing == found.chosen, enabled=idle))
        return [*blocks, importing(self._form, found.here.stored, enabled=idle), disk(found.here.disk)]
