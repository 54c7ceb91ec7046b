"""What came of asking for an object."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from noa_lab.inference._completion import Completion

__all__ = ["Attempt", "How", "StructureMode", "Structured"]

T = TypeVar("T")

StructureMode = Literal["prompt_only", "lenient", "reason_then_schema", "hard_schema", "tool_call"]
"""How a model is brought to write an object.

"prompt_only": it is told the form; the reply must be that JSON and nothing else. "lenient": the same, but JSON is looked for in the
reply and small faults are repaired. "reason_then_schema": it thinks freely in a first reply, and is held to the schema in a second.
"hard_schema": it is held to the schema at once: always valid, and with small models more often wrong. "tool_call": it calls a tool
whose parameters are the schema.
"""

How = Literal["exact", "extracted", "repaired", "called"]
"""How the object was taken from the reply: the whole reply; a part of it; after a repair of its JSON; as a tool's arguments."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One reply.

    Attributes:
        completion: The reply.
        reasoning: The reply before it, in the mode "reason_then_schema".
        fault: What was wrong with it; None when nothing was.
        how: How an object was taken from it; None when none was.
    """

    completion: Completion
    reasoning: Completion | None = None
    fault: str | None = None
    how: How | None = None

    @property
    def completion_tokens(self) -> int:
        """Tokens generated, the reasoning included."""
        return self.completion.completion_tokens + (self.reasoning.completion_tokens if self.reasoning else 0)


@dataclass(frozen=True, slots=True)
class Structured(Generic[T]):
    """An object, and how it was obtained.

    Attributes:
        value: The object: an instance of the pydantic model, or the plain JSON value where a JSON Schema was given.
        data: The plain JSON value as the model wrote it.
        mode: How it was asked for.
        how: How it was taken from the reply.
        coerced: Whether pydantic had to convert something ("3" to 3): the plain value does not satisfy the schema as it stands.
        attempts: All replies, the last of which holds the object.
    """

    value: T
    data: Any
    mode: StructureMode
    how: How
    coerced: bool
    attempts: tuple[Attempt, ...]

    @property
    def completion(self) -> Completion:
        """The reply that holds the object."""
        return self.attempts[-1].completion

    @property
    def completion_tokens(self) -> int:
        """Tokens generated in all attempts."""
        return sum(attempt.completion_tokens for attempt in self.attempts)

    def facts(self) -> str:
        """How it was obtained, in one line, for people."""
        tries = f"{len(self.attempts)} attempts" if len(self.attempts) > 1 else "first attempt"
        coerced = " · converted by pydantic" if self.coerced else ""
        return f"{self.mode} · {self.how}{coerced} · {tries} · {self.completion_tokens} tokens"

    def _repr_html_(self) -> str:
        shown = html.escape(json.dumps(self.data, indent=2, ensure_ascii=False))
        return f'<pre>{shown}</pre><div style="opacity:.7;font-size:85%">{html.escape(self.facts())}</div>'
