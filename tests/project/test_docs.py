"""The code blocks of the README and the docs are run, not only shown."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_ELSEWHERE = {"python lab.py", "python lab.py test", "python lab.py demo", "noa-lab digest ."}
"""The first three are what runs the tests; a fresh clone of them is tried before a release. The digest, which takes a minute, is looked
at by tests/agents/test_digest_real.py."""


def blocks(language: str) -> list[pytest.ParameterSet]:
    found = []
    for page in PAGES:
        for number, match in enumerate(re.finditer(rf"(?ms)^```{language}\n(.*?)^```", page.read_text())):
            found.append(pytest.param(match[1], id=f"{page.name}-{number}"))
    return found


@pytest.mark.real
@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, home):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in str(block.values[0]).splitlines()]
    return [line for line in lines if line and line not in RUN_ELSEWHERE]


@pytest.mark.real
@pytest.mark.parametrize("command", commands())
def test_commands_run(command, home):
    words = shlex.split(command)
    assert words[0] == "noa-lab"
    done = subprocess.run(
        [sys.executable, "-m", "noa_lab.cli", *words[1:]], capture_output=True, text=True, timeout=280, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.real
@pytest.mark.parametrize("session", blocks("console"))
def test_sessions_run(session, home, monkeypatch):
    """The commands of a session, one after the other; a server that it starts takes a port that is free."""
    monkeypatch.setenv("NOA_LAB_SERVER__PORT", "0")
    program = [sys.executable, "-m", "noa_lab.cli"]
    try:
        for line in re.findall(r"(?m)^\$ noa-lab (.+)$", session):
            words = [*program, *shlex.split(line)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=280, cwd=ROOT)
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    finally:
        subprocess.run([*program, "stop", "--all"], capture_output=True, timeout=60)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
