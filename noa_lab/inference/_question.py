"""One question to an engine, checked and complete: what every engine answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from noa_lab.inference._protocol import Mode, Prompt
from noa_lab.inference._tools import Tool
from noa_lab.inference._types import InferenceConfig

__all__ = ["Question"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        prompt: Text, token ids (a tuple) or a conversation (a list).
        config: How to sample.
        tools: What the model may call; only with a conversation.
        tool_choice: See `ToolChoice`; "none" without tools.
        grammar: GBNF of the answer: the config's, or that of its JSON schema.
        mode: Overrules the engine's own mode; None does not.
    """

    prompt: Prompt
    config: InferenceConfig
    tools: Sequence[Tool] = ()
    tool_choice: str = "none"
    grammar: str | None = None
    mode: Mode | None = None
