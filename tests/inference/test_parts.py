"""The small parts: the private loop, text cutting, chat formats, values."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noa_lab.errors import BadInput, TemplateInvalid
from noa_lab.inference import ChatMessage, InferenceConfig, format_chat_prompt
from noa_lab.inference._loop import background
from noa_lab.inference._sampling import choose_seed, explicit
from noa_lab.inference.embedded._template import ChatTemplate
from noa_lab.inference.embedded._text_cutter import TextCutter

TURNS = [ChatMessage.system("S"), ChatMessage.user("U"), ChatMessage.assistant("A")]


def test_seed_chat_format() -> None:
    assert format_chat_prompt(TURNS) == "<|system|>\nS\n<|user|>\nU\n<|assistant|>\nA\n<|assistant|>\n"
    assert format_chat_prompt([]) == "<|assistant|>\n"


def test_seed_defaults() -> None:
    config = InferenceConfig()
    assert (config.temperature, config.max_tokens, config.top_p, list(config.stop_sequences)) == (0.7, 2048, 0.9, [])


def test_drawn_seeds_differ() -> None:
    seeds = {choose_seed(InferenceConfig()) for _ in range(50)}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**32 - 1 for seed in seeds)
    assert choose_seed(InferenceConfig(seed=0)) == 0


def test_every_field_of_the_config_is_sent() -> None:
    sent = explicit(InferenceConfig(), 1)
    others = {"max_tokens", "stop_sequences", "json_schema", "grammar", "overflow"}
    assert set(InferenceConfig.model_fields) - others <= set(sent)


@settings(max_examples=60)
@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=4), max_size=3), st.integers(1, 4))
def test_cutting_never_loses_or_shows_too_much(text: str, stops: list[str], size: int) -> None:
    cutter, shown = TextCutter(stops), []
    data = text.encode()
    for at in range(0, len(data), size):
        shown.append(cutter.feed(data[at : at + size]))
        if cutter.stopped:
            break
    whole = "".join(shown) + cutter.flush()
    if cutter.stopped:
        rest = text[len(whole) :]
        assert text.startswith(whole)
        assert any(rest.startswith(stop) for stop in stops)
    else:
        assert whole == text
    assert not any(stop in whole for stop in stops)


def test_half_characters_are_held_and_then_dropped() -> None:
    cutter = TextCutter(())
    smile = "🙂".encode()
    assert [cutter.feed(smile[:2]), cutter.feed(smile[2:]), cutter.feed(smile[:3]), cutter.flush()] == [
        "",
        "🙂",
        "",
        "",
    ]


CHATML = (
    "{%- for m in messages %}\n    {{- '<' + m.role + '>' + m.content }}\n{%- endfor %}\n"
    "{% if add_generation_prompt %}\n<assistant>{% endif %}"
)


def render(source: str, *turns: tuple[str, str], **more: object) -> str:
    return ChatTemplate(source, **more).render([{"role": role, "content": content} for role, content in turns])


def test_template_whitespace_and_continuation() -> None:
    assert render(CHATML, ("user", "U")) == "<user>U<assistant>"
    assert render(CHATML, ("user", "U"), ("assistant", "so ")) == "<user>U<assistant>so "


def test_template_without_system_role() -> None:
    source = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}[{{ m.content }}]{% endfor %}"
    assert render(source, ("system", "S"), ("user", "U")) == "[S\nU]"
    with pytest.raises(TemplateInvalid, match="no system"):
        render(source, ("user", "U"), ("system", "S"))
    with pytest.raises(TemplateInvalid, match="no other"):
        render(source, ("system", "S"))


def test_beginning_of_text_is_not_doubled() -> None:
    source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    tokens = {"bos": "<s>", "eos": "</s>"}
    assert render(source, ("user", "x"), **tokens) == "<s>x</s>"
    assert render(source, ("user", "x"), **tokens, add_bos=True) == "x</s>"
    assert render(source, ("user", "x"), **tokens, add_bos=True, add_eos=True) == "x"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include '/etc/passwd' %}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ messages.append(1) }}",
        "{% if %}",
        "{{ raise_exception('roles must alternate') }}",
    ],
)
def test_hostile_and_broken_templates(source: str) -> None:
    with pytest.raises(TemplateInvalid):
        render(source, ("user", "x"))


def test_todays_date_is_given() -> None:
    days = [dt.datetime.now().astimezone()]
    shown = render("{{ date_string }}, {{ datetime }}", ("user", "x"))
    days.append(dt.datetime.now().astimezone())  # it may be midnight in between
    assert shown in [f"{day:%d %b %Y}, {day:%b %d %Y}" for day in days]


def test_what_is_said_is_trimmed_where_the_server_does() -> None:
    source = "{{ messages[0].content }}!{# You have access to the following functions in JSONSchema format #}"
    assert render(source, ("user", " x ")) == "x!"
    assert render(source[:26], ("user", " x ")) == " x !"


def test_generation_marks_change_no_text() -> None:
    assert render("{% generation %}{{ messages[0].content }}{% endgeneration %}!", ("user", "x")) == "x!"


def test_a_thinking_model_does_not_continue() -> None:
    source = "{{ messages[0].content }}{% if add_generation_prompt %}<think>{% endif %}"
    assert render(source, ("user", "x")) == "x<think>"
    with pytest.raises(TemplateInvalid, match="thinks"):
        render(source, ("user", "x"), ("assistant", "so"))


def test_template_json_is_not_html() -> None:
    assert render("{{ {'a': '<é>'} | tojson }}", ("user", "x")) == '{"a": "<é>"}'


def test_the_loop_works_inside_a_loop_and_refuses_itself() -> None:
    async def twice(value: int) -> int:
        await asyncio.sleep(0)
        return 2 * value

    async def nested() -> int:
        return background().run(twice(4)) + await background().hop(twice(1))

    assert asyncio.run(nested()) == 10

    async def wait_for_itself() -> None:
        background().run(twice(1))

    with pytest.raises(RuntimeError, match="async twin"):
        background().run(wait_for_itself())


FORKING = """
import os, sys
from noa_lab.inference import LlamaInferenceEngine
from noa_lab.testing import FakeLlamaServer, ScriptedEngine
url = sys.argv[1]
engine = LlamaInferenceEngine(url, "m")
print(engine.generate("x").text, flush=True)  # what is still in the buffer would be printed by both
child = os.fork()
print(engine.generate("x").text, engine.generate("y").text, flush=True)
if child:
    assert os.waitpid(child, 0)[1] == 0
    print(engine.generate("x").text)
