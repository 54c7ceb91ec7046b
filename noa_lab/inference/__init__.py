"""The InferenceEngine protocol, its engines and the client of llama-server.

Everything that asks a model for tokens goes through here.
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
from noa_lab.inference._embedded import EmbeddedEngine
from noa_lab.inference._engine import EngineBase
from noa_lab.inference._protocol import AsyncTextStream, Capabilities, InferenceEngine, Prompt, TextStream, ToolSupport
from noa_lab.inference._question import Question
from noa_lab.inference._requests import Clock, CompletionRequest, CompletionResponse
from noa_lab.inference._scripted import Reply, ScriptedCall, ScriptedEngine
from noa_lab.inference._server_engine import LlamaInferenceEngine
from noa_lab.inference._streams import Emit
from noa_lab.inference._tools import Tool, ToolChoice, tool
from noa_lab.inference._types import ChatMessage, InferenceConfig, MessageRole, OverflowPolicy, ToolCall

__all__ = [
    "AsyncLlamaClient",
    "AsyncTextStream",
    "Capabilities",
    "ChatMessage",
    "Clock",
    "Completion",
    "CompletionRequest",
    "CompletionResponse",
    "ContinuationLogprobs",
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
    "OverflowPolicy",
    "Prompt",
    "Question",
    "Recover",
    "Reply",
    "ScriptedCall",
    "ScriptedEngine",
    "TextStream",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolSupport",
    "format_chat_prompt",
    "tool",
]
