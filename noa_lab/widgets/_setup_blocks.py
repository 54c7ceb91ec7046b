"""How a machine's setup is shown: what is here, what is missing, the ways to a llama.cpp, and what the chosen one would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from noa_lab.widgets._view import Block, Kind, cell, column, facts, section, table, text

if TYPE_CHECKING:
    from noa_lab.runtime import InstallPlan, Runtime
    from noa_lab.workbench import Finding, Report

__all__ = ["about", "builds", "here", "missing", "plan_section", "ways_table"]

_KINDS: dict[str, Kind] = {"ok": "ok", "warning": "warn", "problem": "error"}
_COLUMNS = [column("What"), column("Found", wide=True), column("State")]


def missing(report: Report) -> Block | None:
    """What will not work, and what is worth knowing, each with its fix; None when there is neither."""
    found = sorted((one for one in report.findings if one.state != "ok"), key=lambda one: one.state == "warning")
    label = "What is missing, or worth knowing"
    return section("missing-part", label, [table("missing", label, _COLUMNS, map(_finding, found))]) if found else None


def here(report: Report, *, folded: bool) -> Block:
    """What is as it should be."""
    found = [finding for finding in report.findings if finding.state == "ok"]
    return section(
        "here-fold",
        f"What is here ({len(found)})",
        [table("here", "What is here", _COLUMNS, map(_finding, found))],
        folded=folded,
    )


def _finding(finding: Finding) -> list[str | Block]:
    words = f"{finding.value}\n→ {finding.fix}" if finding.fix else finding.value
    return [finding.name, words, cell("", marks=[(_KINDS[finding.state], finding.state)])]


def ways_table(ways: Mapping[str, str], plans: Mapping[str, InstallPlan], chosen: str) -> Block:
    """The ways to a llama.cpp; the name of each chooses it."""
    rows = [_way(way, purpose, plans.get(way), chosen) for way, purpose in ways.items()]
    return table(
        "ways", "Ways to get llama.cpp", [column("Way"), column("What it is for", wide=True), column("Here")], rows
    )


def _way(way: str, purpose: str, plan: InstallPlan | None, chosen: str) -> list[str | Block]:
    state: tuple[Kind, str] = ("info", "needs the network") if way == "release" else ("info", "yours to name")
    if plan is not None and plan.obstacles:
        state = ("warn", "something is missing")
    elif plan is not None and way != "release":
        state = ("ok", "in use" if plan.ready else "possible")
    return [cell(way, action="choose", chosen=way == chosen, args={"way": way}), purpose, cell("", marks=[state])]


def plan_section(plan: InstallPlan) -> Block:
    """What Install would do: the steps in order, what comes next, what stands in the way."""
    rows = [[str(number), step] for number, step in enumerate(plan.steps, 1)]
    columns = [column("Step", align="end"), column("What", wide=True)]
    otherwise = f"If it does not work here: {'; then '.join(plan.otherwise)}." if plan.otherwise else ""
    label = "What Install would do"
    blocks = [
        table("plan", label, columns, rows, empty="Nothing can be done this way."),
        text("otherwise", otherwise) if otherwise else None,
        *(
            text(f"obstacle{number}", f"{obstacle.message}\n→ {obstacle.fix}", kind="warn")
            for number, obstacle in enumerate(plan.obstacles)
        ),
    ]
    return section("plan-part", label, blocks)


def builds(runtimes: Sequence[Runtime]) -> Block:
    """The llama.cpp builds of this home."""
    columns = [
        column("llama.cpp", wide=True),
        column("Build", align="end"),
        column("Backend"),
        column("Came from"),
        column("Used as"),
    ]
    rows: list[list[str | Block]] = [
        [one.id, str(one.build_number), one.backend, one.source, cell("", marks=[("ok", mark) for mark in one.marks])]
        for one in runtimes
    ]
    return table("runtimes", "llama.cpp on this machine", columns, rows)


def about(runtime: Runtime, previous: Runtime | None) -> Block:
    """What is known of the llama.cpp in use."""
    checked = {True: "yes", False: "no: nothing published to hold them against", None: ""}[runtime.verified]
    items = [
        (
            "llama.cpp",
            f"{runtime.tag or 'of an unknown release'}, build {runtime.build_number}, commit {runtime.commit}",
        ),
        ("Backend", runtime.backend),
        ("Devices", "; ".join(runtime.devices)),
        ("Threads", f"{runtime.threads} (fastest when installed)"),
        ("Came from", f"{runtime.source} {runtime.url}".strip()),
        ("Digests checked", checked),
        ("Compiler", runtime.compiler),
        ("Built with", " ".join(runtime.flags) or "its defaults"),
        ("Programs", ", ".join(runtime.tools)),
        ("Installed", runtime.installed),
        ("Folder", str(runtime.folder)),
        ("Rolls back to", previous.id if previous else ""),
    ]
    shown = [(name, value) for name, value in items if value]
    return section(
        "runtime", "The llama.cpp in use", [facts("runtime-facts", "The llama.cpp in use", shown)], folded=True
    )
