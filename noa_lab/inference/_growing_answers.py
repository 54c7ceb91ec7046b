"""Answers of llama-server as they grow, event by event."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from noa_lab.inference._completion import TokenLogprob
from noa_lab.inference._requests import ChatResponse, Clock, CompletionResponse

__all__ = ["GrowingAnswers", "GrowingChat", "GrowingCompletion", "read_probabilities"]

EmitAt = Callable[[int, str], None]
"""Takes the index of an answer and one piece of it."""


class GrowingAnswers(abc.ABC):
    """What one request has brought so far.

    Attributes:
        events: Events so far; 0 until the server works on the request.
    """

    def __init__(self) -> None:
        self.sent = time.perf_counter()
        self.started = self.first = 0.0
        self.events = 0

    @property
    def touched(self) -> bool:
        """Whether a token has come, with text or without: then the request must not be sent again."""
        return self.first > 0.0

    def again(self) -> None:
        """Be ready for the same request's second sending; the time still counts from the first."""
        assert not self.touched
        self.started, self.events = 0.0, 0

    @property
    @abc.abstractmethod
    def text(self) -> str:
        """All text so far."""

    @property
    @abc.abstractmethod
    def complete(self) -> bool:
        """Whether every answer has ended."""

    @abc.abstractmethod
    def take(self, event: dict[str, Any]) -> None:
        """Take one event of the stream."""

    def _count(self) -> None:
        self.events += 1
        self.started = self.started or time.perf_counter()

    def _token(self) -> None:
        self.first = self.first or time.perf_counter()

    def _clock(self) -> Clock:
        return Clock(self.sent, self.started, self.first, time.perf_counter())


class GrowingCompletion(GrowingAnswers):
    """The answers of one `/completion` request, which come interleaved.

    Args:
        n: How many there will be.
        emit: Told each piece.
    """

    def __init__(self, n: int, emit: EmitAt) -> None:
        super().__init__()
        self._emit = emit
        self.parts = [_Part() for _ in range(n)]

    @property
    def text(self) -> str:
        return "".join(self.parts[0].pieces)

    @property
    def complete(self) -> bool:
        return all(part.last is not None for part in self.parts)

    def take(self, event: dict[str, Any]) -> None:
        self._count()
        index = event.get("index", 0)
        if not isinstance(index, int) or not 0 <= index < len(self.parts):
            raise ValueError(f"an answer with the index {index!r}, of {len(self.parts)}")
        part = self.parts[index]
        if event.get("stop") is True:
            part.last = event
        elif "prompt_progress" in event:
            return
        self._token()
        tokens = event.get("tokens") or ()
        part.tokens.extend(tokens)
        part.unseen.extend(tokens)
        part.probabilities.extend(read_probabilities(event.get("completion_probabilities") or ()))
        self._add(index, event.get("content") or "")

    def held_back(self, stops: Sequence[str]) -> list[tuple[int, list[int]]]:
        """Tokens whose text the server kept because a stop text might have begun, and never sent: streams lose it at the length limit.

        Args:
            stops: The stop texts of the request.

        Returns:
            Index of the answer, and the tokens, whose text goes to `release`.
        """
        ended = [
            (index, part) for index, part in enumerate(self.parts) if (part.last or {}).get("stop_type") == "limit"
        ]
        return [(index, part.unseen) for index, part in ended if part.unseen and stops]

    def release(self, index: int, text: str, stops: Sequence[str]) -> None:
        """Take the text of tokens that were held back, if that was why; half a character is left out."""
        text = text.removesuffix("\ufffd")
        if any(stop.startswith(text[at:]) for stop in stops for at in range(len(text))):
            self._add(index, text)

    def _add(self, index: int, piece: str) -> None:
        if piece:
            self.parts[index].unseen.clear()
            self.parts[index].pieces.append(piece)
            self._emit(index, piece)

    def responses(self) -> list[CompletionResponse]:
        """The complete answers, in order."""
        clock = self._clock()
        return [part.response(index, clock) for index, part in enumerate(self.parts)]


