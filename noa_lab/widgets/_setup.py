"""What is here, what is missing, and the button that installs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.widgets._panel import Panel
from noa_lab.widgets._view import Block, Kind, View, button, buttons, cell, column, facts, log, section, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from noa_lab.runtime import Runtime
    from noa_lab.workbench import Finding, Lab, Report

__all__ = ["SetupPanel"]

_KINDS: dict[str, Kind] = {"ok": "ok", "warning": "warn", "problem": "error"}
_ORDER = ("problem", "warning", "ok")
_LOG_LINES = 40


@dataclass(frozen=True, slots=True)
class _Found:
    report: Report
    runtime: Runtime | None


class SetupPanel(Panel):
    """What this machine has and what is missing; installs llama.cpp and the default model, with progress and cancel.

    Args:
        lab: The Lab to look at; default: the default Lab.
    """

    title = "Set up"
    intro = (
        "llama.cpp and a small model on this machine. The first installation compiles llama.cpp and takes some minutes."
    )

    def __init__(self, lab: Lab | None = None) -> None:
        self._lines: list[str] = []
        super().__init__(lab, {})

    def _code(self) -> str:
        return "import noa_lab as lab\n\nlab.check()\nlab.install()"

    def _look(self, form: Mapping[str, Any]) -> _Found:
        del form
        current = self.lab.runtimes()
        return _Found(self.lab.check(), current[0] if current else None)

    def do_install(self) -> None:
        """Install what is missing."""
        self._work("Installing", lambda report, cancel: self.lab.install(report=report, cancel=cancel), self._installed)

    def _installed(self, runtime: Runtime) -> None:
        self._tell("ok", f"llama.cpp {runtime.tag} is installed and verified.", "")

    def _draw(self) -> View:
        if self._job is not None:
            self._lines = list(self._job.lines)[-_LOG_LINES:]
        found: _Found | None = self._facts
        return self._show(
            *self._status(found),
            [
                self._job_block(),
                self._buttons(found),
                section(
                    "log-fold", "What the installation said", [log("log", "Log", self._lines)], folded=self._job is None
                )
                if self._lines
                else None,
                _findings(found.report) if found else None,
                _runtime(found.runtime) if found and found.runtime else None,
            ],
        )

    def _status(self, found: _Found | None) -> tuple[Kind, str]:
        if self._job is not None:
            return "busy", "Installing"
        if found is None:
            return (
                ("error", "This machine could not be looked at")
                if self._messages
                else ("busy", "Looking at this machine")
            )
        problems = sum(finding.state == "problem" for finding in found.report.findings)
        if problems:
            return "error", f"{problems} thing{'s are' if problems > 1 else ' is'} missing"
        return "ok", "Everything is here"

    def _buttons(self, found: _Found | None) -> Block:
        idle = self._job is None
        missing = found is not None and not found.report.ok
        return buttons(
            "buttons",
            [
                button("install", "Install", enabled=idle, primary=missing and idle),
                button("cancel", "Cancel", enabled=not idle),
                button("refresh", "Look again", enabled=idle),
            ],
        )


def _findings(report: Report) -> Block:
    findings = sorted(report.findings, key=lambda finding: _ORDER.index(finding.state))
    return table(
        "findings",
        "What was looked at",
        [column("What"), column("Found", wide=True), column("State")],
        map(_finding, findings),
    )


def _finding(finding: Finding) -> list[str | Block]:
    words = f"{finding.value}\n→ {finding.fix}" if finding.fix else finding.value
    return [finding.name, words, cell("", marks=[(_KINDS[finding.state], finding.state)])]


def _runtime(runtime: Runtime) -> Block:
    items = [
        ("llama.cpp", f"{runtime.tag}, build {runtime.build_number}, commit {runtime.commit}"),
        ("Backend", runtime.backend),
        ("Threads", f"{runtime.threads} (fastest when installed)"),
        ("Came from", runtime.source),
        ("Compiler", runtime.compiler),
        ("Built with", " ".join(runtime.flags) or "its defaults"),
        ("Programs", ", ".join(runtime.tools)),
        ("Folder", runtime.folder),
    ]
    return section("runtime", "The llama.cpp in use", [facts("runtime-facts", "The llama.cpp in use", items)])
