"""The panel of models: whether one fits, getting it with a pause, and looking after it."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from panel_fake_models import MODEL, listing
from test_panels import block, blocks, button, eventually, send

from noa_lab.errors import RuntimeMissing
from noa_lab.events import Progress
from noa_lab.models import DiskUse, Removal
from noa_lab.widgets import ModelPanel


def actions(panel):
    return {item["action"]: item for found in blocks(panel, "buttons") for item in found["items"]}


def marks(panel, row):
    return [mark for cell in block(panel, "models")["rows"][row] if isinstance(cell, dict) for mark in cell["marks"]]


def test_the_table_says_what_is_here_and_what_fits(lab, opened):
    panel = opened(ModelPanel(lab=lab))
    assert ["info", "default"] in marks(panel, 0)
    assert ["ok", "here"] in marks(panel, 1)
    assert ["error", "does not fit"] in marks(panel, 2)
    assert ["info", "300.0 MB are here"] in marks(panel, 3)
    assert ["warn", "tight"] in marks(panel, 3)
    assert block(panel, "models")["rows"][2][2] == "about 5 GB"


def test_whether_it_fits_follows_what_is_typed_without_network(lab, opened):
    panel = opened(ModelPanel("tiny-q2", lab=lab))
    assert block(panel, "verdict")["kind"] == "ok"
    assert "346.4 MB of memory are needed, 4.0 GB are free" in block(panel, "verdict")["text"]
    lab.models.free_bytes = 500_000_000
    panel.fill(context_size="8192", slots="4")
    assert block(panel, "verdict")["kind"] == "error"
    assert "It does not fit" in block(panel, "verdict")["text"]
    panel.fill(context_size="64", slots="none")
    assert "whole number" in block(panel, "slots")["error"]
    panel.fill(slots="999")
    assert "256" in block(panel, "slots")["error"]
    assert all(call[2] for call in lab.calls if call[0] == "fit"), "quick looks only"


def test_a_closer_look_is_shown_until_something_else_is_asked(lab, opened):
    panel = opened(ModelPanel("tiny-q2", lab=lab))
    assert "header" in dict(block(panel, "fit-facts")["items"])["Known from"]
    send(panel, "fit")
    assert panel.settle()
    assert "llama-fit-params" in dict(block(panel, "fit-facts")["items"])["Known from"]
    panel.fill(slots="1")
    assert "header" in dict(block(panel, "fit-facts")["items"])["Known from"]
    panel.fill(slots="")
    assert "llama-fit-params" in dict(block(panel, "fit-facts")["items"])["Known from"]


def test_a_look_that_fails_says_why(lab, opened):
    lab.models.unreachable = True
    panel = opened(ModelPanel("big-8b", lab=lab))
    send(panel, "fit")
    assert panel.settle()
    assert panel.view["messages"][0]["text"] == "The hub cannot be reached."
    assert block(panel, "verdict")


def test_getting_can_be_paused_continued_and_cancelled(lab, opened):
    lab.gate = threading.Event()
    panel = opened(ModelPanel(lab=lab))
    assert panel.settle()
    assert "pause" not in actions(panel)
    send(panel, "get")
    eventually(lambda: panel._job is not None)
    token = panel._job.token
    eventually(
        lambda: any(
            item["action"] == "pause"
            for found in panel.view["blocks"]
            for item in found.get("items", [])
            if isinstance(item, dict)
        )
    )
    send(panel, "pause", seq=2)
    eventually(lambda: token.paused and "paused" in panel.view["status"])
    send(panel, "pause", seq=3)
    eventually(lambda: not token.paused and "paused" not in panel.view["status"])
    send(panel, "cancel", seq=4)
    assert panel.settle()
    assert "cancelled" in panel.view["messages"][0]["text"]
    assert panel.model is None


def test_an_interrupted_download_is_gone_on_with(lab, opened):
    panel = opened(ModelPanel("half-1b", lab=lab))
    assert actions(panel)["get"]["label"] == "Go on getting it"
    assert "remove" in actions(panel), "or it is given up"
    send(panel, "get")
    assert panel.settle()
    assert panel.model.name == "half-1b"
    assert not actions(panel)["get"]["enabled"]


def test_so_is_one_of_a_reference_that_has_no_name(lab, opened):
    ref, disk = "hf://owner/repo/x.gguf", lab.models.disk()
    half = replace(disk, uses=(*disk.uses, DiskUse("x", "unfinished", 5_000_000, ref)))
    lab.models.disk = lambda: half
    lab.models.plan_removal = lambda _: Removal("x", (), 5_000_000, (), (), ())
    panel = opened(ModelPanel(ref, lab=lab))
    assert actions(panel)["get"]["label"] == "Go on getting it"
    assert "frees 5.0 MB" in block(panel, "removal")["text"]


def test_progress_says_how_fast_and_how_long(lab, opened):
    lab.gate = threading.Event()
    work = lab.work

    def fast(step, report, cancel, **more):
        report(Progress(step, "part", 40e6, 100e6, "bytes", rate=4e6))
        while not lab.gate.wait(0.01):
            pass
        work(step, report, cancel, **more)

    lab.work = fast
    panel = opened(ModelPanel(lab=lab))
    assert panel.settle()
    send(panel, "get")
    eventually(lambda: panel._job is not None and panel._job.progress is not None)
    assert "40.0 of 100.0 MB · 4.0 MB/s · 15 s left" in panel._job.words()
    panel._job.token.pause()
    assert "paused" in panel._job.words()
    panel._job.token.resume()
    lab.gate.set()
    assert panel.settle()


def test_verify(lab, opened):
    panel = opened(ModelPanel("tiny-q2", lab=lab))
    send(panel, "verify")
    assert panel.settle()
    assert "has the bytes that were recorded" in panel.view["messages"][0]["text"]
    lab.models.find = lambda _: replace(MODEL, sha256="")
    send(panel, "verify", seq=2)
    assert panel.settle()
    assert "recorded now" in panel.view["messages"][0]["text"]
    absent = opened(ModelPanel("big-8b", lab=lab))
    assert not actions(absent)["verify"]["enabled"]


def test_quantise(lab, opened):
    panel = opened(ModelPanel("tiny-q2", lab=lab))
    assert [value for value, _ in block(panel, "to")["options"]] == ["", "Q4_K_M", "Q8_0"]
    send(panel, "quantize")
    assert panel.settle()
    assert "No type" in panel.view["messages"][0]["text"]
    send(panel, "quantize", {"to": "Q4_K_M"}, seq=2)
    assert panel.settle()
    assert "quantised itself" in panel.view["messages"][0]["text"]
    send(panel, "quantize", {"requantize": True}, seq=3)
    assert panel.settle()
    assert panel.model.name == "tiny-q2-q4_k_m"
    assert any(row[0]["text"] == "tiny-q2-q4_k_m" for row in block(panel, "models")["rows"])


def test_without_llama_cpp_nothing_can_be_quantised_and_the_rest_works(lab, opened):
    def missing():
        raise RuntimeMissing("No llama.cpp.", fix="Install it.")

    lab.models.quantization_types = missing
    panel = opened(ModelPanel("tiny-q2", lab=lab))
    assert not actions(panel)["quantize"]["enabled"]
    assert panel.view["messages"] == []


def test_removing_asks_first(lab, opened):
    panel = opened(ModelPanel("tiny-q2", lab=lab))
    assert "frees 98.4 MB" in block(panel, "removal")["text"]
    assert "tiny-q1 was made of it and stays" in block(panel, "removal")["text"]
    send(panel, "really_remove", model="tiny-q2")
    assert panel.settle()
    assert ("remove", "tiny-q2") not in lab.calls, "nobody was asked"
    send(panel, "remove", seq=2, model="tiny-q2")
    assert "really_remove" in actions(panel)
    assert actions(panel)["remove"]["label"] == "Keep it"
    send(panel, "remove", seq=3, model="tiny-q2")
    assert "really_remove" not in actions(panel)
    send(panel, "remove", seq=4, model="tiny-q2")
    send(panel, "choose", seq=5, model="half-1b")
    assert "really_remove" not in actions(panel), "choosing another one is a no"
    send(panel, "choose", seq=6, model="tiny-q2")
    send(panel, "remove", seq=7, model="tiny-q2")
    send(panel, "really_remove", seq=8, model="tiny-q2")
    assert panel.settle()
    assert ("remove", "tiny-q2") in lab.calls
    assert "that freed 98.4 MB" in panel.view["messages"][0]["text"]
    assert not any(row[0]["text"] == "tiny-q2" for row in block(panel, "models")["rows"])


def test_a_model_in_use_cannot_be_removed(lab, opened):
    lab.models.users = ("tiny-q2-server",)
    panel = opened(ModelPanel("tiny-q2", lab=lab))
    assert not actions(panel)["remove"]["enabled"]
    assert "In use by tiny-q2-server" in block(panel, "removal")["text"]


@pytest.mark.parametrize("how", ["row", "path"])
def test_import(lab, opened, how):
    panel = opened(ModelPanel(lab=lab))
    assert [row[1] for row in block(panel, "stored")["rows"]] == ["Ollama", "LM Studio"]
    if how == "row":
        send(panel, "take", name=block(panel, "stored")["rows"][0][0]["args"]["name"])
    else:
        send(panel, "import_path")
        assert panel.settle()
        assert "No file" in panel.view["messages"][0]["text"]
        send(panel, "import_path", {"path": "~/m.gguf"}, seq=2)
    assert panel.settle()
    assert ("import", "llama3.2:3b" if how == "row" else "~/m.gguf") in lab.calls
    assert "can be used where it is" in panel.view["messages"][0]["text"]


def test_the_disk(lab, opened):
    panel = opened(ModelPanel(lab=lab))
    assert [row[0] for row in block(panel, "disk")["rows"]] == ["tiny-q2", "Ollama"]
    assert "78.0 GB are free" in block(panel, "disk-sum")["text"]


def test_typing_does_not_look_through_the_disk_again(lab, opened):
    panel = opened(ModelPanel(lab=lab))
    assert panel.settle()
    looks = []
    lab.models.stored = lambda: looks.append(1) or ()
    panel.fill(model="tiny-q2")
    panel.fill(slots="3")
    assert panel.settle()
    assert looks == []
    send(panel, "refresh")
    assert panel.settle()
    assert looks == [1]
    assert button(panel, "refresh")["enabled"]


def test_a_model_whose_file_is_gone_says_so_and_can_be_removed(lab, opened):
    gone = listing("imported", False, missing="/o/blobs/sha256-1", use_case="nothing now: its file is gone")
    lab.models.rows.append(gone)
    panel = opened(ModelPanel("imported", lab=lab))
    row = next(row for row in block(panel, "models")["rows"] if row[0]["text"] == "imported")
    assert row[1] == {"text": "", "marks": [["warn", "gone"]]}
    assert row[6] == gone.use_case
    send(panel, "remove", model="imported")
    assert button(panel, "really_remove")["enabled"]
    send(panel, "really_remove", seq=2, model="imported")
    assert panel.settle()
    assert ("remove", "imported") in lab.calls
