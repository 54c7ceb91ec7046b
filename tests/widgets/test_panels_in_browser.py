"""The panels in a real Chromium, without Jupyter: what is seen, typed, pressed and heard."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from panel_fakes import RUNTIME

from noa_lab.experiments import score
from noa_lab.widgets import ComparePanel, ModelPanel, RunView, ServerPanel, SetupPanel

pytestmark = pytest.mark.browser
SHOTS = Path(__file__).parents[2] / "screenshots"


def shot(shown, name):
    SHOTS.mkdir(exist_ok=True)
    shown.page.locator(".noa").screenshot(path=str(SHOTS / f"{name}.png"), caret="hide", animations="disabled")


def violations(shown):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(shown.page, context="#out").response["violations"]
    return [(one["id"], [node["target"] for node in one["nodes"]]) for one in found]


def setup_busy(lab):
    lab.gate = threading.Event()
    panel = SetupPanel(lab)
    assert panel.settle()
    panel.press("install")
    return panel


def setup_ways(lab):
    """A way with fields, of which one holds a mistake; two builds to roll back between."""
    lab.installed = True
    lab.builds = [RUNTIME, replace(RUNTIME, id="b11000-release", source="release")]
    lab.notes = ("The build for NVIDIA GPUs: llama-server died with SIGILL. Next: the portable build.",)
    panel = SetupPanel(lab, source="release")
    panel.press("install")
    assert panel.settle()
    panel.fill(tag="11312")
    return panel


def setup_system(lab):
    return SetupPanel(lab, source="system")


def models_busy(lab):
    lab.gate = threading.Event()
    panel = ModelPanel(lab=lab)
    assert panel.settle()
    panel.press("get")
    return panel


def models_removing(lab):
    lab.models.free_bytes = 340_000_000
    panel = ModelPanel("tiny-q2", slots=1, lab=lab)
    panel.press("fit")
    assert panel.settle()
    panel.press("remove", model="tiny-q2")
    panel.fill(context_size="many")
    return panel


def server_up(lab):
    panel = ServerPanel(lab=lab)
    panel.fill(slots="many")
    panel.press("start")
    assert panel.settle()
    panel.fill(slots="2")
    panel.press("start")
    assert panel.settle()
    panel.fill(threads="none")
    return panel


def compared(lab, finished=True):
    panel = ComparePanel(scorers=[score.contains("Paris"), score.max_words(12)], lab=lab)
    panel.press("run")
    assert panel.settle()
    lab.run.answer(3, "Paris is the capital of France.\nIt lies on the Seine.")
    lab.run.answer(1, "Because of physics, mostly.", 0.0)
    lab.run.answer(1, error="Unreachable: nothing answers at http://127.0.0.1:40123")
    lab.run.answer(int(finished))
    panel.refresh()
    assert panel.settle()
    return panel


def run_view(lab):
    compared(lab).close()
    return RunView(lab.run, lab=lab)


STATES = {
    "setup": SetupPanel,
    "setup-busy": setup_busy,
    "setup-ways": setup_ways,
    "setup-system": setup_system,
    "models": lambda lab: ModelPanel(lab=lab),
    "models-busy": models_busy,
    "models-removing": models_removing,
    "server": lambda lab: ServerPanel(lab=lab),
    "server-up": server_up,
    "compare": lambda lab: ComparePanel(lab=lab),
    "compare-running": lambda lab: compared(lab, finished=False),
    "compare-done": compared,
    "run": run_view,
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_each_state_is_drawn_without_errors_and_accessible(show, lab, state, theme):
    panel = STATES[state](lab)
    shown = show(panel, theme=theme, settle=not state.endswith("busy"))
    for fold in shown.page.locator("summary").all():
        fold.click()
    assert violations(shown) == []
    shot(shown, f"{state}-{theme}")
    shown.page.set_viewport_size({"width": 390, "height": 900})
    assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(shown) == []
    shot(shown, f"{state}-{theme}-narrow")
    assert shown.problems == []


def test_press_install_watch_and_cancel(show, lab):
    lab.gate = threading.Event()
    shown = show(SetupPanel(lab))
    page = shown.page
    page.get_by_role("button", name="Install", exact=True).click()
    bar = page.get_by_role("progressbar", name="Installing")
    shown.until(lambda: bar.is_visible() and bar.get_attribute("aria-valuenow") == "95")
    assert page.locator(".noa").get_attribute("data-state") == "busy"
    page.get_by_role("button", name="Install", exact=True).click(force=True)
    page.get_by_role("button", name="Cancel").click()
    shown.until(lambda: page.locator(".noa").get_attribute("data-state") == "error")
    assert "cancelled" in page.locator(".noa-strip").inner_text()
    assert shown.problems == []


def test_another_way_by_keyboard_alone(show, lab):
    lab.installed = True
    shown = show(SetupPanel(lab))
    page = shown.page

    def tab_to(label):
        for _ in range(60):
            page.keyboard.press("Tab")
            found = "((document.activeElement.labels || [])[0] || document.activeElement).textContent"
            if page.evaluate(found) == label:
                return
        raise AssertionError(f"{label} cannot be reached")

    page.locator("body").click(position={"x": 2, "y": 2})
    tab_to("release")
    page.keyboard.press("Enter")
    shown.until(lambda: page.get_by_label("Release").is_visible())
    assert page.evaluate("document.activeElement.textContent") == "release"
    tab_to("Release")
    page.keyboard.type("b11312")
    plan = page.get_by_role("table", name="What Install would do")
    shown.until(lambda: "release b11312" in plan.inner_text())
    tab_to("Install")
    page.keyboard.press("Space")
    shown.until(lambda: lab.calls)
    assert lab.calls == [("install", {"source": "release", "tag": "b11312"})]
    shown.until(lambda: page.locator(".noa").get_attribute("data-state") == "ok")
    assert shown.problems == []


def test_focus_stays_on_the_button_when_work_begins_and_ends(show, lab):
    shown = show(SetupPanel(lab))
    focused = "document.activeElement.textContent"
    shown.page.get_by_role("button", name="Install", exact=True).focus()
    shown.page.keyboard.press("Enter")
    shown.until(lambda: shown.page.locator(".noa").get_attribute("data-state") == "ok")
    assert shown.page.evaluate(focused) == "Install"


def test_typing_is_never_overwritten_and_keeps_caret_and_focus(show, lab):
    lab.gate = threading.Event()
    shown = show(ComparePanel(lab=lab))
    area = shown.page.get_by_label("User message (plain)")
    area.click()
    area.press("Control+a")
    for letter in "Say it in a word: {{ text }}":
        shown.page.keyboard.type(letter)
        shown.panel.refresh()
        shown.sync()
    shown.until(lambda: shown.panel._form["prompt0.user"] == "Say it in a word: {{ text }}")
    assert area.input_value() == "Say it in a word: {{ text }}"
    for _ in range(5):
        shown.page.keyboard.press("ArrowLeft")
    shown.page.keyboard.type("!")
    shown.settle()
    assert shown.panel._form["prompt0.user"] == "Say it in a word: {{ te!xt }}"
    assert shown.page.evaluate("document.activeElement.value") == "Say it in a word: {{ te!xt }}"
    assert shown.page.evaluate("document.activeElement.selectionStart") == 24


def test_an_edit_python_has_not_answered_survives_other_updates_and_blur(show, lab):
    shown = show(ModelPanel(lab=lab))
    box = shown.page.get_by_label("Model", exact=True)
    box.fill("tiny-q2")
    box.blur()
    shown.panel.refresh()
    assert shown.panel.settle()
    shown.page.evaluate("next => window.stub.put(next)", shown._state())
    assert box.input_value() == "tiny-q2"
    shown.settle()
    assert shown.panel._form["model"] == "tiny-q2"
    assert "About tiny-q2" in shown.page.locator(".noa").inner_text()


def test_what_was_typed_goes_with_the_press_in_one_message(show, lab):
    shown = show(ServerPanel(lab=lab))
    shown.page.get_by_label("Slots").fill("3")
    shown.page.get_by_label("Keep it after this kernel").check()
    shown.page.get_by_role("button", name="Start").click()
    shown.until(lambda: lab.calls)
    assert lab.calls[0] == ("serve", None, True, {"slots": 3})


def test_a_whole_comparison_by_keyboard_alone(show, lab):
    shown = show(ComparePanel(scorers=[score.contains("Paris")], lab=lab))
    page = shown.page

    def tab_to(label):
        for _ in range(60):
            page.keyboard.press("Tab")
            found = "((document.activeElement.labels || [])[0] || document.activeElement).textContent"
            if page.evaluate(found) == label:
                return
        raise AssertionError(f"{label} cannot be reached")

    page.locator("body").click(position={"x": 2, "y": 2})
    tab_to("User message (plain)")
    page.keyboard.type("Q: ")
    tab_to("Repeats")
    page.keyboard.type("2")
    tab_to("Run")
    page.keyboard.press("Enter")
    shown.until(lambda: lab.run is not None)
    assert lab.run.grid.prompts["plain"].user == "{{ text }}Q: "
    assert lab.run.grid.repeats == 2
    lab.run.answer(12, "Paris")
    shown.panel.refresh()
    shown.until(lambda: "done" in page.locator(".noa-status").inner_text())
    assert page.get_by_role("table", name="Answers by input and prompt").get_by_text("contains: 1").count() == 6
    tab_to("The same in Python")
    page.keyboard.press("Enter")
    assert "lab.compare(grid" in page.locator(".noa-code").inner_text()
    assert shown.problems == []


def test_a_model_is_got_and_removed_by_keyboard_alone(show, lab):
    shown = show(ModelPanel(lab=lab))
    page = shown.page
    focused = "document.activeElement.textContent"

    def tab_to(label):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(focused) == label:
                return
        raise AssertionError(f"{label} cannot be reached")

    page.locator("body").click(position={"x": 2, "y": 2})
    tab_to("half-1b")
    page.keyboard.press("Enter")
    shown.until(lambda: page.get_by_role("button", name="Go on getting it").is_visible())
    lab.gate = threading.Event()
    tab_to("Go on getting it")
    page.keyboard.press("Enter")
    shown.until(lambda: page.get_by_role("button", name="Pause").is_visible())
    tab_to("Pause")
    page.keyboard.press("Enter")
    shown.until(lambda: "paused" in page.locator(".noa-status").inner_text())
    assert page.evaluate(focused) == "Go on", "the same key lets it go on"
    page.keyboard.press("Enter")
    shown.until(lambda: "paused" not in page.locator(".noa-status").inner_text())
    lab.gate.set()
    shown.until(lambda: "half-1b is here" in page.locator(".noa-strip").inner_text())
    shown.settle()
    page.locator("body").click(position={"x": 2, "y": 2})
    tab_to("Remove it")
    page.keyboard.press("Enter")
    tab_to("Remove half-1b")
    page.keyboard.press("Enter")
    shown.until(lambda: page.get_by_role("button", name="Yes, remove half-1b").is_visible())
    assert page.evaluate(focused) == "Keep it", "a second Enter does no harm"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    shown.until(lambda: ("remove", "half-1b") in lab.calls)
    assert shown.problems == []


def test_typed_keys_are_no_shortcuts_but_shortcuts_still_are(show, lab):
    shown = show(ComparePanel(lab=lab))
    shown.page.get_by_label("The inputs").click()
    for key in ("a", "d", "d", "Enter", "ArrowUp", "Backspace", "Shift+Enter", "Escape", "Control+s"):
        shown.page.keyboard.press(key)
    heard = shown.page.evaluate("window.stub.shortcuts")
    assert [key for key in heard if key not in {"Shift", "Control"}] == ["Enter", "Escape", "s"]


def test_text_from_models_and_files_is_text(show, lab):
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    lab.models.rows[0].use_case = evil
    lab.models.rows[0].name = evil
    shown = show(ModelPanel(lab=lab))
    panel = compared(lab)
    lab.run._cells[0]["answer"] = evil
    lab.run.name = evil
    panel.close()
    second = show(RunView(lab.run, lab=lab))
    for one in (shown, second):
        one.page.wait_for_timeout(100)
        assert one.page.title() == "panel"
        assert evil in one.page.locator(".noa").inner_text()
        assert one.page.locator(".noa img, .noa script").count() == 0


def test_pages_of_a_long_table_are_turned(show, lab):
    from panel_fake_models import listing

    lab.models.rows = [listing(f"m{number:03}", False) for number in range(45)]
    shown = show(ModelPanel("m000", lab=lab))
    page = shown.page
    assert page.locator("[data-table=models] tbody tr").count() == 20
    page.get_by_role("button", name="Later rows").click()
    shown.until(lambda: "rows 21 to 40 of 45" in page.locator(".noa").inner_text())
    page.get_by_role("button", name="m030").click()
    shown.until(lambda: shown.panel._form["model"] == "m030")
    assert shown.page.evaluate("document.activeElement.textContent") == "m030"


def test_a_gone_kernel_is_said_and_nothing_can_be_pressed(show, lab):
    shown = show(ServerPanel(lab=lab))
    banner = shown.page.get_by_role("alert")
    assert not banner.is_visible()
    shown.page.evaluate("window.stub.cut()")
    banner.wait_for()
    assert "Run this cell again" in banner.inner_text()
    shown.page.get_by_role("button", name="Start").click()
    assert not [one for one in shown.page.evaluate("window.stub.take()") if one["action"] == "start"]
    assert violations(shown) == []


def test_what_is_heard_comes_at_most_once_a_second(show, lab):
    lab.gate = threading.Event()
    shown = show(SetupPanel(lab))
    page = shown.page
    page.evaluate(
        """() => {
          const live = document.querySelector("[aria-live]");
          const note = () => window.heard.push([performance.now(), live.textContent]);
          window.heard = [];
          new MutationObserver(note).observe(live, { childList: true, subtree: true });
        }"""
    )
    page.get_by_role("button", name="Install", exact=True).click()
    shown.until(lambda: page.locator(".noa").get_attribute("data-state") == "busy")
    lab.gate.set()
    shown.until(lambda: page.locator(".noa").get_attribute("data-state") == "ok")
    page.wait_for_function("() => window.heard.length && window.heard.at(-1)[1].includes('Everything is here')")
    heard = page.evaluate("window.heard")
    assert all(later[0] - earlier[0] > 900 for earlier, later in pairwise(heard))


def test_code_is_copied(show, lab):
    shown = show(SetupPanel(lab))
    shown.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown.page.get_by_text("The same in Python").click()
    shown.page.get_by_role("button", name="Copy: Python").click()
    shown.page.wait_for_function("async (code) => await navigator.clipboard.readText() === code", arg=shown.panel.code)


def test_a_second_view_and_a_reload_show_the_same_and_taking_it_away_ends_its_timers(show, lab):
    shown = show(ModelPanel(lab=lab))
    shown.page.get_by_label("Model", exact=True).fill("unsent")
    shown.page.evaluate("window.stub.stop()")
    sent = shown.page.evaluate("window.stub.take()")
    assert sent[-1]["values"] == {"model": "unsent"}
    shown.page.evaluate("window.stub.put({})")
    shown.page.wait_for_timeout(400)
    assert shown.page.evaluate("window.stub.take()") == []
