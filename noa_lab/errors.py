"""Every error noa_lab raises on purpose.

One tree. A class is named for what went wrong, carries what was found in `fields`, and ends with one sentence, `fix`, that says
what to do. The command line prints `BadInput` with exit code 2 and everything else with 1; a notebook shows three lines.

    NoaLabError
    ├── BadInput (ValueError)         what the caller gave cannot be used
    │   ├── UnknownName               a name that does not exist; the nearest one is offered
    │   │   └── UnknownModel
    │   ├── ConfigInvalid             a YAML file with a wrong key or value: file and line
    │   ├── TemplateInvalid           a prompt template that cannot be rendered
    │   ├── ModelFileBroken           a file that is not a readable GGUF
    │   ├── ContextOverflow           more tokens than the model's context holds
    │   └── SchemaUnsupported         a JSON schema that cannot constrain an answer; the keyword is named
    ├── Cancelled                     the user stopped it
    ├── SetupError                    this machine lacks something
    │   ├── ToolMissing               no compiler, no git, ...
    │   ├── DiskFull (OSError)
    │   ├── NotEnoughMemory (MemoryError)    a model that does not fit
    │   ├── BuildFailed               llama.cpp did not compile
    │   ├── RuntimeRejected           a runtime that failed its smoke test
    │   └── RuntimeMissing            no llama.cpp installed yet
    ├── DownloadFailed                bytes that did not arrive
    │   ├── ChecksumMismatch          bytes that arrived wrong
    │   └── ArchiveUnsafe             an archive that would write elsewhere, or fill the disk
    ├── ServerError
    │   ├── ServerExited              llama-server ended by itself
    │   ├── ServerNotReady (TimeoutError)
    │   ├── ServerMissing             no such server is up
    │   └── PortTaken                 another program listens on the port
    ├── InferenceError
    │   ├── Unreachable (ConnectionError)
    │   ├── RequestRefused            the server answered with an error
    │   ├── StreamBroken              the answer stopped half-way; carries the text so far
    │   ├── Unsupported               this engine cannot do it
    │   │   └── CannotShare           a model that cannot keep the beginning that prompts share
    │   ├── CassetteMiss              a recording that does not hold the question
    │   └── ReplyInvalid              the model's reply is not what was asked for; carries the reply
    │       └── ToolCallInvalid
    ├── ExperimentError
    │   ├── NotEnoughData             a question that the run's data cannot answer
    │   ├── RunBusy                   the run is being executed by another process
    │   └── RunUnfinished (TimeoutError)    the run is not over yet
    │       └── BudgetSpent           it paused because its budget is used up
    └── AgentError
        └── DigestInvalid             the model's reply is no digest
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "AgentError",
    "ArchiveUnsafe",
    "BadInput",
    "BudgetSpent",
    "BuildFailed",
    "Cancelled",
    "CannotShare",
    "CassetteMiss",
    "ChecksumMismatch",
    "ConfigInvalid",
    "ContextOverflow",
    "DigestInvalid",
    "DiskFull",
    "DownloadFailed",
    "ExperimentError",
    "InferenceError",
    "ModelFileBroken",
    "NoaLabError",
    "NotEnoughData",
    "NotEnoughMemory",
    "PortTaken",
    "ReplyInvalid",
    "RequestRefused",
    "RunBusy",
    "RunUnfinished",
    "RuntimeMissing",
    "RuntimeRejected",
    "SchemaUnsupported",
    "ServerError",
    "ServerExited",
    "ServerMissing",
    "ServerNotReady",
    "SetupError",
    "StreamBroken",
    "TemplateInvalid",
    "ToolCallInvalid",
    "ToolMissing",
    "UnknownModel",
    "UnknownName",
    "Unreachable",
    "Unsupported",
    "nearest",
]


class NoaLabError(Exception):
    """Base of the tree.

    Attributes:
        message: What went wrong, in one sentence, with the values as the user wrote them.
        fix: What to do about it, in one sentence.
        fields: The facts behind the message, for programs.
        exit_code: What the command line ends with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, fix: str, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.message}\n{self.fix}" if self.fix else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.fix, self.fields)

    def _render_traceback_(self) -> list[str]:
        """What IPython prints for an uncaught error: name, message and fix; all of it with NOA_LAB_TRACEBACK=1."""
        if os.environ.get("NOA_LAB_TRACEBACK"):
            import traceback

            return traceback.format_exception(self)
        lines = [f"{type(self).__name__}: {self.message}"]
        if self.fix:
            lines.append(f"Fix: {self.fix}")
        return [*lines, "(NOA_LAB_TRACEBACK=1 shows where it was raised)"]


def _rebuild(kind: type[NoaLabError], message: str, fix: str, fields: dict[str, object]) -> NoaLabError:
    return kind(message, fix=fix, **fields)


class BadInput(NoaLabError, ValueError):
    """What the caller gave cannot be used; `fields` holds at least the field and the value."""

    exit_code: ClassVar[int] = 2


