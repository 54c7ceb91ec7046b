"""Prompts: one or several turns with `{{ variables }}`, identified by their content."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noa_lab.errors import BadInput, TemplateInvalid, nearest
from noa_lab.experiments.grid._templates import Template
from noa_lab.inference import ChatMessage, MessageRole

__all__ = ["Prompt", "canonical_json", "content_hash"]

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, so that equal values have equal hashes."""
    return _CANONICAL.encode(value)


def content_hash(value: object) -> str:
    """sha256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _message(turn: object, number: int) -> ChatMessage:
    if isinstance(turn, ChatMessage):
        return turn
    if not isinstance(turn, Mapping):
        raise BadInput(
            f"Message {number} of a prompt is {turn!r}, which is not a message.",
            fix="Write it as {role: user, content: ...}.",
            field="messages",
            value=turn,
        )
    return ChatMessage(**{str(key): value for key, value in turn.items()})


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a model is asked: Jinja2 templates that each input fills in.

    Templates are sandboxed; a variable that an input lacks is an error, never an empty text.

    Args:
        system: An instruction that stands over the conversation.
        user: One user message.
        messages: A whole conversation instead of `user`, for example with worked examples: `ChatMessage`s or mappings with
            `role` and `content`.
        parent: Hash of the prompt that this one was made from, see `edit`; no part of what makes two prompts the same.

    Raises:
        BadInput: When there is neither `user` nor `messages`, or both.
        TemplateInvalid: When a template cannot be parsed.
    """

    system: str | None = None
    user: str | None = None
    messages: Sequence[ChatMessage | Mapping[str, Any]] = ()
    parent: str | None = field(default=None, compare=False)
    _templates: tuple[tuple[MessageRole, Template], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("system", "user"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise BadInput(f"{name} = {value!r} is not a text.", fix="Give a text.", field=name, value=value)
        if isinstance(self.messages, str | Mapping) or not isinstance(self.messages, Iterable):
            raise BadInput(
                "messages is not a list of messages.",
                fix="Give a list of {role, content}, or use user= for one message.",
                field="messages",
                value=self.messages,
            )
        messages = tuple(_message(turn, number) for number, turn in enumerate(self.messages, 1))
        if (self.user is None) == (not messages):
            found = "both" if messages else "neither"
            raise BadInput(
                f"A prompt has either a user message or a list of messages; this one has {found}.",
                fix="Give user= or messages=.",
                field="messages" if messages else "user",
                value=None,
            )
        object.__setattr__(self, "messages", messages)
        turns = [] if self.system is None else [(MessageRole.SYSTEM, self.system)]
        turns += [(MessageRole.USER, self.user)] if self.user is not None else [(m.role, m.content) for m in messages]
        object.__setattr__(self, "_templates", tuple((role, Template(text)) for role, text in turns))

    @classmethod
    def of(cls, value: object, name: str = "") -> Prompt:
        """A prompt from what a user writes: a text (one user message), a mapping of this class's arguments, or a `Prompt`.

        Args:
            value: What was written.
            name: The prompt's name, for messages.

        Raises:
            BadInput: When it is none of these, or has an unknown key.
            TemplateInvalid: When a template cannot be parsed.
        """
        try:
            if isinstance(value, Prompt):
                return value
            if isinstance(value, str):
                return cls(user=value)
            if isinstance(value, Mapping):
                return cls._of_mapping(value)
        except TemplateInvalid as error:
            message = error.message.replace("A template", f"The prompt {name!r}", 1)
            raise TemplateInvalid(message, fix=error.fix, **{**error.fields, "prompt": name}) from None
        except BadInput as error:
            raise BadInput(f"Prompt {name!r}: {error.message}", fix=error.fix, **error.fields) from None
        raise BadInput(
            f"The prompt {name!r} is of type {type(value).__name__}.",
            fix="Give a text, a Prompt, or a mapping with system, user or messages.",
            field=f"prompts.{name}",
            value=value,
        )

    @classmethod
    def _of_mapping(cls, value: Mapping[Any, Any]) -> Prompt:
        known = ("system", "user", "messages")
        for key in value:
            if key not in known:
                near = nearest(str(key), known)
                raise BadInput(
                    f"there is no field {key!r}.",
                    fix=f"Did you mean {near!r}?" if near else f"Known: {', '.join(known)}.",
                    field=str(key),
                    value=value[key],
                    path=(key,),
                    nearest=near,
                )
        return cls(**value)

    def edit(self, **changes: Any) -> Prompt:
        """A prompt made from this one, which is its parent.

        Args:
            changes: Other values of `system`, `user` or `messages`.

        Raises:
            BadInput: As the constructor does, and for other names.
        """
        for name, value in changes.items():
            if name not in {"system", "user", "messages"}:
                raise BadInput(
                    f"A prompt has no {name!r} to be edited.",
                    fix="Change system, user or messages.",
                    field=name,
                    value=value,
                )
        now: dict[str, Any] = {"system": self.system, "user": self.user, "messages": self.messages}
        if changes.get("user") is not None:
            now["messages"] = ()
        if changes.get("messages"):
            now["user"] = None
        return Prompt(**{**now, **changes}, parent=self.hash)

    def with_parent(self, parent: str | None) -> Prompt:
        """The same prompt, made from another one."""
        return dataclasses.replace(self, parent=parent)

    def diff(self, other: Prompt) -> str:
        """What has changed from another prompt to this one, line by line, in the unified format; empty where nothing has."""
        before, after = (
            [f"# {turn['role']}\n{turn['content']}\n" for turn in prompt.turns()] for prompt in (other, self)
        )
        lines = difflib.unified_diff(
            "\n".join(before).splitlines(), "\n".join(after).splitlines(), other.hash[:8], self.hash[:8], lineterm=""
        )
        return "\n".join(lines)

    def turns(self) -> list[dict[str, str]]:
        """The unfilled conversation as plain data: role and content of each turn."""
        return [{"role": role.value, "content": template.source} for role, template in self._templates]

    @property
    def hash(self) -> str:
        """sha256 (hex) of the unfilled conversation: equal for prompts that say the same, however they were written."""
        return content_hash(self.turns())

    @property
    def variables(self) -> frozenset[str]:
        """Names that the templates use."""
        return frozenset().union(*(template.variables for _, template in self._templates))

    @property
    def roles(self) -> tuple[MessageRole, ...]:
        """Who speaks in each of its turns."""
        return tuple(role for role, _ in self._templates)

    def texts(self, variables: Mapping[str, Any]) -> tuple[str, ...]:
        """The contents of its turns, with one input's values filled in.

        Raises:
            TemplateInvalid: When a variable is missing, an operation fails or a limit is passed.
        """
        return tuple(template.render(variables) for _, template in self._templates)

    def render(self, variables: Mapping[str, Any]) -> list[ChatMessage]:
        """The conversation with one input's values filled in; raises as `texts` does."""
        return [
            ChatMessage(role=role, content=text) for role, text in zip(self.roles, self.texts(variables), strict=True)
        ]
