"""Prompts and their templates: content hashes, strict variables, and what a hostile template may not do."""

from __future__ import annotations

import threading
import time

import pytest

from noa_lab.errors import BadInput, TemplateInvalid
from noa_lab.experiments import Prompt, Template
from noa_lab.inference import ChatMessage, MessageRole


def test_a_text_is_one_user_message_and_keeps_its_newlines():
    assert Prompt.of("Sum: {{ a }}\n").render({"a": "x\ny"}) == [ChatMessage.user("Sum: x\ny\n")]


def test_a_system_message_stands_before_the_conversation():
    shots = [{"role": "user", "content": "1+1"}, ChatMessage.assistant("2"), {"role": "user", "content": "{{ q }}"}]
    messages = Prompt(system="Be {{ mood }}.", messages=shots).render({"mood": "brief", "q": "2+2"})
    assert [m.role for m in messages] == [MessageRole.SYSTEM, MessageRole.USER, MessageRole.ASSISTANT, MessageRole.USER]
    assert [m.content for m in messages] == ["Be brief.", "1+1", "2", "2+2"]


def test_equal_prompts_have_equal_hashes_however_they_are_written():
    written = [Prompt(user="{{ a }}"), Prompt.of("{{ a }}"), Prompt.of({"user": "{{ a }}"})]
    written.append(Prompt(messages=[{"role": "user", "content": "{{ a }}"}]))
    assert len({prompt.hash for prompt in written}) == 1
    assert Prompt(user="{{ a }} ").hash != written[0].hash
    assert Prompt(messages=[{"role": "system", "content": "{{ a }}"}]).hash != written[0].hash


def test_variables_are_found_without_those_the_template_makes_itself():
    prompt = Prompt(system="{{ a }}", user="{% for x in rows %}{{ x.b }}{% endfor %}{% set c = 1 %}{{ c }}")
    assert prompt.variables == {"a", "rows"}


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (Prompt, "user"),
        (lambda: Prompt(user="a", messages=[ChatMessage.user("b")]), "messages"),
        (lambda: Prompt(system=3, user="a"), "system"),
        (lambda: Prompt(messages="a"), "messages"),
        (lambda: Prompt(messages=["a"]), "messages"),
        (lambda: Prompt(messages=[{"role": "boss", "content": "a"}]), "role"),
        (lambda: Prompt.of(7, "p"), "prompts.p"),
        (lambda: Prompt.of({"sytem": "a", "user": "b"}, "p"), "sytem"),
    ],
)
def test_what_is_no_prompt_is_refused_by_field(make, field):
    with pytest.raises(BadInput) as caught:
        make()
    assert caught.value.fields["field"] == field
    assert caught.value.fix


def test_a_misspelt_key_offers_the_right_one():
    with pytest.raises(BadInput, match="Did you mean 'system'"):
        Prompt.of({"sytem": "a", "user": "b"}, "p")


def test_a_syntax_error_names_the_prompt_and_the_line():
    with pytest.raises(TemplateInvalid, match=r"prompt 'p'.*line 2"):
        Prompt.of("fine\n{% for %}", "p")


def test_a_missing_variable_is_an_error_with_its_name():
    for template in ("{{ a }}", "{{ b ~ a }}", "{% for x in a %}{% endfor %}", "{{ [b, a] | join }}", "{{ a() }}"):
        with pytest.raises(TemplateInvalid) as caught:
            Template(template).render({"b": "1"})
        assert caught.value.fields["variable"] == "a", template
    assert Template("{{ a | default('-') }}{{ a is defined }}").render({}) == "-False"


