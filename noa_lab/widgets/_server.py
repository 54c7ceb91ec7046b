"""Launching a llama-server and watching those that are up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.errors import BadInput, NoaLabError
from noa_lab.widgets._panel import Panel
from noa_lab.widgets._server_blocks import KINDS, OURS, READY, about, loading, servers_table, snippets, words_of
from noa_lab.widgets._server_form import first_form, serve_arguments, settings_fields
from noa_lab.widgets._source import call
from noa_lab.widgets._view import Block, Kind, View, button, buttons, log, section

if TYPE_CHECKING:
    from noa_lab.events import CancelToken, Report
    from noa_lab.server import CheckResult, Server, ServerStatus, Tuned
    from noa_lab.workbench import Lab

__all__ = ["ServerPanel"]

_WATCH_SECONDS = 2.0
_LOG_LINES = 60


@dataclass(frozen=True, slots=True)
class _Found:
    models: tuple[tuple[str, str], ...]
    default: str
    up: Sequence[ServerStatus]
    foreign: Sequence[ServerStatus]
    chosen: str
    log: tuple[str, ...]
    mistakes: dict[str, str]

    @property
    def one(self) -> ServerStatus | None:
        """The server that is looked at."""
        return next((one for one in self.up if one.name == self.chosen), None)


class ServerPanel(Panel):
    """Start a llama-server with a model and watch it; join one that is up with equal settings.

    Closing the panel, or ending the kernel, lets go of the server: it ends unless another process holds it or it is kept.

    Args:
        model: What to choose at first: a catalogue name, a reference or a path; default: the default model.
        keep: Whether the server stays after its last holder.
        lab: The Lab to use; default: the default Lab.
        settings: What the fields hold at first, by the names of `ServerSettings`: context_size, slots, threads, cache_type_k, ...

    Raises:
        BadInput: When a setting is wrong, or has no field in the panel.
    """

    title = "Server"
    intro = (
        "A llama-server for one model, for this machine only. It ends when nobody uses it any more, unless you keep it."
    )

    def __init__(self, model: str = "", *, keep: bool = False, lab: Lab | None = None, **settings: Any) -> None:
        self.server: Server | None = None
        """The server this panel holds; None before Start."""
        self._arrived: Server | None = None  # started, and not yet taken: the panel may be closed in between
        self._chosen = ""
        super().__init__(lab, first_form(model, settings, keep=keep))

    def _code(self) -> str:
        return f"import noa_lab as lab\n\nserver = {call('lab.serve', serve_arguments(self._form))}"

    # What is true.

    def _look(self, form: Mapping[str, Any]) -> _Found:
        rows = self.lab.models.list()
        up, foreign = self.lab.servers(), self.lab.foreign_servers()
        names = [one.name for one in up]
        mine = self.server.name if self.server is not None else ""
        chosen = next((name for name in (self._chosen, mine, *names) if name in names), "")
        mistakes = {}
        try:
            serve_arguments(form)
        except BadInput as error:
            mistakes[str(error.fields.get("field"))] = f"{error.message} {error.fix}"
        choices = tuple((row.name, row.name + ("" if row.installed else " (fetched first)")) for row in rows)
        return _Found(choices, self.lab.models.default, up, foreign, chosen, self._log_of(chosen), mistakes)

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
        for server in (self.server, self._arrived):
            if server is not None:
                server.release()

    # What the buttons do.

    def do_start(self) -> None:
        """Start or join a server as the form says."""
        arguments: dict[str, Any] = serve_arguments(self._form)
        ref = arguments.pop("0", None)
        lab = self.lab

        def work(report: Report, cancel: CancelToken) -> Server:
            self._arrived = server = lab.serve(ref, report=report, cancel=cancel, **arguments)
            if self._pump.closed:
                server.release()
            return server

        self._work("Starting the server", work, self._started)

    def _started(self, server: Server) -> None:
        before, self.server, self._arrived = self.server, server, None
        self._chosen = server.name
        if before is not None and before is not server:
            self._work(
                "Letting go of the other server", lambda _report, _cancel: before.release(), lambda _nothing: None
            )
        self._tell("ok", f"{server.name} is ready at {server.base_url}.", "In Python it is panel.server.")
        self._looker.look()

    def do_choose(self, server: str) -> None:
        """Look at this server."""
        self._chosen = str(server)
        self._looker.look()

    def do_stop(self, server: str) -> None:
        """Stop a server, whoever holds it."""
        self._work(
            f"Stopping {server}", lambda _report, _cancel: self.lab.stop(server), lambda _: self._stopped(server)
        )

    def _stopped(self, name: str) -> None:
        if self.server is not None and self.server.name == name:
            self.server.release()
            self.server = None
        self._tell("info", f"{name} is stopped.")

    def do_keep(self, server: str, stay: bool) -> None:
        """Let a server stay after its last holder, or follow it."""
        words = f"{server} stays until it is stopped." if stay else f"{server} ends with its last holder."
        self._work(
            f"Telling {server}",
            lambda _report, _cancel: self.lab.keep(server, stay=bool(stay)),
            lambda _: self._tell("ok", words),
        )

    def do_test(self, server: str) -> None:
        """Check the health of a server, and one completion."""

        def work(_report: object, _cancel: object) -> Sequence[CheckResult]:
            return self.lab.test_server(server)

        self._work(f"Checking {server}", work, self._checked)

    def _checked(self, results: Sequence[CheckResult]) -> None:
        for result in results:
            words = f"{result.name}: {result.detail} ({result.ms:.0f} ms)"
            self._tell("ok" if result.ok else "error", words, "" if result.ok else "The log says more.")

    def do_tune(self) -> None:
        """Measure which threads, batch and slots are fastest for the chosen model."""
        ref = serve_arguments(self._form).get("0")
        lab = self.lab

        def work(report: Report, cancel: CancelToken) -> Tuned:
            return lab.tune(str(ref) if ref else None, report=report, cancel=cancel)

        self._work(
            "Measuring what is fastest",
            work,
            lambda found: self._tell("ok", f"{found}.", "Its servers start with these values from now on."),
        )

    # How it looks.

    def _draw(self) -> View:
        found: _Found | None = self._facts
        idle = self._job is None
        one = found.one if found else None
        kind, status = self._status(found)
        fields = settings_fields(
            self._form,
            found.models if found else (),
            found.default if found else "",
            found.mistakes if found else {},
            enabled=idle,
        )
        return self._show(
            kind,
            status,
            [
                *fields,
                self._job_block(),
                self._buttons(one, idle=idle),
                servers_table(found.up, found.foreign, found.chosen) if found and (found.up or found.foreign) else None,
                loading(one) if one and idle else None,
                about(one) if one else None,
                self._log_block(found),
                snippets(one) if one and one.state in READY else None,
            ],
        )

    def _buttons(self, one: ServerStatus | None, *, idle: bool) -> Block:
        about_one: list[Block] = []
        if one is not None and one.state in OURS:
            args = {"server": one.name}
            about_one.append(button("stop", f"Stop {one.name}", enabled=idle, args=args))
            if one.state in READY:
                label = "Let it follow its holders" if one.keep else "Keep it"
                about_one.append(button("keep", label, enabled=idle, args={**args, "stay": not one.keep}))
                about_one.append(button("test", "Check it", enabled=idle, args=args))
        return buttons(
            "buttons",
            [
                button("start", "Start", enabled=idle, primary=one is None or one.state not in READY),
                button("tune", "Tune the model", enabled=idle),
                *about_one,
                button("cancel", "Cancel", enabled=not idle) if not idle else None,
            ],
        )

    def _log_block(self, found: _Found | None) -> Block | None:
        if found is None or not found.chosen:
            return None
        crashed = found.one is not None and found.one.state == "crashed"
        lines = [log("log", f"Log of {found.chosen}", found.log)]
        return section("log-fold", f"Log of {found.chosen}", lines, folded=not crashed)

    def _status(self, found: _Found | None) -> tuple[Kind, str]:
        if self._job is not None:
            return "busy", self._job.label
        if found is None:
            return ("error", "The servers could not be listed") if self._messages else ("busy", "Looking")
        one = found.one
        if one is None:
            return "info", "No server is up"
        return KINDS.get(one.state, "info"), f"{one.name} {words_of(one)}"
