"""What the router answers by itself, in llama-server's form."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

__all__ = ["error_body", "error_response"]


def error_body(status: int, kind: str, message: str, **facts: Any) -> dict[str, Any]:
    """An error as llama-server writes it.

    Args:
        status: HTTP status.
        kind: The error's type, for example "model_not_found".
        message: What is wrong and what to do, in words.
        facts: More for programs.
    """
    return {"error": {"code": status, "type": kind, "message": message, **facts}}


def error_response(status: int, kind: str, message: str, **facts: Any) -> JSONResponse:
    """The same as a response; 503 says when to try again."""
    headers = {"Retry-After": "5"} if status == 503 else None
    return JSONResponse(error_body(status, kind, message, **facts), status_code=status, headers=headers)
