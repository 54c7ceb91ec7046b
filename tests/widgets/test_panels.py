"""Panels without a browser: messages are played, traits recorded."""

from __future__ import annotations

import json
import threading
import time
from itertools import pairwise

import pytest
from panel_fakes import FakeLab

from noa_lab.errors import BadInput, BuildFailed, DownloadFailed
from noa_lab.server import ServerStatus
from noa_lab.widgets import ComparePanel, ModelPanel, ServerPanel, SetupPanel
from noa_lab.workbench import Lab


def send(panel, action, values=None, client="c1", seq=1, **args):
    panel._handle_custom_msg({"action": action, "args": args, "values": values or {}, "client": client, "seq": seq}, [])


def blocks(panel, kind=None):
    def walk(items):
        for item in items:
            yield item
            yield from walk(item.get("blocks", []))

    assert panel.settle()
    return [
        block | panel.parts.get(block["id"], {})
        for block in walk(panel.view["blocks"])
        if kind in {None, block["type"]}
    ]


def block(panel, name):
    return next(found for found in blocks(panel) if found["id"] == name)


def button(panel, action):
    return next(item for found in blocks(panel, "buttons") for item in found["items"] if item["action"] == action)


def eventually(true, seconds=30.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("did not happen")


def test_the_fake_lab_has_the_signatures_of_the_real_one():
    import inspect

    for name in (
        *("check", "install", "plan_install", "rollback", "runtimes", "serve", "servers", "stop", "compare"),
        *("foreign_servers", "keep", "test_server", "tune"),
    ):
        real = list(inspect.signature(getattr(Lab, name)).parameters)
        assert list(inspect.signature(getattr(FakeLab, name)).parameters) == real, name
    verbs = ("list", "get", "find", "show", "fit", "verify", "stored", "import_model", "quantize", "quantization_types")
    for name in (*verbs, "plan_removal", "remove", "disk"):
        real = list(inspect.signature(getattr(type(Lab().models), name)).parameters)
        assert list(inspect.signature(getattr(type(FakeLab().models), name)).parameters) == real, name


def test_making_and_showing_a_panel_only_looks(lab, opened):
    gate, check = threading.Event(), lab.check
    lab.check = lambda: gate.wait(30) and check()
    panel = opened(SetupPanel(lab))
    assert not panel._looker.first.is_set(), "it does not wait for its first look"
    gate.set()
    assert panel.settle()
    assert lab.threads == set()
    assert panel.view["state"] == "error"
    assert "missing" in panel.view["status"]


def test_install_shows_progress_then_the_truth(lab, opened):
    lab.gate = threading.Event()
    panel = opened(SetupPanel(lab))
    assert panel.settle()
    send(panel, "install", seq=7)
    eventually(lambda: panel.view["state"] == "busy" and any(b["type"] == "progress" for b in panel.view["blocks"]))
    assert panel.view["seen"] == {"c1": 7}
    eventually(lambda: "part 19" in json.dumps(panel.parts))
    lab.gate.set()
    assert panel.settle()
    assert panel.view["state"] == "ok"
    assert "b11312" in panel.view["messages"][0]["text"]
    assert dict(block(panel, "runtime-facts")["items"])["Threads"].startswith("2")
    assert not any(b["type"] == "progress" for b in panel.view["blocks"])


def test_long_work_runs_neither_on_the_callers_thread_nor_on_the_pump(lab, opened):
    panel = opened(SetupPanel(lab))
    send(panel, "install")
    assert panel.settle()
    assert lab.threads == {"noa-lab: Installing"}


def test_cancel_ends_the_work_and_says_so(lab, opened):
    lab.gate = threading.Event()
    panel = opened(SetupPanel(lab))
    send(panel, "install")
    eventually(lambda: panel._job is not None)
    send(panel, "cancel", seq=2)
    assert panel.settle()
    assert [(one["kind"], "cancelled" in one["text"]) for one in panel.view["messages"]] == [("info", True)]
    assert panel.view["state"] == "error"


def test_a_second_press_while_work_goes_on_starts_nothing(lab, opened):
    lab.gate = threading.Event()
    panel = opened(ModelPanel("tiny-q2", lab=lab))
    send(panel, "get")
    eventually(lambda: panel._job is not None)
    first = panel._job
    send(panel, "get", seq=2)
    eventually(lambda: panel.view["messages"])
    assert panel._job is first
    assert "still going on" in panel.view["messages"][0]["text"]
    lab.gate.set()


@pytest.mark.parametrize(
    ("error", "text", "fix"),
    [
        (BuildFailed("The compiler gave up.", fix="Install g++."), "The compiler gave up.", "Install g++."),
        (
            DownloadFailed("No bytes <b>came</b>.", fix="Check the network."),
            "No bytes <b>came</b>.",
            "Check the network.",
        ),
        (RuntimeError("surprise"), "RuntimeError: surprise", "raise panel.error"),
    ],
)
def test_errors_of_work_appear_in_the_message_strip(lab, opened, error, text, fix):
    lab.error = error
    panel = opened(SetupPanel(lab))
    send(panel, "install")
    assert panel.settle()
    (told,) = panel.view["messages"]
    assert (told["kind"], told["text"]) == ("error", text)
    assert fix in told["fix"]
    assert panel.error is error


@pytest.mark.parametrize(
    "content",
    [
        *(None, 3, "install", {}, {"action": 3}, {"action": "no_such"}, {"action": "_publish"}),
        *(
            {"action": "edit", "values": {"nope": "x"}},
            {"action": "edit", "values": {"slots": 3}},
            {"action": "edit", "values": {"keep": "yes"}},
        ),
        *(
            {"action": "page", "args": {"table": "t", "by": "x"}},
            {"action": "start", "args": {"unknown": 1}},
            {"action": "edit", "values": 3},
        ),
    ],
)
def test_messages_that_make_no_sense_are_told_and_hurt_nothing(lab, opened, content):
    panel = opened(ServerPanel(lab=lab))
    assert panel.settle()
    panel._handle_custom_msg(content, [])
    assert panel.settle()
    assert [one["kind"] for one in panel.view["messages"]] == ["error"]
    assert lab.calls == []
    send(panel, "start")
    assert panel.settle()
    assert panel.server is not None


def test_the_browser_never_writes_traits_and_callbacks_only_queue(lab, opened):
    panel = opened(SetupPanel(lab))
    assert panel.settle()
    writers = set()
    panel.observe(lambda _change: writers.add(threading.current_thread().name), ["view", "parts"])
    gate = threading.Event()
    panel._pump.submit(lambda: gate.wait(30))
    for number in range(200):
        send(panel, "edit", {"way": "auto"}, seq=number + 1)
    assert panel._seen == {}, "they return while the pump is busy"
    gate.set()
    assert threading.current_thread().name not in writers
    panel.press("install")
    assert panel.settle()
    assert writers <= {"noa-lab panel SetupPanel"}


def test_progress_is_sent_at_most_ten_times_a_second(lab, opened):
    panel = opened(SetupPanel(lab))
    assert panel.settle()
    changes, reports = [], []
    panel.observe(lambda _change: changes.append(panel._pump._published), "view")

    def work(step, report, cancel, **_):
        from noa_lab.events import Progress

        end = time.monotonic() + 30
        while len(changes) < 6 and time.monotonic() < end:
            reports.append(1)
            report(Progress(step, f"line {len(reports)}", len(reports), 1e9))

    lab.work = work
    send(panel, "install")
    assert panel.settle(60)
    assert 6 <= len(changes) < len(reports)
    assert min(later - earlier for earlier, later in pairwise(changes)) > 0.099


def test_only_what_changed_is_sent_and_rows_travel_apart(lab, opened):
    panel = opened(ModelPanel(lab=lab))
    assert panel.settle()
    sent = []
    panel._send = lambda message, buffers=None: sent.append(message)
    panel.fill(model="tiny")
    assert panel.settle()
    assert sent
    assert "about 5 GB" in json.dumps(panel.parts)
    assert "about 5 GB" not in json.dumps([message["state"].get("view") for message in sent])


def test_models_are_chosen_from_the_table_and_unknown_names_are_marked(lab, opened):
    panel = opened(ModelPanel(lab=lab))
    send(panel, "choose", model="tiny-q2")
    assert block(panel, "model")["value"] == "tiny-q2"
    assert block(panel, "detail-facts")["label"] == "About tiny-q2"
    send(panel, "edit", {"model": "tiny-q"}, seq=2)
    assert "Did you mean 'tiny-q2'?" in block(panel, "model")["error"]
    send(panel, "get", seq=3)
    assert panel.settle()
    assert panel.view["messages"][0]["kind"] == "error"
    send(panel, "choose", seq=4, model="smollm2-135m")
    send(panel, "get", seq=5)
    assert panel.settle()
    assert panel.model.name == "smollm2-135m"


def test_server_starts_with_what_the_form_says_and_is_let_go_of(lab, opened):
    panel = opened(ServerPanel("smollm2-135m", slots=4, lab=lab))
    send(panel, "start", {"context_size": "512", "threads": "", "keep": True})
    assert panel.settle()
    assert lab.calls == [("serve", "smollm2-135m", True, {"slots": 4, "context_size": 512})]
    assert panel.view["state"] == "ok"
    server = panel.server
    panel.close()
    assert server.released


def test_a_wrong_number_is_marked_at_its_field_and_not_started(lab, opened):
    panel = opened(ServerPanel(lab=lab))
    send(panel, "start", {"slots": "two"})
    assert "whole number" in block(panel, "slots")["error"]
    assert lab.calls == []
    send(panel, "start", {"slots": "0"}, seq=2)
    assert panel.settle()
    assert "slots" in block(panel, "slots")["error"]
    assert panel.view["messages"][0]["kind"] == "error"
    assert lab.calls == []


def test_a_server_that_is_up_already_is_shown_by_a_new_panel_and_can_be_stopped(lab, opened):
    first = opened(ServerPanel(lab=lab))
    send(first, "start")
    assert first.settle()
    second = opened(ServerPanel(lab=lab))
    assert second.settle()
    assert "smollm2-135m ready" in second.view["status"]
    send(second, "stop", server="smollm2-135m")
    assert second.settle()
    assert lab.up == []
    assert "No server" in second.view["status"]


def test_further_settings_are_started_with_and_their_section_is_open(lab, opened):
    panel = opened(ServerPanel("smollm2-135m", cache_type_k="q8_0", gpu_layers=-1, embeddings=True, lab=lab))
    assert panel.settle()
    assert block(panel, "more-settings")["folded"] is False
    send(panel, "start", {"load_mode": "none", "ubatch_size": "256"})
    assert panel.settle()
    wanted = {"cache_type_k": "q8_0", "gpu_layers": -1, "embeddings": True, "load_mode": "none", "ubatch_size": 256}
    assert lab.calls == [("serve", "smollm2-135m", False, wanted)]
    with pytest.raises(BadInput, match="no field"):
        ServerPanel(hang_seconds=5, lab=lab)
    with pytest.raises(BadInput, match="cache_type_k"):
        ServerPanel(cache_type_k="q9", lab=lab)


def test_what_is_known_of_a_server_is_shown(lab, opened):
    panel = opened(ServerPanel(lab=lab))
    send(panel, "start")
    assert panel.settle()
    about = dict(block(panel, "server-facts")["items"])
    assert about["Threads"] == "2 (tuned for this model)"
    assert about["Memory"] == "260.0 MB now, 300.0 MB at most"
    assert about["Tokens/s"] == "38 now, 42 on average"
    assert [row[2:] for row in block(panel, "slots-table")["rows"]] == [["1,200", "17", "4,096"], ["0", "0", "4,096"]]


def test_keep_and_follow_are_one_button(lab, opened):
    panel = opened(ServerPanel(lab=lab))
    send(panel, "start")
    assert panel.settle()
    shown = {one["action"]: one for one in block(panel, "buttons")["items"]}
    assert shown["keep"]["label"] == "Keep it"
    send(panel, "keep", seq=2, **shown["keep"]["args"])
    assert panel.settle()
    shown = {one["action"]: one for one in block(panel, "buttons")["items"]}
    assert (shown["keep"]["label"], shown["keep"]["args"]["stay"]) == ("Let it follow its holders", False)
    send(panel, "keep", seq=3, **shown["keep"]["args"])
    assert panel.settle()
    assert lab.calls[-2:] == [("keep", "smollm2-135m", True), ("keep", "smollm2-135m", False)]


def test_a_check_tells_its_timings_and_its_failure(lab, opened):
    panel = opened(ServerPanel(lab=lab))
    send(panel, "start")
    assert panel.settle()
    lab.healthy = False
    send(panel, "test", seq=2, server="smollm2-135m")
    assert panel.settle()
    told = {one["text"]: one["kind"] for one in panel.view["messages"]}
    assert told == {"health: ok (3 ms)": "ok", "completion: 8 tokens (120 ms)": "error"}


def test_tuning_is_long_work_on_the_chosen_model(lab, opened):
    panel = opened(ServerPanel("tiny-q2", lab=lab))
    send(panel, "tune")
    assert panel.settle()
    assert lab.calls == [("tune", "tiny-q2")]
    assert "slots 4" in panel.view["messages"][0]["text"]


def test_loading_restarts_and_strangers_are_visible(lab, opened):
    panel = opened(ServerPanel(lab=lab))
    send(panel, "start")
    assert panel.settle()
    lab.up[0].state = "starting"
    lab.up[0].more = {
        "loaded": 0.42,
        "phase": "reading the model",
        "restarts": 2,
        "last_failure": "it was killed (SIGKILL)",
        "slots": (),
    }
    lab.foreign = [ServerStatus("llama-server-99", "foreign", "other.gguf", 99, "http://127.0.0.1:8080")]
    panel.refresh()
    assert panel.settle()
    assert block(panel, "loading")["fraction"] == 0.42
    assert "starting 42%" in panel.view["status"]
    assert "SIGKILL" in dict(block(panel, "server-facts")["items"])["Restarted"]
    assert block(panel, "servers")["rows"][1][0] == "llama-server-99"  # words, not a button
    assert {one["action"] for one in block(panel, "buttons")["items"]} == {"start", "tune", "stop"}


def test_the_log_of_a_crashed_server_is_open(lab, opened):
    panel = opened(ServerPanel(lab=lab))
    send(panel, "start")
    assert panel.settle()
    assert block(panel, "log-fold")["folded"] is True
    lab.up[0].state = "crashed"
    lab.up[0].more = {"reason": "it failed 3 times in a row"}
    panel.refresh()
    assert panel.settle()
    assert block(panel, "log-fold")["folded"] is False
    assert panel.view["state"] == "error"


def test_the_key_is_nowhere_in_what_is_sent_or_saved(lab, opened):
    panel = opened(ServerPanel(lab=lab))
    send(panel, "start")
    assert panel.settle()
    everything = json.dumps([panel.get_state(), panel._repr_mimebundle_()], default=str)
    assert "THE-SECRET" not in everything
    assert "NOA_LAB_API_KEY" in everything


def test_a_panel_looks_again_only_while_somebody_sees_it(lab, opened, monkeypatch):
    monkeypatch.setattr("noa_lab.widgets._server._WATCH_SECONDS", 0.1)
    monkeypatch.setattr("noa_lab.widgets._looker._REST", 0)
    panel = opened(ServerPanel(lab=lab))
    assert panel.settle()
    looks = []
    lab.servers = lambda: looks.append(1) or []
    time.sleep(0.7)
    assert looks == []
    send(panel, "here", seq=0)
    eventually(lambda: len(looks) >= 2)
    panel._looker._seen_until = 0.0
    assert panel.settle()
    count = len(looks)
    time.sleep(0.7)
    assert len(looks) == count


def test_closing_ends_all_threads_even_while_work_goes_on(lab):
    lab.gate = threading.Event()
    panel = SetupPanel(lab)
    send(panel, "install")
    eventually(lambda: panel._job is not None)
    panel.close()
    panel.close()
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith(("noa-lab:", "noa-lab panel"))])


