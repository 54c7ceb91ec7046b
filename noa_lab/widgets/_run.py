"""Watching a run: its progress, its answers, its verdicts; pausing, continuing, cancelling and exporting it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noa_lab.widgets._panel import Panel
from noa_lab.widgets._run_facts import RunFacts, read_run, run_blocks
from noa_lab.widgets._source import literal
from noa_lab.widgets._view import Block, Kind, View, button, buttons

if TYPE_CHECKING:
    from noa_lab.experiments import Run
    from noa_lab.workbench import Lab

__all__ = ["RunPanel", "RunView", "show_run"]

_RUNNING_SECONDS = 0.7
_RESTING_SECONDS = 2.0
_KINDS: dict[str, Kind] = {
    "running": "busy",
    "pausing": "busy",
    "done": "ok",
    "pending": "info",
    "paused": "info",
    "cancelled": "warn",
    "failed": "error",
}


class RunPanel(Panel):
    """A panel that shows a run, once there is one."""

    run: Run | None = None
    """The run that is shown; None before there is one."""
    _run_facts: RunFacts | None = None

    def _look_at_run(self) -> RunFacts | None:
        """What the run says; read again only where something changed. On a worker thread."""
        run = self.run
        if run is None:
            return None
        known = self._run_facts
        offset = self._offset("answers-table", known.table["total"] if known else 0)
        if known is None or not known.same_as(run, offset):
            self._run_facts = known = read_run(run, offset)
        return known

    def _watch(self) -> float | None:
        if self.run is None:
            return None
        return _RUNNING_SECONDS if self._run_facts is None or self._run_facts.running else _RESTING_SECONDS

    def do_pause(self) -> None:
        """Pause the run: cells that are being answered are finished first."""
        self._command("Pausing", lambda run: run.pause())

    def do_resume(self) -> None:
        """Go on with the run."""
        self._command("Continuing", lambda run: run.resume())

    def do_cancel_run(self) -> None:
        """Cancel the run; finished answers stay."""
        self._command("Cancelling", lambda run: run.cancel())

    def do_report(self) -> None:
        """Write the HTML report into the working folder."""
        self._export("html", lambda run, path: run.report(path))

    def do_csv(self) -> None:
        """Write all cells as CSV into the working folder."""
        from noa_lab.experiments import write_csv

        self._export("csv", lambda run, path: write_csv(run.cells(), path))

    def _command(self, label: str, command: Callable[[Run], object]) -> None:
        run = self.run
        if run is not None:
            self._work(label, lambda _report, _cancel: command(run), lambda _nothing: None)

    def _export(self, suffix: str, write: Callable[[Run, Path], object]) -> None:
        run = self.run
        if run is None:
            return
        path = Path.cwd() / f"compare-{run.run_id}.{suffix}"
        self._work(
            "Writing", lambda _report, _cancel: write(run, path), lambda _nothing: self._tell("ok", f"Written: {path}")
        )

    def _run_status(self, facts: RunFacts) -> tuple[Kind, str]:
        kind = _KINDS.get(facts.status, "info")
        return kind, f"{facts.status}" + (f", {facts.failed} failed" if facts.failed else "")

    def _run_buttons(self, facts: RunFacts | None) -> list[Block]:
        if facts is None:
            return []
        idle = self._job is None
        going = [button("pause", "Pause", enabled=idle), button("cancel_run", "Cancel", enabled=idle)]
        resting = (
            [button("resume", "Continue", enabled=idle)] if facts.status not in {"running", "pausing", "done"} else []
        )
        return going if facts.running else resting

    def _export_buttons(self, facts: RunFacts) -> Block:
        able = self._job is None and facts.done > 0
        return buttons(
            "export",
            [button("report", "Save HTML report", enabled=able), button("csv", "Save answers as CSV", enabled=able)],
        )

    def _shown_run(self, facts: RunFacts) -> list[Block | None]:
        return [*run_blocks(facts), self._export_buttons(facts)]


class RunView(RunPanel):
    """The live view of a run: progress, answers by input and prompt, verdicts; pause, continue, cancel, export.

    Args:
        run: The run.
        lab: The Lab it belongs to; default: the default Lab.
    """

    title = "Comparison"

    def __init__(self, run: Run, *, lab: Lab | None = None) -> None:
        self.run: Run = run
        super().__init__(lab, {})

    def _code(self) -> str:
        return f"import noa_lab as lab\n\nrun = lab.open_run({literal(self.run.run_id)})"

    def _look(self, form: Mapping[str, Any]) -> RunFacts | None:
        del form
        return self._look_at_run()

    def _control(self, facts: RunFacts) -> list[Block]:
        able = self._run_buttons(facts)
        return [buttons("buttons", able)] if able else []

    def _draw(self) -> View:
        facts: RunFacts | None = self._facts
        if facts is None:
            kind, status = ("error", "The run could not be read") if self._messages else ("busy", "Looking")
            return self._show(kind, status, [])  # type: ignore[arg-type]
        kind, status = self._run_status(facts)
        what = f"{facts.name} · {facts.run_id}" if facts.name else facts.run_id
        return self._show(kind, f"{what}: {status}", [*self._control(facts), *self._shown_run(facts)])


def show_run(run: Run) -> RunView | None:
    """Display the live view of a run in the notebook; what `lab.compare` calls.

    Returns:
        The view; None outside of a notebook, and on threads other than the main one: what they display would land in
        whatever cell happens to run (the ComparePanel shows its own run).
    """
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel") or threading.current_thread() is not threading.main_thread():
        return None
    view = RunView(run)
    display(view)  # type: ignore[no-untyped-call]
    return view
