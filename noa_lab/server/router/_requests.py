"""What a request asks for: which model, and with which of server.yaml's values filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from noa_lab.errors import nearest
from noa_lab.server.router._plan import RouterPlan

__all__ = ["BadRequest", "choose_model", "read_body", "with_sampling"]

_COMPLETIONS = frozenset(
    [
        *("/completion", "/completions", "/v1/completions", "/chat/completions", "/v1/chat/completions"),
        *("/responses", "/v1/responses", "/v1/messages", "/infill"),
    ]
)
"""Routes that generate."""

_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")
"""By what names a request may say how much to generate."""

_OTHER_NAMES = {"stop_sequences": ("stop", "stop_sequences"), "max_tokens": _LENGTHS}


class BadRequest(Exception):
    """A request that cannot be answered as it is. Internal: becomes an HTTP error.

    Args:
        status: HTTP status.
        kind: The error's type.
        message: What is wrong and what to do, in words.
        facts: More for programs.
    """

    def __init__(self, status: int, kind: str, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.facts = status, kind, message, facts


def read_body(content: bytes, content_type: str) -> dict[str, Any] | None:
    """The JSON object in a body; None where there is none.

    llama-server reads JSON whatever the content type says (curl's `-d` says that it is a form), so that is done here too.

    Args:
        content: The body.
        content_type: The header, or "".

    Raises:
        BadRequest: When it should be a JSON object and is none.
    """
    said = "json" in content_type.lower()
    if not content or (not said and not content.lstrip().startswith(b"{")):
        return None
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise BadRequest(400, "invalid_request_error", "The body is not valid JSON.") from None
    if not isinstance(data, dict):
        raise BadRequest(400, "invalid_request_error", "The body is no JSON object.")
    return data


def choose_model(plan: RouterPlan, body: Mapping[str, Any] | None, query: bytes) -> str:
    """Name of the model that a request means: the body's `model`, else `?model=`, else the default.

    Raises:
        BadRequest: When there is no such model or tag, or the name is no text.
    """
    wanted = body.get("model") if body is not None else None
    if wanted is None and b"model=" in query:
        wanted = next(iter(parse_qs(query.decode("latin-1")).get("model", [])), None)
    if wanted is None:
        return plan.default
    if not isinstance(wanted, str):
        raise BadRequest(400, "invalid_request_error", f"model = {wanted!r} is no text.")
    found = plan.resolve(wanted)
    if found is None:
        tags = sorted({tag for one in plan.models for tag in one.tags})
        near = nearest(wanted, (*plan.names, *tags))
        hint = f"Did you mean {near!r}?" if near else f"Known: {', '.join((*plan.names, *tags))}."
        message = f"There is no model and no task tag {wanted!r} here. {hint}"
        raise BadRequest(404, "model_not_found", message, nearest=near, known=[*plan.names, *tags])
    return found


def with_sampling(path: str, body: Mapping[str, Any], sampling: Mapping[str, Any]) -> dict[str, Any] | None:
    """The body with the values that it leaves out, or None where nothing is to be added.

    Args:
        path: The route.
        body: What was asked for; `null` counts as left out, as in llama-server.
        sampling: Values by the names of `InferenceConfig`.
    """
    if path not in _COMPLETIONS:
        return None
    added = {}
    for name, value in sampling.items():
        names = _OTHER_NAMES.get(name, (name,))
        if value is not None and value != [] and all(body.get(other) is None for other in names):
            added[names[0]] = value
    return {**body, **added} if added else None
