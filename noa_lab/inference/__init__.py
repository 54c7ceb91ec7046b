"""The InferenceEngine protocol, its engines and the client of llama-server.

Everything that asks a model for tokens goes through here.
"""

from noa_lab.inference._chat_format import format_chat_prompt
from noa_lab.inference._client import AsyncLlamaClient, LlamaClient
from noa_lab.inference._embedded import EmbeddedEngine
from noa_lab.inference._engine import EngineBase
from noa_lab.inference._protocol import AsyncTextStream, Capabilities, InferenceEngine, Prompt, TextStream
from noa_lab.inference._requests import Clock, CompletionRequest, CompletionResponse
from noa_lab.inference._server_engine import LlamaInferenceEngine
from noa_lab.inference._streams import Emit
from noa_lab.inference._types import ChatMessage, Completion, InferenceConfig, MessageRole, Timings

__all__ = [
    "AsyncLlamaClient",
    "AsyncTextStream",
    "Capabilities",
    "ChatMessage",
    "Clock",
    "Completion",
    "CompletionRequest",
    "CompletionResponse",
    "EmbeddedEngine",
    "Emit",
    "EngineBase",
    "InferenceConfig",
    "InferenceEngine",
    "LlamaClient",
    "LlamaInferenceEngine",
    "MessageRole",
    "Prompt",
    "TextStream",
    "Timings",
    "format_chat_prompt",
]
