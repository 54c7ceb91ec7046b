"""`%%ask` in a real IPython shell: what is asked, what is shown, what is kept, how it stops."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from IPython.core.interactiveshell import InteractiveShell

from noa_lab.errors import BadInput, TemplateInvalid
from noa_lab.inference import Completion, InferenceConfig, Prompt, Reply, ScriptedEngine
from noa_lab.widgets._ask import Ask


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "noa_lab")
    yield shell
    shell.run_line_magic("unload_ext", "noa_lab")
    assert shell.find_cell_magic("ask") is None
    InteractiveShell.clear_instance()


def echo(prompt: Prompt, config: InferenceConfig) -> str:
    return f"You said {prompt[-1].content} after {len(prompt) - 1} turns at {config.temperature}"


def test_the_answer_streams_into_the_cell(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.user_ns |= {"engine": ScriptedEngine(echo), "city": "Paris"}
    shell.run_cell_magic("ask", "--engine engine --temperature 0 --max-tokens 50 --as answer", "Hello {{ city }}!\n")
    answer = shell.user_ns["answer"]
    assert isinstance(answer, Completion)
    assert answer.text == "You said Hello Paris! after 0 turns at 0.0"
    shown = capsys.readouterr().out
    assert shown.startswith(answer.text + "\n")
    assert f"[{answer.facts()}]" in shown


def test_a_conversation_goes_on(shell: InteractiveShell) -> None:
    engine = shell.user_ns["engine"] = ScriptedEngine(echo)
    shell.run_cell_magic("ask", "--engine engine --system 'Be brief.'", "One")
    shell.run_cell_magic("ask", "--engine engine --continue", "Two")
    shell.run_cell_magic("ask", "--engine engine", "Three")
    turns = [[message.content for message in call.prompt] for call in engine.calls]
    assert turns[0] == ["Be brief.", "One"]
    assert turns[1][:2] == turns[0]
    assert turns[1][2].startswith("You said One")
    assert turns[1][3] == "Two"
    assert turns[2] == ["Three"]


def test_nothing_in_an_answer_is_obeyed(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.user_ns["engine"] = ScriptedEngine("a\x1b[31mred\rback\x08 <b>\n\tx")
    shell.run_cell_magic("ask", "--engine engine --literal", "{{ not filled in }}")
    shown = capsys.readouterr().out
    assert shown.startswith("a\ufffd[31mred\ufffdback\ufffd <b>\n\tx\n")


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
def test_stop_keeps_what_came(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = shell.user_ns["engine"] = ScriptedEngine([Reply("one two", piece_delay=120), "again"])
    shown, write = threading.Event(), sys.stdout.write

    def tell(text: str) -> int:
        done = write(text)
        if text == "one":
            shown.set()
        return done

    def stop() -> None:
        if shown.wait(60):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sys.stdout, "write", tell)
    stopper = threading.Thread(target=stop)
    stopper.start()
    shell.run_cell_magic("ask", "--engine engine --as answer", "Count.")
    stopper.join()
    assert "[stopped]" in capsys.readouterr().out
    assert shell.user_ns["answer"] == "one"
    assert engine.calls[0].outcome in {"cancelled", "running"}
    shell.run_cell_magic("ask", "--engine engine --as answer --continue", "More.")
    assert shell.user_ns["answer"].text == "again"


@pytest.mark.parametrize(
    ("line", "cell", "match"),
    [
        ("--engine nobody", "x", "nobody"),
        ("--engine engine", "  \n", "asks nothing"),
        ("--max-tokens many", "x", "invalid int"),
        ("--temprature 1", "x", "unrecognized"),
        ("--system 'half", "x", "cannot be read"),
        ("--engine engine --max-tokens 0", "x", "max_tokens"),
    ],
)
def test_bad_cells(shell: InteractiveShell, line: str, cell: str, match: str) -> None:
    shell.user_ns["engine"] = ScriptedEngine()
    with pytest.raises(BadInput, match=match):
        shell.run_cell_magic("ask", line, cell)


def test_unknown_variables_are_named(shell: InteractiveShell) -> None:
    shell.user_ns["engine"] = ScriptedEngine()
    with pytest.raises(TemplateInvalid, match="town"):
        shell.run_cell_magic("ask", "--engine engine", "{{ town }}")


def test_help_names_the_options(shell: InteractiveShell) -> None:
    told = shell.find_cell_magic("ask").__doc__
    for option in ("--model", "--engine", "--continue", "--as", "--literal"):
        assert option in told


class Served:
    """A server as `%%ask` sees it."""

    def __init__(self, number: int) -> None:
        self.state = "ready"
        self.made = ScriptedEngine(echo, model_name=f"server {number}")

    def engine(self) -> ScriptedEngine:
        return self.made


class Servers:
    """A lab that starts a server each time it is asked for one."""

    def __init__(self) -> None:
        self.up: list[Served] = []

    def serve(self, model: str | None, **_: object) -> Served:
        self.up.append(Served(len(self.up) + 1))
        return self.up[-1]


def test_a_server_that_has_ended_is_started_again_and_the_conversation_goes_on(shell: InteractiveShell) -> None:
    lab = Servers()
    ask = Ask(shell, lab)
    ask.cell("--as answer", "One")
    ask.cell("--continue --as answer", "Two")
    assert [len(served.made.calls) for served in lab.up] == [2]
    lab.up[0].state = "stopped"
    ask.cell("--continue --as answer", "Three")
    assert [len(served.made.calls) for served in lab.up] == [2, 1]
    assert [turn.content for turn in lab.up[1].made.calls[0].prompt][::2] == ["One", "Two", "Three"]
    with pytest.raises(BadInput, match="closed"):
        lab.up[0].made.generate("x")
    ask.close()


def test_what_was_said_with_an_engine_ends_with_it(shell: InteractiveShell) -> None:
    ask = Ask(shell)
    shell.user_ns["engine"] = ScriptedEngine(echo)
    ask.cell("--engine engine", "One")
    assert len(ask._turns) == 1
    del shell.user_ns["engine"]
    end = time.monotonic() + 30  # the thread that answered may be about to let go of it
    while len(ask._turns) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.005)
    assert len(ask._turns) == 0


@pytest.mark.real
def test_a_model_by_name(shell: InteractiveShell, home: object, capsys: pytest.CaptureFixture[str]) -> None:
    import noa_lab as lab

    shell.run_cell_magic("ask", "--model smollm2-135m --max-tokens 8 --seed 1 --as answer", "Say hello.")
    assert shell.user_ns["answer"].completion_tokens <= 8
    assert "smollm2-135m · " in capsys.readouterr().out
    assert [server.model for server in lab.servers()] == ["smollm2-135m"]


SETUP = """
import noa_lab as lab
from noa_lab.inference import Reply
%load_ext noa_lab
engine = lab.ScriptedEngine([Reply("one two" + " more" * 200, piece_delay=0.5), "again"])
"""


@pytest.mark.skipif(os.name == "nt", reason="interrupts by a signal")
def test_the_stop_button_of_a_real_kernel() -> None:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        assert client.execute_interactive(SETUP, timeout=120)["content"]["status"] == "ok"
        shown: list[str] = []
        pressed: list[str] = []

        def hear(message: dict) -> None:
            content = message["content"]
            shown.append(content.get("text") or content.get("data", {}).get("text/plain") or content.get("ename") or "")
            if "one two" in "".join(shown) and not pressed:
                pressed.append("stop")
                manager.interrupt_kernel()

        def run(cell: str) -> str:
            shown.clear()
            reply = client.execute_interactive(cell, timeout=120, output_hook=hear)
            return str(reply["content"]["status"])

        assert run("%%ask --engine engine --as answer\nCount.") == "ok"
        assert re.match(r"one two( more){0,100} \[stopped\]", "".join(shown))
        assert run("%%ask --engine engine --as answer\nAgain.") == "ok"
        assert "".join(shown).startswith("again\n[scripted · ")
        assert run("print(answer.text, answer.finish_reason)") == "ok"
        assert "".join(shown) == "again stop\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