engine.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork_both_sides_go_on() -> None:
    from noa_lab.testing import FakeLlamaServer

    with FakeLlamaServer() as fake:
        done = subprocess.run(
            [sys.executable, "-c", FORKING, fake.base_url], capture_output=True, text=True, timeout=20, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Hello", "there"] * 6


def test_an_interpreter_with_a_running_request_ends_at_once() -> None:
    from noa_lab.testing import FakeLlamaServer, Script

    code = """
import sys
from noa_lab.inference import LlamaInferenceEngine
stream = LlamaInferenceEngine(sys.argv[1], "m").stream("x")
pieces = iter(stream); next(pieces)
"""
    with FakeLlamaServer([Script(pieces=["x"] * 300, pause=0.1)]) as fake:
        command = [sys.executable, "-W", "always::ResourceWarning", "-c", code, fake.base_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_room_is_light() -> None:
    code = "import sys, noa_lab.inference; print([m for m in ('httpx', 'llama_cpp', 'jinja2', 'numpy', 'openai', 'jsonschema', 'json_repair') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_unknown_names_in_values() -> None:
    with pytest.raises(BadInput, match="max_tokens"):
        InferenceConfig(max_token=3)
    with pytest.raises(BadInput):
        ChatMessage(role="robot", content="x")
