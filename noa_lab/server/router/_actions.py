"""What the schedule wants to be done."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Action", "Dispatch", "Refuse", "Start", "Stop"]


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send this request to its model."""

    request: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell this request why it gets no answer.

    Attributes:
        request: The request.
        kind: "model_failed", "model_too_large" or "queue_full".
        reason: Why, in words.
        needed_bytes: For "model_too_large": what the model needs.
    """

    request: int
    kind: str
    reason: str
    needed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """Start this model's server; `started` or `start_failed` is the answer."""

    model: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End this model's server; `stopped` is the answer."""

    model: str


Action = Dispatch | Refuse | Start | Stop
