"""Tools on a real model whose template knows them, and on one whose template does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from inference_server import RealServer, start_server, stop_server
from templates import TOOLS

from noa_lab.errors import ToolCallInvalid
from noa_lab.inference import ChatMessage, EngineBase, InferenceConfig, LlamaInferenceEngine, OpenAIEngine, ToolCall

pytestmark = pytest.mark.real
GREEDY = InferenceConfig(temperature=0.0, max_tokens=60)


def weather(city: str, days: int = 1) -> None:
    """Tell the weather."""


def examples() -> list[ChatMessage]:
    """A model this small calls a tool when it has seen it done."""
    turns: list[ChatMessage] = []
    for number, (city, days) in enumerate([("Rome", 1), ("Oslo", 3)]):
        call = ToolCall(name="weather", arguments={"city": city, "days": days}, id=f"c{number}")
        turns += [
            ChatMessage.user(f"Weather in {city} for {days} days?"),
            ChatMessage.assistant("", (call,)),
            ChatMessage.tool("sunny", call),
            ChatMessage.assistant("It will be sunny."),
        ]
    return [*turns, ChatMessage.user("Weather in Paris for 2 days?")]


@pytest.fixture(scope="module")
def tool_server(
    llama_server_program: Path, gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("tools")
    (folder / "template.jinja").write_text(TOOLS)
    server = start_server(
        llama_server_program, gguf, folder / "log", "--chat-template-file", str(folder / "template.jinja")
    )
    yield server
    stop_server(server)


@pytest.fixture(params=["server", "openai"])
def engine(request: pytest.FixtureRequest, tool_server: RealServer) -> Iterator[EngineBase]:
    made: EngineBase
    if request.param == "server":
        made = LlamaInferenceEngine(tool_server.url, "m", tool_server.key)
    else:
        made = OpenAIEngine(tool_server.url + "/v1", "m", tool_server.key)
    with made:
        yield made


@pytest.mark.parametrize("choice", ["auto", "required", "weather"])
def test_a_native_call(engine: EngineBase, choice: str) -> None:
    assert engine.capabilities.tools == "native"
    answer = engine.chat(examples(), GREEDY, tools=[weather], tool_choice=choice)
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("weather", {"city": "Paris", "days": 2})]
    assert (answer.text, answer.finish_reason) == ("", "tool_calls")
    assert answer.prompt_tokens > 100


def test_a_call_that_had_to_be_made_and_was_not(engine: EngineBase) -> None:
    with pytest.raises(ToolCallInvalid, match="none was made"):
        engine.chat(
            [ChatMessage.user("Hi")],
            InferenceConfig(temperature=0.0, max_tokens=4),
            tools=[weather],
            tool_choice="required",
        )


def test_a_generic_call(real_server: RealServer) -> None:
    with LlamaInferenceEngine(real_server.url, "m", real_server.key) as engine:
        assert engine.capabilities.tools == "generic"
        answer = engine.chat(examples()[-1:], GREEDY, tools=[weather], tool_choice="weather")
        assert answer.tool_calls[0].name == "weather"
        assert isinstance(answer.tool_calls[0].arguments["city"], str)
