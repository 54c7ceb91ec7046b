"""`noa-lab chat`: the commands of a conversation, and a real one, piped and at a terminal."""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path

import pytest

from noa_lab.cli._chat import Conversation, read_message
from noa_lab.errors import StreamBroken
from noa_lab.inference import InferenceConfig, Prompt, Reply, ScriptedEngine


def echo(prompt: Prompt, config: InferenceConfig) -> str:
    return f"You said {prompt[-1].content}"


def talk(engine: ScriptedEngine, **more: object) -> Conversation:
    return Conversation(
        engine, InferenceConfig(overflow="rolling_window", max_tokens=20), "Be brief.", facts=False, **more
    )


def test_turns_follow_one_another(capsys):
    engine = ScriptedEngine(echo)
    conversation = talk(engine)
    for said in ("One", " /two", "/clear", "Three"):
        assert conversation.hear(said)
    heard = [[turn.content for turn in call.prompt] for call in engine.calls]
    assert heard == [
        ["Be brief.", "One"],
        ["Be brief.", "One", "You said One", " /two"],
        ["Be brief.", "Three"],
    ]
    assert "You said  /two\n" in capsys.readouterr().out


def test_commands(capsys, tmp_path):
    engine = ScriptedEngine(["first", "second", "third"])
    conversation = talk(engine)
    conversation.hear("/retry")
    conversation.hear("Hello")
    conversation.hear("/retry")
    assert [turn.content for turn in conversation.turns] == ["Hello", "second"]
    conversation.hear("/system Speak French.")
    conversation.hear("/facts")
    conversation.hear("Again")
    assert engine.calls[2].prompt[0].content == "Speak French."
    path = tmp_path / "said.md"
    conversation.hear(f"/save {path}")
    assert path.read_text().startswith("**system**\n\nSpeak French.\n\n**user**\n\nHello\n\n**assistant**\n\nsecond")
    conversation.hear("/save /no/such/place")
    conversation.hear("/save")
    conversation.hear("/sistem x")
    conversation.hear("/help")
    shown = capsys.readouterr().out
    for expected in (
        "Nothing has been asked",
        "[scripted · ",
        "cannot be written",
        "Say where",
        "no command /sistem",
        "/retry",
    ):
        assert expected in shown
    for end in ("/quit", "/bye", "/exit"):
        assert not conversation.hear(end)


def test_a_turn_that_fails_is_dropped(capsys):
    broken = Reply("a b c", fail_after=1, error=StreamBroken("it broke", fix="again", text="a"))
    conversation = talk(ScriptedEngine([broken, "fine"]))
    conversation.hear("One")
    assert conversation.turns == []
    conversation.hear("Two")
    assert [turn.content for turn in conversation.turns] == ["Two", "fine"]
    captured = capsys.readouterr()
    assert "it broke" in captured.err
    assert "dropped" in captured.out


def test_what_no_longer_fits_is_said(capsys):
    conversation = talk(ScriptedEngine(echo, context_size=70))
    for number in range(4):
        conversation.hear(f"word word word word word {number}")
    assert "oldest turns no longer fit" in capsys.readouterr().out
    conversation.hear("word " * 90)
    assert "dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "messages"),
    [
        ("one\n\n  \ntwo\n", ["one", "two"]),
        ('"""first\nsecond"""\nthen\n', ["first\nsecond", "then"]),
        ('"""\na\n\nb\n"""\n', ["a\n\nb"]),
        ('"""open\n', ["open"]),
        ("last", ["last"]),
        ("", []),
    ],
)
def test_reading_messages(monkeypatch, typed, messages):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    found = []
    while (said := read_message(live=False)) is not None:
        found.append(said)
    assert found == messages


@pytest.mark.real
def test_each_line_of_a_pipe_is_a_message(home, tmp_path):
    import subprocess

    command = [sys.executable, "-m", "noa_lab.cli", "chat", "--max-tokens", "5", "--seed", "1", "--facts"]
    done = subprocess.run(
        command, input="Hello\n/clear\nHi\n", capture_output=True, text=True, timeout=200, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[smollm2-135m · ") == 2
    assert "forgotten" in done.stdout


AT_THE_PROMPT = b"/quit or Ctrl-D"


@pytest.mark.real
@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_at_a_terminal_ctrl_c_stops_the_answer_only(home, tmp_path: Path):
    import pty
    import subprocess

    lead, follow = pty.openpty()
    command = [sys.executable, "-m", "noa_lab.cli", "chat", "--max-tokens", "400", "--temperature", "0"]
    child = subprocess.Popen(
        command,
        stdin=follow,
        stdout=follow,
        stderr=follow,
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=_own_terminal,  # noqa: PLW1509 - the child becomes Python at once
    )
    os.close(follow)
    seen = b""

    def until(text: bytes, seconds: float = 120) -> None:
        nonlocal seen
        end = time.monotonic() + seconds
        while text not in seen:
            assert time.monotonic() < end, seen
            if select.select([lead], [], [], 1.0)[0]:
                seen += os.read(lead, 4096)
            elif text == AT_THE_PROMPT:
                # Python notices a Ctrl-C that comes between the prompt and its wait for a key only with the next one.
                os.write(lead, b"\x03")
        seen = seen.partition(text)[2]

    try:
        until(b"> ")
        os.write(lead, b"Count to one thousand.\n")
        until(b"thousand.")
        until(b" ")
        os.write(lead, b"\x03")
        until(b"[stopped]")
        until(b"> ")
        os.write(lead, b"\x03")
        until(AT_THE_PROMPT)
        os.write(lead, b"/quit\n")
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()
        os.close(lead)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
