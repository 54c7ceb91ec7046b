"""Conversations at the edge of the context, after three templates; what comes back has the numbers, and the server lives on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from inference_server import CONTEXT, RealServer, start_server, stop_server
from templates import BRACKETS, NO_SYSTEM

from noa_lab.errors import ContextOverflow
from noa_lab.inference import ChatMessage, InferenceConfig, LlamaInferenceEngine

pytestmark = pytest.mark.real
FIVE = InferenceConfig(temperature=0.0, max_tokens=5)


@pytest.fixture(params=["its own", "brackets", "no system"])
def engine(
    request: pytest.FixtureRequest, llama_server_program: Path, gguf: Path, tmp_path: Path
) -> Iterator[LlamaInferenceEngine]:
    if request.param == "its own":
        shared: RealServer = request.getfixturevalue("real_server")
        with LlamaInferenceEngine(shared.url, "m", shared.key) as made:
            yield made
        return
    template = tmp_path / "template.jinja"
    template.write_text({"brackets": BRACKETS, "no system": NO_SYSTEM}[request.param])
    server = start_server(llama_server_program, gguf, tmp_path / "log", "--chat-template-file", str(template))
    try:
        with LlamaInferenceEngine(server.url, "m", server.key) as made:
            yield made
    finally:
        stop_server(server)


def conversation(words: int) -> list[ChatMessage]:
    return [ChatMessage.system("Be brief."), ChatMessage.user("word " * words + "🙂 end")]


def test_at_the_edge(engine: LlamaInferenceEngine) -> None:
    words = CONTEXT - engine.count_tokens(conversation(0))
    by_tokens = {engine.count_tokens(conversation(words + more)): words + more for more in range(-2, 3)}
    assert {CONTEXT - 1, CONTEXT, CONTEXT + 1} <= by_tokens.keys()
    last = engine.chat(conversation(by_tokens[CONTEXT - 1]), FIVE)
    assert (last.prompt_tokens, last.completion_tokens, last.truncated) == (CONTEXT - 1, 1, True)
    for tokens in (CONTEXT, CONTEXT + 1):
        with pytest.raises(ContextOverflow) as caught:
            engine.chat(conversation(by_tokens[tokens]), FIVE)
        assert caught.value.fields == {"prompt_tokens": tokens, "max_tokens": 5, "context_size": CONTEXT}
    assert engine.chat(conversation(1), FIVE).text  # and it lives on
