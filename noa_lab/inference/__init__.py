"""The InferenceEngine protocol, its engines and the client of llama-server: everything that asks a model for tokens.

`_protocol` is what engines promise and `_engine` what they share; `_server_engine`, `_routed_engine`, `_openai_engine`, `_scripted`,
`embedded` and `cassette` are the engines; `_client` over `_api` and `_http` is llama-server's client. `structure` gets objects from a
model and `schema` turns JSON Schemas into grammars; `_tools` describes tools; `batch` answers many questions at once.
"""

from noa_lab.inference._api import Recover
from noa_lab.inference._chat_format import format_chat_prompt
from noa_lab.inference._client import AsyncLlamaClient, LlamaClient
from noa_lab.inference._completion import (
    Completion,
    ContinuationLogprobs,
    Dropped,
    Embeddings,
    Timings,
    TokenLogprob,
)
from noa_lab.inference._determinism import (
    DeterminismReport,
    Difference,
    ModeResult,
    acheck_determinism,
    check_determinism,
)
from noa_lab.inference._engine import EngineBase
from noa_lab.inference._openai_engine import OpenAIEngine
from noa_lab.inference._protocol import (
    AsyncTextStream,
    Capabilities,
    InferenceEngine,
    Mode,
    Prompt,
    TextStream,
    ToolSupport,
)
from noa_lab.inference._question import Question
from noa_lab.inference._requests import ChatRequest, ChatResponse, Clock, CompletionRequest, CompletionResponse
from noa_lab.inference._routed_engine import RoutedEngine
from noa_lab.inference._scripted import Reply, ScriptedCall, ScriptedEngine
from noa_lab.inference._server_engine import LlamaInferenceEngine
from noa_lab.inference._server_facts import Metrics, Props, Slot
from noa_lab.inference._streams import Emit
from noa_lab.inference._tools import Tool, ToolChoice, tool
from noa_lab.inference._types import ChatMessage, InferenceConfig, MessageRole, OverflowPolicy, ToolCall
from noa_lab.inference.cassette import CassetteEngine
from noa_lab.inference.embedded import EmbeddedEngine
from noa_lab.inference.structure import Attempt, Structured, StructureMode, astructured, structured

__all__ = [
    "AsyncLlamaClient",
    "AsyncTextStream",
    "Attempt",
    "Capabilities",
    "CassetteEngine",
    "ChatMessage",
    "ChatRequest",
    "ChatResponse",
    "Clock",
    "Completion",
    "CompletionRequest",
    "CompletionResponse",
    "ContinuationLogprobs",
    "DeterminismReport",
    "Difference",
    "Dropped",
    "EmbeddedEngine",
    "Embeddings",
    "Emit",
    "EngineBase",
    "InferenceConfig",
    "InferenceEngine",
    "LlamaClient",
    "LlamaInferenceEngine",
    "MessageRole",
    "Metrics",
    "Mode",
    "ModeResult",
    "OpenAIEngine",
    "OverflowPolicy",
    "Prompt",
    "Props",
    "Question",
    "Recover",
    "Reply",
    "RoutedEngine",
    "ScriptedCall",
    "ScriptedEngine",
    "Slot",
    "StructureMode",
    "Structured",
    "TextStream",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolSupport",
    "acheck_determinism",
    "astructured",
    "check_determinism",
    "format_chat_prompt",
    "structured",
    "tool",
]
