"""noa_lab: a Jupyter-first research workbench for local language models on llama.cpp.

    import noa_lab as lab

    lab.check(); lab.install()                     the machine, llama.cpp
    lab.models.get(...); lab.serve(...)            models and servers
    lab.compare(lab.Grid(...), [lab.score....])    prompts side by side
    lab.DigestAgent(engine)                        agents
    %load_ext noa_lab                              `%%ask` in a notebook's cell

The verbs are those of one default `Lab`. Everything is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from noa_lab._version import __version__ as __version__

if TYPE_CHECKING:
    from noa_lab.agents import DigestAgent, RepositoryDigest, parse_digest
    from noa_lab.experiments import (
        Budget,
        Grid,
        Run,
        import_promptfoo,
        load_comparison,
        load_prompts,
        plan_inputs,
        score,
        verdict,
        verdicts,
    )
    from noa_lab.experiments import Prompt as Prompt
    from noa_lab.inference import (
        AsyncLlamaClient,
        CassetteEngine,
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
        OpenAIEngine,
        RoutedEngine,
        ScriptedEngine,
        Tool,
        ToolCall,
        check_determinism,
        structured,
        tool,
    )
    from noa_lab.widgets import ComparePanel, ModelPanel, ServerPanel, SetupPanel
    from noa_lab.workbench import Lab

_VERBS = (
    *("check", "compare", "install", "open_run", "plan_install", "rollback", "route", "runs", "runtimes"),
    *("foreign_servers", "serve", "server_config", "servers", "stop", "test_server", "tune", "tuned"),
    *("delete_run", "estimate", "export_run", "import_run", "restore_run"),
)
_ROOMS = {
    "agents": ("DigestAgent", "RepositoryDigest", "parse_digest"),
    "experiments": (
        *("Budget", "Grid", "Prompt", "Run", "load_comparison", "load_prompts", "plan_inputs", "score"),
        *("import_promptfoo", "verdict", "verdicts"),
    ),
    "inference": (
        *(
            "AsyncLlamaClient",
            "ChatMessage",
            "Completion",
            "CompletionRequest",
            "CompletionResponse",
            "InferenceConfig",
        ),
        *(
            "InferenceEngine",
            "LlamaClient",
            "MessageRole",
            "Tool",
            "ToolCall",
            "check_determinism",
            "structured",
            "tool",
        ),
        *("CassetteEngine", "EmbeddedEngine", "LlamaInferenceEngine", "OpenAIEngine", "RoutedEngine", "ScriptedEngine"),
    ),
    "widgets": ("ComparePanel", "ModelPanel", "ServerPanel", "SetupPanel"),
    "workbench": ("Lab",),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "AsyncLlamaClient",
    "Budget",
    "CassetteEngine",
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
    "OpenAIEngine",
    "Prompt",
    "RepositoryDigest",
    "RoutedEngine",
    "Run",
    "ScriptedEngine",
    "ServerPanel",
    "SetupPanel",
    "Tool",
    "ToolCall",
    "check",
    "check_determinism",
    "compare",
    "delete_run",
    "estimate",
    "export_run",
    "foreign_servers",
    "import_promptfoo",
    "import_run",
    "install",
    "load_comparison",
    "load_prompts",
    "models",
    "open_run",
    "parse_digest",
    "plan_inputs",
    "plan_install",
    "restore_run",
    "rollback",
    "route",
    "runs",
    "runtimes",
    "score",
    "serve",
    "server_config",
    "servers",
    "stop",
    "structured",
    "test_server",
    "tool",
    "tune",
    "tuned",
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


def load_ipython_extension(ipython: Any) -> None:
    """What `%load_ext noa_lab` does: `%%ask` asks a model what a cell says."""
    from noa_lab.widgets import load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """What `%unload_ext noa_lab` does."""
    from noa_lab.widgets import unload

    unload(ipython)


def _default_lab() -> Lab:
    from noa_lab.workbench import default_lab

    lab = default_lab()
    if lab.on_run is None and "ipykernel" in sys.modules:
        from noa_lab.widgets import show_run

        lab.on_run = show_run
    return lab
