"""Hostile regular expressions: they may neither hang a run nor leave a process behind."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import psutil
import pytest

from noa_lab.errors import ExperimentError
from noa_lab.experiments import score
from noa_lab.experiments.score import _matching

EXPLODES = r"(a+)+$"
TEXT = "a" * 40 + "!"


def _child() -> psutil.Process:
    assert _matching.search("a+", "a")
    process = _matching._searcher._child
    assert process is not None
    return psutil.Process(process.pid)


@pytest.mark.parametrize("pattern", [EXPLODES, r"(a|a)*$", r"(a?){40}a{40}b", r"^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_catastrophic_pattern_ends_in_time(pattern: str) -> None:
    began = time.monotonic()
    with pytest.raises(ExperimentError, match="took more than"):
        _matching.search(pattern, TEXT, seconds=0.3)
    assert time.monotonic() - began < 15
    assert _matching.search(r"a+!", TEXT), "the next search works"


def test_other_threads_go_on_meanwhile() -> None:
    turns = 0
    stop = threading.Event()

    def count() -> None:
        nonlocal turns
        while not stop.wait(0.01):
            turns += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        with pytest.raises(ExperimentError):
            _matching.search(EXPLODES, TEXT, seconds=0.5)
    finally:
        stop.set()
        thread.join()
    assert turns > 2


def test_a_scorer_gives_up_after_three_slow_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def slow(pattern: str, text: str, *, ignore_case: bool) -> bool:
        asked.append(pattern)
        raise ExperimentError("too slow", fix="")

    monkeypatch.setattr("noa_lab.experiments.score._texts.search", slow)
    scorer = score.regex(EXPLODES)
    for _ in range(5):
        with pytest.raises(ExperimentError):
            scorer(TEXT, {})
    assert len(asked) == 3


def test_the_child_is_used_again_and_replaced_when_killed() -> None:
    first = _child()
    assert _child().pid == first.pid
    first.kill()
    first.wait(5)
    assert _child().pid != first.pid


def test_simple_patterns_need_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_matching, "_searcher", None)
    assert _matching.search(r"^Par.s\b[ab]", "Paris") is False
    assert _matching.search("^Par.s$", "Paris") is True


def test_surrogates_and_newlines_reach_the_child() -> None:
    assert _matching.search("x+\ud800", "xx\ud800")
    assert _matching.search("(?s)a.+b", "a\n\nb")


def test_the_child_ends_with_its_parent() -> None:
    code = (
        "from noa_lab.experiments.score import _matching as m; import os; m.search('a+', 'a');"
        "print(m._searcher._child.pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    pid = int(done.stdout)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)
