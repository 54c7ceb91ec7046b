"""The setup panel: what is here, what is missing, what each way would do, and that the buttons do just that."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from panel_fakes import RUNTIME
from test_panels import block, blocks, button, eventually, send

from noa_lab.errors import UnknownName
from noa_lab.widgets import SetupPanel, _pump

OLDER = replace(RUNTIME, id="b11000-release", tag="b11000", build_number=11000, source="release")


def texts(panel, name):
    return [[cell if isinstance(cell, str) else cell["text"] for cell in row] for row in block(panel, name)["rows"]]


def fields(panel):
    return [found["id"] for found in blocks(panel, "field")]


def test_what_is_missing_comes_with_its_fix_and_what_is_here_is_folded(lab, opened):
    panel = opened(SetupPanel(lab))
    assert texts(panel, "missing")[0][:2] == ["llama.cpp", "not here <b>\n→ Run `noa-lab install`."]
    assert block(panel, "here-fold")["folded"]
    assert [row[0] for row in texts(panel, "here")] == ["CPU"]
    lab.installed = True
    send(panel, "refresh")
    assert [row[0] for row in texts(panel, "missing")] == ["Memory"]
    assert block(panel, "runtimes")["rows"][0][0] == "b11312-cpu"


def test_each_way_says_what_it_is_for_and_whether_it_is_open_here(lab, opened):
    panel = opened(SetupPanel(lab))
    assert [row[0] for row in texts(panel, "ways")] == ["auto", "release", "source", "system", "path"]
    marks = {row[0]["text"]: row[2]["marks"][0] for row in block(panel, "ways")["rows"]}
    assert marks["system"] == ["warn", "something is missing"]
    assert marks["source"] == ["ok", "possible"]
    assert marks["release"] == ["info", "needs the network"]


@pytest.mark.parametrize(
    ("way", "shown"),
    [
        ("auto", ["backend"]),
        ("release", ["tag", "backend", "mirror"]),
        ("source", ["backend", "native", "source_path"]),
        ("system", []),
        ("path", ["path"]),
    ],
)
def test_a_way_shows_its_own_fields_and_what_install_would_do(lab, opened, way, shown):
    panel = opened(SetupPanel(lab))
    send(panel, "choose", way=way)
    assert fields(panel) == shown
    if way == "path":
        assert "No programs are named" in block(panel, "path")["error"]
        assert "plan" not in [found["id"] for found in blocks(panel)]
    elif way == "system":
        assert texts(panel, "plan") == []
        assert "Install one." in block(panel, "obstacle0")["text"]
    else:
        assert texts(panel, "plan")[0] == ["1", f"Get llama.cpp by {way} "]
        assert "the one in use stays" in block(panel, "otherwise")["text"]


def test_the_plan_follows_what_is_typed_and_looks_at_the_machine_only_once(lab, opened):
    checks, check = [], lab.check
    lab.check = lambda: checks.append(1) or check()
    panel = opened(SetupPanel(lab, source="release"))
    assert panel.settle()
    for number, tag in enumerate(("b", "b1131", "b11312"), 1):
        send(panel, "edit", {"tag": tag}, seq=number)
    assert texts(panel, "plan")[0][1] == "Get llama.cpp by release b11312"
    assert checks == [1]
    send(panel, "edit", {"tag": "11312"}, seq=9)
    assert "not a release tag" in block(panel, "tag")["error"]
    assert "latest-stable" in block(panel, "tag")["error"]
    send(panel, "install", seq=10)
    assert panel.settle()
    assert [call for call in lab.calls if call[0] == "install"] == [("install", {"source": "release", "tag": "11312"})]


def test_what_an_installation_said_stays_when_it_is_over_before_it_could_be_shown(lab, opened, monkeypatch):
    monkeypatch.setattr(_pump, "_GAP", 1.0)
    panel = opened(SetupPanel(lab))
    assert panel.settle()
    send(panel, "install")
    assert "Build llama.cpp" in block(panel, "log")["text"]


def test_install_does_what_the_code_says_and_tells_what_was_passed_over(lab, opened):
    lab.notes = ("The build for NVIDIA GPUs: llama-server died with SIGILL. Next: the portable build.",)
    panel = opened(SetupPanel(lab, backend="cuda"))
    assert 'lab.install(backend="cuda")' in panel.code
    send(panel, "install")
    assert panel.settle()
    assert lab.calls == [("install", {"backend": "cuda"})]
    assert [one["kind"] for one in panel.view["messages"]] == ["warn", "ok"]
    assert "SIGILL" in panel.view["messages"][0]["text"]
    assert panel.view["state"] == "ok"
    assert "Build llama.cpp" in block(panel, "log")["text"]
    assert texts(panel, "plan")[0][1] == "Get llama.cpp by auto "
    send(panel, "edit", {"backend": ""}, seq=2)
    assert "in use" in texts(panel, "plan")[0][1]


def test_rolling_back_and_forth(lab, opened):
    lab.installed = True
    panel = opened(SetupPanel(lab))
    assert panel.settle()
    assert not button(panel, "rollback")["enabled"]
    lab.builds = [RUNTIME, OLDER]
    send(panel, "refresh")
    assert button(panel, "rollback")["enabled"]
    assert ["Rolls back to", OLDER.id] in block(panel, "runtime-facts")["items"]
    send(panel, "rollback", seq=2)
    assert [row[0] for row in texts(panel, "runtimes")] == [OLDER.id, RUNTIME.id]
    assert OLDER.id in panel.view["messages"][0]["text"]
    lab.builds = [RUNTIME]
    send(panel, "rollback", seq=3)
    assert panel.settle()
    assert "no earlier llama.cpp" in panel.view["messages"][0]["text"]
    assert [row[0] for row in texts(panel, "runtimes")] == [RUNTIME.id]


def test_while_it_installs_nothing_can_be_filled_in_and_a_failure_looks_anew(lab, opened):
    lab.gate = threading.Event()
    panel = opened(SetupPanel(lab, source="source"))
    send(panel, "install")
    eventually(lambda: panel._job is not None)
    eventually(lambda: panel.view["status"] == "Installing")
    states = {item["action"]: item["enabled"] for item in _buttons(panel.view["blocks"])}
    assert states == {"install": False, "cancel": True, "rollback": False, "refresh": False}
    lab.installed = True
    send(panel, "cancel", seq=2)
    assert panel.settle()
    assert "cancelled" in panel.view["messages"][0]["text"]
    assert panel.view["state"] == "ok"


def _buttons(found):
    return next(one["items"] for one in found if one["id"] == "buttons")


def test_a_way_that_is_none_and_options_that_are_none(lab, opened):
    panel = opened(SetupPanel(lab))
    send(panel, "choose", way="sorce")
    assert panel.settle()
    assert "There is no way 'sorce'" in panel.view["messages"][0]["text"]
    send(panel, "edit", {"way": "sorce"}, seq=2)
    assert panel.settle()
    assert panel.view["messages"][0]["kind"] == "error"
    assert texts(panel, "ways")
    with pytest.raises(UnknownName, match="option 'tagg'"):
        SetupPanel(lab, tagg="b1")