class _Part:
    """One of the answers."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.tokens: list[int] = []
        self.probabilities: list[TokenLogprob] = []
        self.unseen: list[int] = []
        """Tokens since the last that brought text."""
        self.last: dict[str, Any] | None = None

    def response(self, index: int, clock: Clock) -> CompletionResponse:
        last = self.last or {}
        timings = last.get("timings") or {}
        text = "".join(self.pieces)
        return CompletionResponse(
            content=text,
            model=str(last.get("model", "")),
            stop_reason=last.get("stop_type"),
            tokens_evaluated=int(last.get("tokens_evaluated", 0)),
            tokens_predicted=int(last.get("tokens_predicted", 0)),
            tokens_cached=int(timings.get("cache_n", 0)),
            truncated=bool(last.get("truncated", False)),
            index=index,
            id_slot=int(last.get("id_slot", -1)),
            tokens=tuple(self.tokens),
            probabilities=tuple(self.probabilities),
            timings=timings,
            clock=clock,
            raw={**last, "content": text, "tokens": list(self.tokens)},
        )


class GrowingChat(GrowingAnswers):
    """The answer of `/v1/chat/completions`: the reason, the usage and the timings come in different events."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        super().__init__()
        self._emit = emit
        self._pieces: list[str] = []
        self._merged: dict[str, Any] = {}
        self._calls: dict[int, dict[str, str]] = {}
        self._probabilities: list[TokenLogprob] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def complete(self) -> bool:
        return "finish_reason" in self._merged

    def take(self, event: dict[str, Any]) -> None:
        self._count()
        if "prompt_progress" in event:
            return
        self._merged.update(event)
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            if piece := delta.get("content"):
                self._token()
                self._pieces.append(piece)
                self._emit(piece)
            if thought := delta.get("reasoning_content"):
                self._token()
                self._merged["reasoning_content"] = self._merged.get("reasoning_content", "") + thought
            for call in delta.get("tool_calls") or ():
                self._token()
                self._call(call)
            self._probabilities.extend(read_probabilities((choice.get("logprobs") or {}).get("content") or ()))
            if choice.get("finish_reason"):
                self._merged["finish_reason"] = choice["finish_reason"]

    def _call(self, delta: Mapping[str, Any]) -> None:
        known = self._calls.setdefault(int(delta.get("index", 0)), {"id": "", "name": "", "arguments": ""})
        about = delta.get("function") or {}
        known["id"] = known["id"] or str(delta.get("id") or "")
        known["name"] += str(about.get("name") or "")
        known["arguments"] += str(about.get("arguments") or "")

    def response(self) -> ChatResponse:
        """The complete answer."""
        last = self._merged
        usage, timings = last.get("usage") or {}, last.get("timings") or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        calls = [self._calls[index] for index in sorted(self._calls)]
        return ChatResponse(
            content=self.text,
            model=str(last.get("model", "")),
            stop_reason=str(last["finish_reason"]),
            tokens_evaluated=int(usage.get("prompt_tokens", 0)),
            tokens_predicted=int(usage.get("completion_tokens", 0)),
            tokens_cached=int(timings.get("cache_n", cached)),
            probabilities=tuple(self._probabilities),
            timings=timings,
            clock=self._clock(),
            raw={**last, "content": self.text, "tool_calls": calls},
            reasoning=str(last.get("reasoning_content") or ""),
            tool_calls=tuple(calls),
        )


def read_probabilities(found: Iterable[Mapping[str, Any]]) -> list[TokenLogprob]:
    """llama-server's `completion_probabilities`, or OpenAI's `logprobs.content`."""
    return [
        TokenLogprob(
            token=int(each.get("id", -1)),
            piece=_piece(each),
            logprob=float(each["logprob"]),
            top=tuple(read_probabilities(each.get("top_logprobs") or ())),
        )
        for each in found
    ]


def _piece(each: Mapping[str, Any]) -> bytes:
    data = each.get("bytes")
    return bytes(data) if data is not None else str(each.get("token", "")).encode()
