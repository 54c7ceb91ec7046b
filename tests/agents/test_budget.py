"""The budget: whatever the repository and the context, prompt and answer fit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noa_lab.agents._budget import Piece, fit, pack
from noa_lab.agents._languages import language_of
from noa_lab.agents._outline import Level
from noa_lab.agents._prompt import DigestPrompt
from noa_lab.agents._survey import SurveyedFile
from noa_lab.errors import ContextOverflow
from noa_lab.testing import ScriptedEngine

PROMPTS = [DigestPrompt.seed(), DigestPrompt.questions()]


def surveyed(path: str, text: str) -> SurveyedFile:
    return SurveyedFile(path, len(text), text.count("\n") + 1, text, language_of(path))


TEXTS = st.one_of(
    st.text(alphabet=".,;:()[]{}!?", max_size=600),  # one token a character
    st.text(alphabet="ab \n", max_size=600),
    st.text(max_size=200),
    st.just('"""Does it."""\ndef f(a: int) -> int:\n    """Adds."""\n    return a\n' * 5),
    st.integers(1, 2000).map(lambda n: "x " * n),
)
FILES = st.lists(st.tuples(st.sampled_from(["a.py", "d/b.js", "c.md", "e.json", "f"]), TEXTS), max_size=25)


@settings(max_examples=150)
@given(
    FILES,
    st.integers(1, 3000),
    st.integers(1, 600),
    st.integers(1, 2000),
    st.sampled_from(PROMPTS),
    st.text(max_size=300),
)
def test_prompt_and_answer_always_fit(
    files, context: int, answer: int, most: int, prompt: DigestPrompt, head: str
) -> None:
    engine = ScriptedEngine(context_size=context)
    pieces = [Piece(surveyed(f"{number}/{name}", text)) for number, (name, text) in enumerate(files)]
    top = Level[prompt.detail.upper()]
    fixed = engine.count_tokens(prompt.conversation("", name="n"))
    try:
        packed = fit(
            head, pieces, lambda text: prompt.conversation(text, name="n"), engine, answer=answer, most=most, top=top
        )
    except ContextOverflow as overflow:
        error = overflow
    else:
        error = None
    if error is not None:
        assert fixed + max(1, min(answer, context // 4)) > context
        assert error.fields["context_size"] == context
        assert error.fields["prompt_tokens"] == fixed
        return
    counted = engine.count_tokens(packed.messages)
    assert counted == packed.prompt_tokens
    assert counted + packed.answer_tokens <= context
    assert 1 <= packed.answer_tokens <= answer
    assert counted <= max(most, fixed)
    assert packed.text in packed.messages[-1].content or not packed.text or "<" in packed.text or "[" in packed.text


def test_room_is_used_and_breadth_comes_before_depth() -> None:
    files = [
        surveyed(f"m{number}.py", f'"""Part {number}."""\ndef f():\n    """Adds."""\n' + "x = 1\n" * 40)
        for number in range(20)
    ]
    engine = ScriptedEngine(context_size=2000)
    prompt = DigestPrompt.seed()
    build = prompt.conversation
    levels = []
    for most in (120, 300, 700, 1700):
        packed = fit("Head", [Piece(file) for file in files], build, engine, answer=64, most=most, top=Level.FULL)
        assert packed.prompt_tokens <= most
        assert most < 200 or packed.prompt_tokens > 0.6 * most
        levels.append(min(packed.levels.values()) + 0.01 * sum(packed.levels.values()))
    assert levels == sorted(levels)
    assert min(packed.levels.values()) >= Level.LINE
    assert max(packed.levels.values()) == Level.FULL


def test_few_tokenizer_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    engine = ScriptedEngine(context_size=4096)
    real = engine.count_tokens

    def count(prompt):
        nonlocal calls
        calls += 1
        return real(prompt)

    monkeypatch.setattr(engine, "count_tokens", count)
    pieces = [Piece(surveyed(f"d/{number}.py", f'"""Says {number}."""\n' * 3)) for number in range(800)]
    packed = fit("Head", pieces, DigestPrompt.seed().conversation, engine, answer=64, most=4000, top=Level.FULL)
    assert calls <= 8
    assert packed.prompt_tokens > 2400


def test_levels_say_what_is_really_shown() -> None:
    pieces = [Piece(surveyed("a.py", '"""Adds."""\n')), Piece(surveyed("b.c", "int x;\n"))]
    packed = pack("", pieces, 10_000, Level.LINE)
    assert packed.levels == {"a.py": Level.LINE, "b.c": Level.NAME}
    assert packed.text == "a.py: Adds.\nb.c"
    assert pack("", pieces, 5, Level.FULL).text == "a.py"
    assert pack("one\ntwo", pieces, 4, Level.FULL).text == "one"