def test_what_prompt_authors_use_works():
    variables = {"x": "Héllo", "rows": [{"q": 1}, {"q": 2}], "d": {"k": "v"}}
    expected = {
        "{{ x | upper }} {{ x.lower() }} {{ x[1:3] }}": "HÉLLO héllo él",
        "{% for r in rows %}{{ loop.index }}/{{ loop.length }}:{{ r.q }}{% if not loop.last %}, {% endif %}{% endfor %}": "1/2:1, 2/2:2",
        "{{ rows | map(attribute='q') | join('-') }} {{ rows | join('+', attribute='q') }}": "1-2 1+2",
        "{% for k, v in d.items() %}{{ k }}={{ v }}{% endfor %} {{ d | tojson }}": 'k=v {"k": "v"}',
        "{{ x | replace('l', 'L') }} {{ 'a' ~ 1 ~ x }} {{ 'a' if x else 'b' }}": "HéLLo a1Héllo a",
        "{% raw %}{{ kept }}{% endraw %} {{ {'t': x} | tojson }} <b>": '{{ kept }} {"t": "Héllo"} <b>',
        "{% for i in range(3) %}{{ i * 2 }}{% endfor %} {{ 7 % 4 }} {{ 'ab\ncd' | indent(2) }}": "024 3 ab\n  cd",
    }
    for template, text in expected.items():
        assert Template(template).render(variables) == text


HOSTILE = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'].__mro__ }}",
    "{{ x | attr('__class__') }}",
    "{{ x.upper.__self__.__class__ }}",
    "{{ [].append.__globals__ }}",
    "{{ (x.split).__func__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ __budget__ }}",
    "{{ '%s' % x }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ '{0.__class__}'.format(x) }}",
    "{{ x.format_map({}) }}",
    "{{ x.encode() }}",
    "{{ x | map('attr', '__class__') | list }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% for i in range(100001) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'abcdefghijklmnopqrstuvwxyz' }}{% endfor %}",
    "{{ 'a' * 100000000000 }}",
    "{{ 100000000000 * 'a' }}",
    "{{ 9 ** 999999999 }}",
    "{% set a = 99999999999 %}" + "{% set a = a * a %}" * 40 + "{{ a }}",
    "{% set a = 'aa' %}" + "{% set a = a ~ a %}" * 60 + "{{ a }}",
    "{% set a = 'aa' %}" + "{% set a = a + a %}" * 60 + "{{ a }}",
    "{% set a = [1] %}" + "{% set a = a + a %}" * 60 + "{{ a }}",
    "{% set a = [1, 1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}",
    "{% set a = [1, 1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a | string }}",
    "{% set a = [1, 1] %}" + "{% set a = {'a': a, 'b': a} %}" * 60 + "{{ a | tojson }}",
    "{{ x | replace('', 'a' * 1000000) }}",
    "{{ (range(100000) | list) | join('a' * 100000) }}",
    "{{ x | center(9999999999) }}",
    "{{ ('\n' * 100000) | indent(100000) }}",
    "{{ lipsum(1000) }}",
    "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}",
    "{{ x | tojson(indent=x) }}",
]


@pytest.mark.parametrize("template", HOSTILE, ids=lambda text: text[:40].replace("\n", " "))
def test_a_hostile_template_is_refused_quickly_and_by_name(template):
    begun = time.thread_time()
    with pytest.raises(TemplateInvalid):
        Template(template, "p").render({"x": "text"})
    assert time.thread_time() - begun < 4.0


def test_a_slow_template_is_stopped_by_the_clock_in_any_thread():
    slow = "{% for i in range(90000) %}{% if text | upper | lower | trim %}{% endif %}{% endfor %}"
    errors = []

    def render() -> None:
        try:
            Template(slow).render({"text": "a" * 200_000})
        except TemplateInvalid as error:
            errors.append(error)

    thread = threading.Thread(target=render)
    thread.start()
    thread.join(15)
    assert not thread.is_alive()
    assert "seconds" in errors[0].message


def test_inputs_are_data_and_never_templates():
    assert Template("{{ a }}").render({"a": "{{ 7 * 7 }}<script>"}) == "{{ 7 * 7 }}<script>"
