"""What the steps of one installation share."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from noa_lab.errors import NoaLabError, RuntimeRejected
from noa_lab.events import CancelToken, Progress, Report
from noa_lab.paths import Home

__all__ = ["TEST", "Job"]

TEST = "Test llama.cpp"


@dataclass(frozen=True, slots=True)
class Job:
    """One installation.

    Attributes:
        home: Where it goes.
        model: A small GGUF file that everything is tried with.
        report: Told about the progress.
        cancel: Stops it.
        notes: What was tried and why it was given up; they end up on the `Runtime` that `install` returns.
        rejected: Builds that have failed their trial in this installation, by name: none is made twice.
    """

    home: Home
    model: Path
    report: Report
    cancel: CancelToken | None
    notes: list[str] = field(default_factory=list)
    rejected: dict[str, RuntimeRejected] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """Folder for what is fetched, unpacked and built."""
        path = self.home.downloads / "runtime"
        path.mkdir(exist_ok=True)
        return path

    def tell(self, step: str, message: str = "", *, finished: bool = False) -> None:
        """Report a step."""
        self.report(Progress(step, message, finished=finished))

    def give_up(self, what: str, error: NoaLabError, then: str) -> None:
        """Say that a way did not work and what comes next; nothing is replaced in silence.

        Args:
            what: What was tried, in words.
            error: How it failed.
            then: What comes next, in words.
        """
        reason = str(error.fields.get("reason") or error.message.splitlines()[0]).rstrip(".")
        note = f"{what}: {reason}. Next: {then}."
        if note not in self.notes:
            self.notes.append(note)
            self.tell("Give up", note)

    def sweep(self) -> None:
        """Remove what an interrupted installation left half-done, but not what can be continued; only under the lock."""
        leftovers = [
            *self.home.runtimes.glob(".staging-*"),
            *self.home.runtimes.glob(".old-*"),
            *self.work.glob(".unpack-*"),
            *self.work.glob(".pip-*"),
        ]
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)

    def tidy(self) -> None:
        """Remove sources, builds and downloads, which nothing needs any more."""
        shutil.rmtree(self.home.downloads / "runtime", ignore_errors=True)