def test_a_server_that_arrives_when_its_panel_is_closed_already_is_let_go_of(lab):
    gate, serve, servers = threading.Event(), lab.serve, []

    def late(ref=None, **settings):
        gate.wait(30)
        servers.append(serve(ref, **settings | {"cancel": None}))
        return servers[-1]

    lab.serve = late
    panel = ServerPanel(lab=lab)
    send(panel, "start")
    eventually(lambda: panel._job is not None)
    panel.close()
    gate.set()
    eventually(lambda: servers and servers[0].released)


def test_a_failing_look_is_told_and_the_panel_can_be_tried_again(lab, opened):
    check, lab.check = lab.check, lambda: 1 / 0
    panel = opened(SetupPanel(lab))
    assert panel.settle()
    assert panel.view["state"] == "error"
    assert "ZeroDivisionError" in panel.view["messages"][0]["text"]
    lab.check = check
    send(panel, "refresh")
    assert panel.settle()
    assert panel.view["messages"] == []
    assert "missing" in panel.view["status"]


def test_the_saved_state_of_each_panel_is_small(lab, opened):
    for panel in (SetupPanel(lab), ModelPanel(lab=lab), ServerPanel(lab=lab), ComparePanel(lab=lab)):
        opened(panel)
        assert panel.settle()
        assert len(json.dumps(panel.get_state(), default=str)) < 60_000
