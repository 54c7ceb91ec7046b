"""The seed document's plain chat format, for models that bring no template of their own."""

from __future__ import annotations

from collections.abc import Sequence

from noa_lab.inference._types import ChatMessage

__all__ = ["BUILT_IN_TEMPLATE_SHA256", "format_chat_prompt"]

BUILT_IN_TEMPLATE_SHA256 = "cc145ac597328b60dbce2631dce17c0c84bb6a87b2380cc0473e2e1291965db7"
"""Hash of the ChatML text that llama-server reports for a model without a template (`common/chat.cpp`, b11312)."""


def format_chat_prompt(messages: Sequence[ChatMessage]) -> str:
    r"""Write a conversation as `<|role|>\ncontent\n` blocks, ending with `<|assistant|>\n` where the answer begins.

    Engines use it only for models without a chat template, and say so: `Capabilities.chat_template` is then False.
    """
    blocks = [f"<|{message.role.value}|>\n{message.content}\n" for message in messages]
    return "".join(blocks) + "<|assistant|>\n"
