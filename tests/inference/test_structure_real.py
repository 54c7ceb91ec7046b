"""Objects from the real 135M model: what is returned is valid, what cannot be is refused or fails by name."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from inference_server import RealServer
from schemas import CONTRADICTORY, GOOD, UNSUPPORTED

from noa_lab.errors import ReplyInvalid, SchemaUnsupported
from noa_lab.inference import (
    EmbeddedEngine,
    EngineBase,
    InferenceConfig,
    LlamaInferenceEngine,
    StructureMode,
    structured,
)
from noa_lab.inference.schema import schema_fault

pytestmark = pytest.mark.real

QUESTION = "Describe a person who lives in a town by the sea."
MODES: tuple[StructureMode, ...] = ("prompt_only", "lenient", "reason_then_schema", "hard_schema", "tool_call")
SOME = sorted(random.Random(11).sample(sorted(GOOD), 4))


@pytest.fixture(scope="module", params=["server", "embedded"])
def engine(request: pytest.FixtureRequest, gguf: Path) -> Iterator[EngineBase]:
    made: EngineBase
    if request.param == "server":
        server: RealServer = request.getfixturevalue("real_server")
        made = LlamaInferenceEngine(server.url, "smollm2-135m", server.key)
    else:
        made = EmbeddedEngine(gguf, context_size=512, threads=1)
    with made:
        yield made


def ask(engine: EngineBase, schema: object, mode: StructureMode) -> str:
    """What came of it: "valid", or the name of the failure."""
    wrapped = schema if isinstance(schema, dict) else {}
    config = InferenceConfig(temperature=0.3, seed=5, max_tokens=90)
    try:
        found = structured(engine, QUESTION, wrapped, mode=mode, config=config, retries=0)
    except ReplyInvalid as error:
        assert error.fields["kind"] in {"length", "json", "schema", "tool"}, error
        assert error.fields["reason"] in error.message
        return str(error.fields["kind"])
    assert schema_fault(found.value, wrapped) is None, found
    json.dumps(found.data)
    return "valid"


@pytest.mark.parametrize("name", SOME)
def test_held_to_a_schema(engine: EngineBase, name: str) -> None:
    # Held to a schema, an answer can only fail by being too long.
    assert ask(engine, GOOD[name], "hard_schema") in {"valid", "length"}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(engine: EngineBase, mode: StructureMode) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 1, "maximum": 99},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    outcome = ask(engine, schema, mode)
    assert outcome == "valid" or mode in {"prompt_only", "lenient"}


@pytest.mark.parametrize("keyword", [*UNSUPPORTED, *(f"{name}!" for name in CONTRADICTORY)])
def test_what_cannot_be_held_to_is_not_sent(real_server: RealServer, keyword: str) -> None:
    schema = CONTRADICTORY[keyword[:-1]] if keyword.endswith("!") else UNSUPPORTED[keyword]
    with LlamaInferenceEngine("http://127.0.0.1:1", "nobody") as nobody, pytest.raises(SchemaUnsupported) as caught:
        structured(nobody, QUESTION, schema, mode="hard_schema")
    assert caught.value.fields["keyword"] == keyword.rstrip("!")


@pytest.mark.full
@pytest.mark.timeout(900)
def test_all_schemas_in_all_modes(engine: EngineBase) -> None:
    tally: dict[str, dict[str, int]] = {}
    for mode in MODES:
        counts = tally[mode] = {}
        for name in GOOD:
            outcome = ask(engine, GOOD[name], mode)
            counts[outcome] = counts.get(outcome, 0) + 1
            assert outcome in {"valid", "length"} or mode not in {"hard_schema", "reason_then_schema"}, (mode, name)
    print(tally)
