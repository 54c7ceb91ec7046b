"""The InferenceEngine protocol, its engines and the client of llama-server.

Everything that asks a model for tokens goes through here.
"""

from noa_lab.inference._protocol import AsyncTextStream, Capabilities, InferenceEngine, Prompt, TextStream
from noa_lab.inference._types import ChatMessage, Completion, InferenceConfig, MessageRole, Timings

__all__ = [
    "AsyncTextStream",
    "Capabilities",
    "ChatMessage",
    "Completion",
    "InferenceConfig",
    "InferenceEngine",
    "MessageRole",
    "Prompt",
    "TextStream",
    "Timings",
]
