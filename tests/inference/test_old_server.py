"""Chats with a llama-server of 2024, which renders no conversation itself and leaves out the last character of its template."""

from __future__ import annotations

import pytest

from noa_lab.errors import RequestRefused, Unsupported
from noa_lab.inference import ChatMessage, LlamaInferenceEngine
from noa_lab.testing import FakeLlamaServer

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TALK = [ChatMessage.system("Be brief."), ChatMessage.user("What is GGUF?")]


def props(template: str) -> dict[str, object]:
    settings = {"default_generation_settings": {"n_ctx": 512}, "total_slots": 1, "model_path": "m.gguf"}
    return {"/props": {**settings, "chat_template": template}}


@pytest.mark.parametrize("template", [TEMPLATE[:-1], TEMPLATE, TEMPLATE + "\n"], ids=["cut", "whole", "line feed"])
def test_the_conversation_is_rendered_here_and_the_server_asked_once(template: str) -> None:
    with FakeLlamaServer(bodies=props(template)) as fake, LlamaInferenceEngine(fake.base_url, "m") as engine:
        for _ in range(2):
            assert str(engine.chat(TALK)) == "Hello there"
        asked = [seen.path for seen in fake.seen]
        sent = [seen.body["prompt"] for seen in fake.seen if seen.path == "/completion"]
    assert asked.count("/apply-template") == 1
    assert sent == ["<|system|>Be brief.\n<|user|>What is GGUF?\n<|assistant|>"] * 2


def test_a_template_that_needs_a_tokens_text_is_refused_by_name() -> None:
    with (
        FakeLlamaServer(bodies=props(TEMPLATE + "{{ eos_token }}")) as fake,
        LlamaInferenceEngine(fake.base_url, "m") as engine,
        pytest.raises(Unsupported, match="too old to render") as caught,
    ):
        engine.chat(TALK)
    assert "noa-lab install" in caught.value.fix


def test_a_server_that_has_rendered_before_is_not_taken_for_an_old_one() -> None:
    bodies = {**props(TEMPLATE), "/apply-template": {"prompt": "rendered there"}}
    with FakeLlamaServer(bodies=bodies) as fake, LlamaInferenceEngine(fake.base_url, "m") as engine:
        engine.chat(TALK)
        assert fake.seen[-1].body["prompt"] == "rendered there"
        del fake._bodies["/apply-template"]
        with pytest.raises(RequestRefused):
            engine.chat(TALK)
