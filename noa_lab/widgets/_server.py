"""Launching a llama-server and watching those that are up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput, NoaLabError
from noa_lab.widgets._form import ticked, whole, words
from noa_lab.widgets._panel import Panel
from noa_lab.widgets._server_blocks import KINDS, READY, about, servers_table, snippets
from noa_lab.widgets._source import call
from noa_lab.widgets._view import (
    Block,
    Kind,
    View,
    button,
    buttons,
    field,
    log,
    section,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from noa_lab.events import CancelToken, Report
    from noa_lab.server import Server, ServerStatus
    from noa_lab.workbench import Lab

__all__ = ["ServerPanel"]

_WATCH_SECONDS = 2.0
_LOG_LINES = 60


@dataclass(frozen=True, slots=True)
class _Found:
    models: tuple[tuple[str, str], ...]
    default: str
    up: Sequence[ServerStatus]
    chosen: str
    log: tuple[str, ...]
    mistakes: dict[str, str]


class ServerPanel(Panel):
    """Start a llama-server with a model and watch it; join one that is up with equal settings.

    Closing the panel, or ending the kernel, lets go of the server: it ends unless another process holds it or `keep` is ticked.

    Args:
        model: What to choose at first: a catalogue name, a reference or a path; default: the default model.
        context_size: Tokens a request may use; default: as `ServerSettings`.
        slots: Requests worked on at the same time; default: as `ServerSettings`.
        threads: CPU threads; default: as measured when llama.cpp was installed.
        keep: Whether the server stays after its last holder.
        lab: The Lab to use; default: the default Lab.
    """

    title = "Server"
    intro = "One llama-server for a model, on this machine only. It ends with the last process that holds it, unless it is asked to stay."

    def __init__(
        self,
        model: str = "",
        *,
        context_size: int | None = None,
        slots: int | None = None,
        threads: int | None = None,
        keep: bool = False,
        lab: Lab | None = None,
    ) -> None:
        self.server: Server | None = None
        """The server this panel holds; None before Start."""
        self._chosen = ""
        numbers = {"context_size": context_size, "slots": slots, "threads": threads}
        form: dict[str, str | bool] = {
            "model": model,
            **{name: "" if n is None else str(n) for name, n in numbers.items()},
            "keep": keep,
        }
        super().__init__(lab, form)

    def _arguments(self, form: Mapping[str, Any]) -> dict[str, object]:
        """What is given to `lab.serve`, checked.

        Raises:
            BadInput: When a number is none, or not allowed.
        """
        from noa_lab.server import ServerSettings

        numbers = {name: whole(form, name) for name in ("context_size", "slots", "threads")}
        settings: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
        ServerSettings(**settings)
        ref = words(form, "model")
        return {**({"0": ref} if ref else {}), **settings, **({"keep": True} if ticked(form, "keep") else {})}

    def _code(self) -> str:
        return f"import noa_lab as lab\n\nserver = {call('lab.serve', self._arguments(self._form))}"

    def _look(self, form: Mapping[str, Any]) -> _Found:
        rows = self.lab.models.list()
        up = self.lab.servers()
        names = [one.name for one in up]
        mine = self.server.name if self.server is not None else ""
        chosen = next((name for name in (self._chosen, mine, *names) if name in names), "")
        mistakes = {}
        try:
            self._arguments(form)
        except BadInput as error:
            mistakes[str(error.fields.get("field"))] = f"{error.message} {error.fix}"
        choices = [(row.name, row.name + ("" if row.installed else " (fetched first)")) for row in rows]
        return _Found(tuple(choices), self.lab.models.default, up, chosen, self._log_of(chosen), mistakes)

    def _log_of(self, name: str) -> tuple[str, ...]:
        if not name:
            return ()
        from noa_lab import server

        try:
            return tuple(server.read_log(self.lab.home, name, lines=_LOG_LINES))
        except NoaLabError as error:
            return (error.message,)

    def _watch(self) -> float | None:
        return _WATCH_SECONDS

    def _edited(self, names: frozenset[str]) -> None:
        del names
        self._looker.look()

    def _closed(self) -> None:
        if self.server is not None:
            self.server.release()

    def do_start(self) -> None:
        """Start or join a server as the form says."""
        arguments: dict[str, Any] = self._arguments(self._form)
        ref = arguments.pop("0", None)
        lab = self.lab

        def work(report: Report, cancel: CancelToken) -> Server:
            return lab.serve(ref, report=report, cancel=cancel, **arguments)

        self._work("Starting the server", work, self._started)

    def _started(self, server: Server) -> None:
        before, self.server = self.server, server
        self._chosen = server.name
        if before is not None and before is not server:
            self._work(
                "Letting go of the other server", lambda _report, _cancel: before.release(), lambda _nothing: None
            )
        self._tell("ok", f"{server.name} is ready at {server.base_url}.", "In Python it is panel.server.")
        self._looker.look()

    def do_choose(self, server: str) -> None:
        """Look at this server's log."""
        self._chosen = str(server)
        self._looker.look()

    def do_stop(self, server: str) -> None:
        """Stop a server, whoever holds it."""

        def work(_report: object, _cancel: object) -> None:
            self.lab.stop(server)

        self._work(f"Stopping {server}", work, lambda _nothing: self._stopped(server))

    def _stopped(self, name: str) -> None:
        if self.server is not None and self.server.name == name:
            self.server.release()
            self.server = None
        self._tell("info", f"{name} is stopped.")

    def _draw(self) -> View:
        found: _Found | None = self._facts
        kind, status = self._status(found)
        idle = self._job is None
        one = next((one for one in found.up if one.name == found.chosen), None) if found else None
        return self._show(
            kind,
            status,
            [
                self._fields(found, idle),
                self._job_block(),
                buttons(
                    "buttons",
                    [
                        button("start", "Start", enabled=idle, primary=one is None or one.state not in READY),
                        button("stop", f"Stop {one.name}", enabled=idle, args={"server": one.name}) if one else None,
                        button("cancel", "Cancel", enabled=not idle) if not idle else None,
                    ],
                ),
                servers_table(found.up, found.chosen) if found and found.up else None,
                about(one) if one else None,
                section("log-fold", "Log", [log("log", f"Log of {found.chosen}", found.log)], folded=True)
                if found and found.chosen
                else None,
                snippets(one) if one and one.state in READY else None,
            ],
        )

    def _status(self, found: _Found | None) -> tuple[Kind, str]:
        if self._job is not None:
            return "busy", self._job.label
        if found is None:
            return ("error", "The servers could not be listed") if self._messages else ("busy", "Looking")
        one = next((one for one in found.up if one.name == found.chosen), None)
        if one is None:
            return "info", "No server is up"
        return KINDS.get(one.state, "info"), f"{one.name} {one.state}"

    def _fields(self, found: _Found | None, idle: bool) -> Block:
        model = str(self._form["model"])
        options = [("", f"default ({found.default})" if found else "default"), *(found.models if found else ())]
        if model not in {value for value, _ in options}:
            options.append((model, model))
        mistakes = found.mistakes if found else {}

        def one(name: str, label: str, **more: Any) -> Block:
            return field(name, label, self._form[name], error=mistakes.get(name, ""), enabled=idle, **more)

        return section(
            "settings",
            "",
            [
                one("model", "Model", kind="select", options=options),
                one("context_size", "Context", kind="number", help="tokens; default 4096"),
                one("slots", "Slots", kind="number", help="at once; default 2"),
                one("threads", "Threads", kind="number", help="default: measured"),
                one("keep", "Keep it after this kernel", kind="checkbox"),
            ],
            layout="row",
        )
