"""From llama-server's response to the protocol's answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noa_lab.errors import RequestRefused
from noa_lab.inference._completion import Completion, Timings
from noa_lab.inference._requests import CompletionResponse

__all__ = ["completion_of", "timings_of"]

_FINISH = {"eos": "stop", "word": "stop_sequence", "limit": "length"}


def completion_of(response: CompletionResponse, body: Mapping[str, Any], seed: int | None) -> Completion:
    """The protocol's answer from `/completion`'s.

    Args:
        response: What came back.
        body: What was sent.
        seed: The seed that was used; None for a greedy answer.

    Raises:
        RequestRefused: For a reason to stop that is not known.
    """
    finish = _FINISH.get(response.stop_reason or "")
    if finish is None:
        raise RequestRefused(
            f"The server ended the answer for a reason that is not known here: {response.stop_reason!r}.",
            fix="Use a llama-server of 2025 or later.",
            type="unknown_stop_type",
            status=200,
        )
    return Completion(
        text=response.content,
        model=response.model,
        finish_reason=finish,
        prompt_tokens=response.tokens_evaluated,
        cached_tokens=response.tokens_cached,
        completion_tokens=response.tokens_predicted,
        truncated=response.truncated and finish == "length" and response.tokens_predicted < body["n_predict"],
        seed=seed,
        timings=timings_of(response),
        token_ids=response.tokens,
        logprobs=response.probabilities,
        raw_request=body,
        raw_response=response.raw,
    )


def timings_of(response: CompletionResponse) -> Timings:
    """Where the time of a response went."""
    clock, server = response.clock, response.timings
    return Timings(
        queue_ms=(clock.started - clock.sent) * 1000,
        ttft_ms=(clock.first - clock.sent) * 1000,
        prefill_ms=float(server.get("prompt_ms", 0.0)),
        decode_ms=float(server.get("predicted_ms", 0.0)),
        total_ms=(clock.ended - clock.sent) * 1000,
    )