class UnknownName(BadInput):
    """A name that does not exist. `fields`: kind, name, nearest, known."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str], *, where: str = "") -> UnknownName:
        """The error for `name`, offering the nearest of `known`."""
        choices = sorted(known)
        near = nearest(name, choices)
        fix = f"Did you mean {near!r}?" if near else f"Known: {', '.join(choices) or 'none yet'}."
        place = f" in {where}" if where else ""
        return cls(f"There is no {kind} {name!r}{place}.", fix=fix, kind=kind, name=name, nearest=near, known=choices)


class UnknownModel(UnknownName):
    """A model reference that names nothing in the catalogue, on disk or on a hub."""


class ConfigInvalid(BadInput):
    """A YAML file with a wrong key or value. `fields`: file, line, key, value."""


class TemplateInvalid(BadInput):
    """A prompt template that cannot be parsed or rendered. `fields`: prompt, variable."""


class ModelFileBroken(BadInput):
    """A file that is not a readable GGUF. `fields`: path."""


class ContextOverflow(BadInput):
    """More tokens than the context holds. `fields`: prompt_tokens, max_tokens, context_size."""


class SchemaUnsupported(BadInput):
    """A JSON schema that the engine cannot hold an answer to. `fields`: keyword, path (in the schema), reason."""


class Cancelled(NoaLabError):
    """The user stopped it."""


class SetupError(NoaLabError):
    """This machine lacks something that noa_lab needs."""


class ToolMissing(SetupError):
    """A program that is not installed. `fields`: tool."""


class DiskFull(SetupError, OSError):
    """Not enough disk space. `fields`: path, needed_bytes, free_bytes."""


class NotEnoughMemory(SetupError, MemoryError):
    """A model that does not fit into memory. `fields`: model, needed_bytes, free_bytes, largest_context."""


class BuildFailed(SetupError):
    """llama.cpp did not compile. `fields`: step, log, excerpt."""


class RuntimeRejected(SetupError):
    """A llama.cpp that failed its smoke test. `fields`: reason, signal, path."""


class RuntimeMissing(SetupError):
    """No llama.cpp is installed yet."""


class DownloadFailed(NoaLabError):
    """Bytes that did not arrive. `fields`: source, reason."""


class ChecksumMismatch(DownloadFailed):
    """Bytes that arrived wrong. `fields`: source, expected, found."""


class ArchiveUnsafe(DownloadFailed):
    """An archive that would write outside its folder, or fill the disk. `fields`: source, reason, member."""


class ServerError(NoaLabError):
    """Something about a llama-server that noa_lab watches over."""


class ServerExited(ServerError):
    """llama-server ended by itself. `fields`: name, exit_code, reason, log_tail."""


class ServerNotReady(ServerError, TimeoutError):
    """llama-server did not become ready in time. `fields`: name, seconds, log_tail."""


class ServerMissing(ServerError):
    """No such server is up. `fields`: name."""


class PortTaken(ServerError):
    """The port cannot be had; mostly another program listens on it. `fields`: host, port, pid, program (None where nobody is seen)."""


class InferenceError(NoaLabError):
    """A request for tokens that failed."""


class Unreachable(InferenceError, ConnectionError):
    """Nothing answers at the address. `fields`: url."""


class RequestRefused(InferenceError):
    """The server answered with an error. `fields`: status, type, url."""


class StreamBroken(InferenceError):
    """The answer stopped half-way. `fields`: text (what had arrived), url."""


class Unsupported(InferenceError):
    """The engine cannot do this. `fields`: what (a name of `Capabilities`), engine."""


class CannotShare(Unsupported):
    """A model that evaluates again what two prompts have in common. `fields`: expected, kept (tokens), url."""


class CassetteMiss(InferenceError):
    """A recording that does not hold the question. `fields`: path, key, prompt."""


class ReplyInvalid(InferenceError):
    """The model's reply is not what was asked for. `fields`: reply, reason."""


class ToolCallInvalid(ReplyInvalid):
    """A tool call that no tool takes. `fields`: name, arguments (as written), reason."""


class ExperimentError(NoaLabError):
    """A comparison that cannot go on."""


class NotEnoughData(ExperimentError):
    """A question that the run's data cannot answer."""


class RunBusy(ExperimentError):
    """The run is being executed by another process. `fields`: run_id, pid."""


class RunUnfinished(ExperimentError, TimeoutError):
    """The run is not over: the time to wait is up, or it is paused. `fields`: run_id, done, total."""


class BudgetSpent(RunUnfinished):
    """The run paused because it has used up its budget. `fields`: run_id, tokens or minutes."""


class AgentError(NoaLabError):
    """An agent that cannot do its task."""


class DigestInvalid(AgentError):
    """The model's reply is no digest. `fields`: reply, reason."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The entry of `known` that `name` most likely means, or None when none is close."""
    matches = difflib.get_close_matches(name.lower(), {k.lower(): k for k in known}, n=1, cutoff=0.6)
    originals = {k.lower(): k for k in known}
    return originals[matches[0]] if matches else None
