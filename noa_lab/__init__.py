"""noa_lab: a Jupyter-first research workbench for local language models on llama.cpp.

    import noa_lab as lab

    lab.check(); lab.install()                     the machine, llama.cpp
    lab.models.get(...); lab.serve(...)            models and servers
    lab.compare(lab.Grid(...), [lab.score....])    prompts side by side
    lab.DigestAgent(engine)                        agents

The verbs are those of one default `Lab`. Everything is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from noa_lab._version import __version__ as __version__

if TYPE_CHECKING:
    from noa_lab.agents import DigestAgent, RepositoryDigest, parse_digest
    from noa_lab.experiments import Grid, Run, load_comparison, plan_inputs, score, verdict, verdicts
    from noa_lab.experiments import Prompt as Prompt
    from noa_lab.inference import (
        AsyncLlamaClient,
        ChatMessage,
        Completion,
        CompletionRequest,
        CompletionResponse,
        EmbeddedEngine,
        InferenceConfig,
        InferenceEngine,
        LlamaClient,
        LlamaInferenceEngine,
        MessageRole,
    )
    from noa_lab.widgets import ComparePanel, ModelPanel, ServerPanel, SetupPanel
    from noa_lab.workbench import Lab

_VERBS = (
    *("check", "compare", "install", "open_run", "plan_install", "rollback", "route", "runs", "runtimes"),
    *("serve", "server_config", "servers", "stop"),
)
_ROOMS = {
    "agents": ("DigestAgent", "RepositoryDigest", "parse_digest"),
    "experiments": ("Grid", "Prompt", "Run", "load_comparison", "plan_inputs", "score", "verdict", "verdicts"),
    "inference": (
        *("AsyncLlamaClient", "ChatMessage", "Completion", "CompletionRequest", "CompletionResponse", "EmbeddedEngine"),
        *("InferenceConfig", "InferenceEngine", "LlamaClient", "LlamaInferenceEngine", "MessageRole"),
    ),
    "widgets": ("ComparePanel", "ModelPanel", "ServerPanel", "SetupPanel"),
    "workbench": ("Lab",),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "AsyncLlamaClient",
    "ChatMessage",
    "ComparePanel",
    "Completion",
    "CompletionRequest",
    "CompletionResponse",
    "DigestAgent",
    "EmbeddedEngine",
    "Grid",
    "InferenceConfig",
    "InferenceEngine",
    "Lab",
    "LlamaClient",
    "LlamaInferenceEngine",
    "MessageRole",
    "ModelPanel",
    "Prompt",
    "RepositoryDigest",
    "Run",
    "ServerPanel",
    "SetupPanel",
    "check",
    "compare",
    "install",
    "load_comparison",
    "models",
    "open_run",
    "parse_digest",
    "plan_inputs",
    "plan_install",
    "rollback",
    "route",
    "runs",
    "runtimes",
    "score",
    "serve",
    "server_config",
    "servers",
    "stop",
    "verdict",
    "verdicts",
]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(_default_lab(), name)
    if name == "models":
        return importlib.import_module("noa_lab.models")
    if name in _HOMES:
        return getattr(importlib.import_module(f"noa_lab.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'noa_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _default_lab() -> Lab:
    from noa_lab.workbench import default_lab

    lab = default_lab()
    if lab.on_run is None and "ipykernel" in sys.modules:
        from noa_lab.widgets import show_run

        lab.on_run = show_run
    return lab
