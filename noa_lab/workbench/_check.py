"""What this machine has, and what is missing, each with its fix."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from noa_lab import runtime
from noa_lab.errors import NoaLabError
from noa_lab.paths import Home

__all__ = ["Finding", "Report", "check"]

State = Literal["ok", "warning", "problem"]

GIB = 1024**3
LOW_MEMORY_BYTES = 2 * GIB
LOW_DISK_BYTES = 4 * GIB
DISTRIBUTIONS = ("noa-lab", "llama-cpp-python", "jupyterlab", "ipykernel", "ipywidgets", "anywidget")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        state: "ok", "warning" (works, but worth knowing) or "problem" (something will not work).
        value: What was found.
        fix: What to do about it; empty when it is ok.
    """

    name: str
    state: State
    value: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings about this machine."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is a problem."""
        return all(finding.state != "problem" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.state:8} {finding.name:{width}}  {finding.value}")
            if finding.fix:
                lines.append(f"{'':8} {'':{width}}  → {finding.fix}")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A table; every text is escaped."""
        import html

        rows = "".join(
            f"<tr><td>{html.escape(f.state)}</td><td>{html.escape(f.name)}</td>"
            f'<td style="text-align:left">{html.escape(f.value)}{"<br>→ " + html.escape(f.fix) if f.fix else ""}</td></tr>'
            for f in self.findings
        )
        return f"<table><thead><tr><th>State</th><th>What</th><th>Found</th></tr></thead><tbody>{rows}</tbody></table>"


def check(home: Home, default_model: str) -> Report:
    """Look at the machine, without changing anything and without the network.

    Args:
        home: The home to look at.
        default_model: Catalogue name of the model that should be there.
    """
    return Report(
        (*_machine(home), *_python(), *_runtime(home), _bindings(), _model(home, default_model), *_versions())
    )


def _machine(home: Home) -> Iterator[Finding]:
    machine = runtime.machine()
    features = ", ".join(machine.features) or "none known"
    yield Finding("CPU", "ok", f"{machine.cpu}, {machine.cores} cores ({features})")
    free = machine.memory_available_bytes
    yield Finding(
        "Memory",
        "ok" if free >= LOW_MEMORY_BYTES else "warning",
        f"{free / GIB:.1f} of {machine.memory_bytes / GIB:.1f} GiB free",
        "" if free >= LOW_MEMORY_BYTES else "Close other programs, or use a small model.",
    )
    import shutil

    home.root.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(home.root).free
    yield Finding(
        "Disk",
        "ok" if disk >= LOW_DISK_BYTES else "warning",
        f"{disk / GIB:.1f} GiB free in {home.root}",
        "" if disk >= LOW_DISK_BYTES else "Free some space, or point NOA_LAB_HOME to another disk.",
    )
    network = machine.network_filesystem(home.root)
    if network is not None:
        yield Finding(
            "Home folder",
            "problem",
            f"{home.root} is on a network file system ({network}), where SQLite's write-ahead log is not safe",
            "Point NOA_LAB_HOME to a folder on a local disk.",
        )


def _python() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    if sys.prefix == sys.base_prefix:
        yield Finding(
            "Environment",
            "warning",
            "no virtual environment",
            "Start with `python lab.py`, which makes one for noa_lab.",
        )


def _runtime(home: Home) -> Iterator[Finding]:
    try:
        current = runtime.current(home)
    except NoaLabError as error:
        yield Finding("llama.cpp", "problem", error.message, "Run `noa-lab install`, or lab.install() in a notebook.")
        return
    yield Finding(
        "llama.cpp",
        "ok",
        f"{current.tag or 'of an unknown release'} (build {current.build_number}, commit {current.commit}, {current.backend}, "
        f"{current.source}), {current.threads} threads fastest here",
    )
    yield _backend(current)
    yield from _advisories(current)


def _backend(current: runtime.Runtime) -> Finding:
    """What this machine could compute with, and whether the current runtime does."""
    choice = runtime.choose_backend()
    if choice.backend in {"cpu", current.backend}:
        return Finding("Backend", "ok", choice.why)
    return Finding(
        "Backend",
        "warning",
        f"{choice.why}; the llama.cpp in use is built for {current.backend}",
        f"Run `noa-lab install --backend {choice.backend}`; `noa-lab rollback` goes back.",
    )


def _advisories(current: runtime.Runtime) -> Iterator[Finding]:
    """Known faults of the build in use, as servers on this machine alone are concerned."""
    for advice in runtime.advice_for(current.build_number):
        known = f"build {current.build_number}" if current.build_number > 1 else "its build number is not known"
        yield Finding(
            advice.id,
            "problem" if advice.action == "refuse" else "warning",
            f"{advice.text} ({known}; {advice.because})",
            f"Nothing has to be done on 127.0.0.1; `noa-lab install --tag b{advice.fixed}`, or a newer one, is without it."
            if advice.action == "allow"
            else f"Run `noa-lab install --tag b{advice.fixed}`, or a newer one.",
        )


def _bindings() -> Finding:
    from importlib import metadata

    try:
        version = metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return Finding("Bindings", "problem", "llama-cpp-python is not installed", "Run `python lab.py`.")
    if not runtime.bindings_linked():
        return Finding(
            "Bindings",
            "problem",
            f"llama-cpp-python {version} has no libraries",
            "Run `noa-lab install`, which links them.",
        )
    return Finding("Bindings", "ok", f"llama-cpp-python {version}")


def _model(home: Home, name: str) -> Finding:
    from noa_lab import models

    found = models.find(name, home)
    if found is None:
        return Finding("Model", "problem", f"{name} is not on this machine", f"Run `noa-lab models get {name}`.")
    return Finding("Model", "ok", f"{found.name} ({found.metadata.quantization}, {found.size_bytes / 1e6:.0f} MB)")


def _versions() -> Iterator[Finding]:
    from importlib import metadata

    for name in DISTRIBUTIONS:
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, "problem", "not installed", "Run `python lab.py`.")
