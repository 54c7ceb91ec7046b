"""What is here, what is missing, the ways to a llama.cpp, what each would do, and the buttons that do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack, cast

from noa_lab.errors import BadInput, UnknownName
from noa_lab.runtime import DEFAULTS, OPTIONS_OF, WAYS, InstallOptions, spelled_out
from noa_lab.widgets._form import ticked, words
from noa_lab.widgets._panel import Panel
from noa_lab.widgets._setup_blocks import about, builds, here, missing, plan_section, ways_table
from noa_lab.widgets._source import call
from noa_lab.widgets._view import Block, Kind, View, button, buttons, field, log, section

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from noa_lab.runtime import InstallPlan, Runtime
    from noa_lab.workbench import Lab, Report

__all__ = ["SetupPanel"]

_LOG_LINES = 40
_LOOKED_AT = ("auto", "source", "system")
"""The ways of which it is known without the network whether they are open here."""

_FIELDS: dict[str, tuple[str, str]] = {
    "tag": ("Release", "b11312, latest-stable or latest-nightly; empty: the one that noa_lab was tested with"),
    "backend": (
        "Backend",
        "cpu, cuda, vulkan, rocm, metal, or one exact build like cuda-12.4; empty: what suits this machine",
    ),
    "mirror": ("Mirror", "https address of a copy of llama.cpp's releases; empty: GitHub"),
    "native": (
        "Compile for this very CPU",
        "faster; on some virtual machines it crashes, which the trial finds out beforehand",
    ),
    "source_path": ("Source", "an archive, a checkout or a folder of llama.cpp's source; empty: the one from PyPI"),
    "path": ("Programs", "an archive or a folder with llama-server in it"),
}
"""Label and help of each field; which of them are shown depends on the way."""


@dataclass(frozen=True, slots=True)
class _Machine:
    """What does not change while the form is filled in."""

    asked: int
    report: Report
    runtimes: Sequence[Runtime]
    plans: Mapping[str, InstallPlan]


@dataclass(frozen=True, slots=True)
class _Found:
    machine: _Machine
    plan: InstallPlan | None
    mistakes: Mapping[str, str]


class SetupPanel(Panel):
    """What this machine has and what is missing; the ways to get llama.cpp and the default model, and what each would do.

    Installs with progress and cancel, and rolls back.

    Args:
        lab: The Lab to look at; default: the default Lab.
        options: What to fill in at first: those of `lab.install`.
    """

    title = "Set up"
    intro = "llama.cpp and a small model on this machine. Whatever is installed is tried with that model first; what fails changes nothing."

    @spelled_out
    def __init__(self, lab: Lab | None = None, **options: Unpack[InstallOptions]) -> None:
        for name in options:
            if name not in DEFAULTS:
                raise UnknownName.among("option", name, DEFAULTS, where="lab.install")
        given: dict[str, Any] = {**DEFAULTS, **options}
        source = str(given.pop("source"))
        way = source if source in OPTIONS_OF and source != "path" else "path"
        if way == "auto":
            way = next((way for way in WAYS if any(given[name] for name in OPTIONS_OF[way] & set(options))), "auto")
        self._lines: list[str] = []
        self._asked = 1
        self._machine: _Machine | None = None
        typed = {name: value if isinstance(value, bool) else str(value or "") for name, value in given.items()}
        super().__init__(lab, {"way": way, "path": source if way == "path" else "", **typed})

    def _options(self, form: Mapping[str, Any]) -> InstallOptions:
        """What is given to `lab.install`.

        Raises:
            BadInput: When a path that is needed is missing.
        """
        way = words(form, "way")
        options: dict[str, Any] = {} if way == "auto" else {"source": words(form, "path") if way == "path" else way}
        if way == "path" and not options["source"]:
            raise BadInput(
                "No programs are named yet.", fix="Write the path of an archive or a folder.", field="path", value=""
            )
        for name in DEFAULTS:
            if name in OPTIONS_OF[way]:
                value = ticked(form, name) if name == "native" else words(form, name)
                options |= {name: value} if value else {}
        return cast(InstallOptions, options)

    def _code(self) -> str:
        return f"import noa_lab as lab\n\nlab.check()\n{call('lab.install', dict(self._options(self._form)))}"

    # Looking; on a worker thread.

    def _look(self, form: Mapping[str, Any]) -> _Found:
        known, asked = self._machine, self._asked
        if known is None or known.asked != asked:
            plans = {way: self.lab.plan_install(source=way) for way in _LOOKED_AT}
            known = self._machine = _Machine(asked, self.lab.check(), self.lab.runtimes(), plans)
        try:
            return _Found(known, self.lab.plan_install(**self._options(form)), {})
        except BadInput as error:
            wrong = str(error.fields.get("field") or error.fields.get("kind"))
            name = {"source": "path", "way to install": "path"}.get(wrong, wrong)
            return _Found(known, None, {name: f"{error.message} {error.fix}"})

    def _edit(self, values: Mapping[str, object]) -> None:
        way = values.get("way", "auto")
        if way not in OPTIONS_OF:
            raise UnknownName.among("way", str(way), OPTIONS_OF)
        super()._edit(values)

    def _edited(self, names: frozenset[str]) -> None:
        del names
        self._looker.look()

    def _worked(self, result: Any, error: Exception | None, then: Callable[[Any], None]) -> None:
        self._asked += 1
        self._lines = self._said()
        super()._worked(result, error, then)

    def _said(self) -> list[str]:
        """The last lines of the work that is going on, or else of the last work."""
        job = self._job
        return self._lines if job is None else list(job.lines)[-_LOG_LINES:]

    # What the buttons do; on the pump's thread.

    def do_refresh(self) -> None:
        """Look again, at everything."""
        self._asked += 1
        self._looker.look()

    def do_choose(self, way: str) -> None:
        """Choose a way."""
        self._edit({"way": way})

    def do_install(self) -> None:
        """Install as the form says."""
        options = self._options(self._form)
        self._work(
            "Installing",
            lambda report, cancel: self.lab.install(report=report, cancel=cancel, **options),
            self._installed,
        )

    def _installed(self, runtime: Runtime) -> None:
        for note in runtime.notes:
            self._tell("warn", note)
        self._tell("ok", f"llama.cpp {runtime.tag or runtime.id} is installed and verified.", "")

    def do_rollback(self) -> None:
        """Use the llama.cpp again that was used before the current one."""
        self._work("Rolling back", lambda _report, _cancel: self.lab.rollback(), self._rolled_back)

    def _rolled_back(self, runtime: Runtime) -> None:
        self._tell("ok", f"Servers that are started now use {runtime.id}.", "Press Roll back again to undo it.")

    # Drawing.

    def _draw(self) -> View:
        lines = self._said()
        found: _Found | None = self._facts
        machine = found.machine if found else None
        runtimes = machine.runtimes if machine else ()
        current = next((one for one in runtimes if "current" in one.marks), None)
        previous = next((one for one in runtimes if "previous" in one.marks), None)
        return self._show(
            *self._status(machine),
            [
                missing(machine.report) if machine else None,
                here(machine.report, folded=True) if machine else None,
                self._choice(found),
                self._job_block(),
                self._buttons(machine, previous),
                section("log-fold", "What the installation said", [log("log", "Log", lines)], folded=self._job is None)
                if lines
                else None,
                builds(runtimes) if runtimes else None,
                about(current, previous) if current else None,
            ],
        )

    def _choice(self, found: _Found | None) -> Block | None:
        """The ways, the fields of the chosen one, and what Install would do."""
        if found is None:
            return None
        way, idle = words(self._form, "way"), self._job is None
        names = ["path"] if way == "path" else [name for name in DEFAULTS if name in OPTIONS_OF[way]]
        fields = [
            field(
                name,
                _FIELDS[name][0],
                self._form[name],
                kind="checkbox" if name == "native" else "text",
                help=_FIELDS[name][1],
                error=found.mistakes.get(name, ""),
                enabled=idle,
            )
            for name in names
        ]
        return section(
            "choice",
            "Getting llama.cpp",
            [
                ways_table(WAYS, found.machine.plans, way),
                section("options", "", fields, layout="columns") if fields else None,
                plan_section(found.plan) if found.plan else None,
            ],
        )

    def _status(self, machine: _Machine | None) -> tuple[Kind, str]:
        if self._job is not None:
            return "busy", self._job.label
        if machine is None:
            if self._messages:
                return "error", "This machine could not be looked at"
            return "busy", "Looking at this machine"
        problems = sum(finding.state == "problem" for finding in machine.report.findings)
        if problems:
            return "error", f"{problems} thing{'s are' if problems > 1 else ' is'} missing"
        return "ok", "Everything is here"

    def _buttons(self, machine: _Machine | None, previous: Runtime | None) -> Block:
        idle = self._job is None
        missing_something = machine is not None and not machine.report.ok
        return buttons(
            "buttons",
            [
                button("install", "Install", enabled=idle, primary=missing_something and idle),
                button("cancel", "Cancel", enabled=not idle),
                button("rollback", "Roll back", enabled=idle and previous is not None),
                button("refresh", "Look again", enabled=idle),
            ],
        )
