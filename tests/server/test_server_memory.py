"""`lab.serve` and memory on a real server: refused, let through, written down, and used the next time."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from control_groups import JOIN, control_group, oom_kills

from noa_lab.errors import NotEnoughMemory
from noa_lab.events import Progress
from noa_lab.models import ModelFile, memory
from noa_lab.models.memory import _find_fit as finding
from noa_lab.paths import Home
from noa_lab.runtime import FreeMemory, Runtime
from noa_lab.workbench import Lab

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

SMALL = {"context_size": 512, "slots": 1}


def pretend(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(finding, "free_memory", lambda: FreeMemory(free_bytes, 2 * free_bytes, "control group"))


def test_what_cannot_fit_is_not_started_unless_told_to(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(home)
    pretend(monkeypatch, 250_000_000)
    with pytest.raises(NotEnoughMemory) as caught:
        lab.serve(context_size=8192, slots=4)
    error = caught.value
    assert isinstance(error, MemoryError)
    assert "4 slots of 8,192 tokens needs 0.9 GB" in error.message
    assert "control group" in error.message
    assert error.fields["free_bytes"] == 250_000_000
    assert error.fields["needed_bytes"] > 800_000_000
    assert f"context_size={error.fields['largest_context']}" in error.fix
    assert "--allow-oversize" in error.fix
    assert lab.servers() == []
    pretend(monkeypatch, 50_000_000)
    with pytest.raises(NotEnoughMemory):
        lab.serve(**SMALL)
    with lab.serve(allow_oversize=True, **SMALL) as server:
        assert server.state == "ready"
        # One that is up takes nothing more: it can be joined.
        with lab.serve(**SMALL) as joined:
            assert joined.joined


def test_what_may_not_fit_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(home)
    needed = lab.models.fit(**SMALL).bytes
    pretend(monkeypatch, needed)
    told: list[Progress] = []
    with lab.serve(report=told.append, **SMALL):
        pass
    assert any("may not fit" in each.message for each in told)


def test_a_load_is_written_down_once_and_makes_the_next_answer_surer(home: Home) -> None:
    lab = Lab(home)
    before = lab.models.fit(context_size=1024, slots=1)
    assert (before.loads, before.how) == (0, "llama-fit-params")
    for _ in range(2):
        with lab.serve(**SMALL) as server:
            assert server.status().memory_bytes > 100_000_000
    (load,) = memory.past_loads(home)
    assert (load.model, load.architecture, load.settings.context_size) == ("smollm2-135m", "llama", 512)
    assert load.peak_bytes > 100_000_000
    after = lab.models.fit(context_size=1024, slots=1)
    assert after.loads == 1
    assert "corrected by 1 past load" in str(after)
    assert after.high_bytes - after.low_bytes < before.high_bytes - before.low_bytes
    assert after.bytes == pytest.approx(before.bytes, rel=0.05)


def test_six_loads_of_a_model_are_enough(home: Home, model: ModelFile, runtime: Runtime) -> None:
    for slots in range(1, 10):
        settings = memory.MemorySettings(512, slots)
        memory.remember_load(home, model, runtime, settings, load_mode="auto", peak_bytes=200_000_000)
    assert [load.settings.slots for load in memory.past_loads(home)] == [1, 2, 3, 4, 5, 6]


def test_a_home_that_cannot_be_written_to_hinders_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finding, "record_load", full)
    told: list[Progress] = []
    with Lab(home).serve(report=told.append, **SMALL) as server:
        assert server.state == "ready"
    assert any("could not be written down" in each.message for each in told)


INSIDE = f"""{JOIN}
import json
import noa_lab as lab
from noa_lab.errors import NotEnoughMemory
fit = lab.models.fit(context_size=8192, slots=4)
try:
    lab.serve(context_size=8192, slots=4)
    refused = False
except NotEnoughMemory:
    refused = True
largest = lab.models.fit(slots=1).largest_context
with lab.serve(context_size=largest, slots=1) as server, server.engine() as engine:
    text = str(engine.generate("word " * min(200, largest // 2), lab.InferenceConfig(max_tokens=4, temperature=0.0)))
print(json.dumps([fit.verdict, fit.limited_by, refused, largest, text]))
"""


def test_in_a_container_what_is_said_to_fit_runs_and_what_is_not_is_refused(home: Home) -> None:
    """A real control group of 380 MB, the kernel's own; nothing is killed for lack of memory."""
    with control_group("serve", 380_000_000) as group:
        command = [sys.executable, "-c", INSIDE, str(group)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=220, env=os.environ)
        assert done.returncode == 0, done.stderr[-2000:]
        verdict, limited_by, refused, largest, text = json.loads(done.stdout)
        assert (verdict, limited_by, refused) == ("does not fit", "control group", True)
        assert 256 <= largest < 8192
        assert text
        assert oom_kills(group) == 0
