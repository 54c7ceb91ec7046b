"""Small questions to a llama-server: one request, one JSON answer, no proxies, no redirects."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from noa_lab.errors import BadInput, RequestRefused, Unreachable

__all__ = ["ask", "ask_json"]

_MAX_ANSWER = 64 << 20


def ask(
    base_url: str, path: str, *, api_key: str = "", body: dict[str, Any] | None = None, timeout: float = 5.0
) -> tuple[int, bytes]:
    """Send one request and read the answer.

    Args:
        base_url: "http://host:port" or "https://host", with or without a path.
        path: For example "/props".
        api_key: Sent as a bearer token when it is not empty.
        body: Sent as JSON with POST; None is a GET.
        timeout: Seconds that one step (connecting, each read) may take.

    Returns:
        Status code and body.

    Raises:
        BadInput: When the address is none.
        Unreachable: When nothing answers there, or what answers does not speak HTTP.
    """
    parts = urlsplit(base_url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        fix = 'Write it like "http://127.0.0.1:8080".'
        raise BadInput(f"{base_url!r} is not the address of a server.", fix=fix, field="url", value=base_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, port, timeout=timeout)
    headers = {"Accept": "*/*", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    try:
        connection.request("POST" if body is not None else "GET", parts.path.rstrip("/") + path, data, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(_MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise Unreachable(
            f"Nothing answers at {base_url}{path}: {reason}.",
            fix="Check that the server is up: `noa-lab status`.",
            url=base_url + path,
            reason=reason,
        ) from None
    finally:
        connection.close()


def ask_json(
    base_url: str, path: str, *, api_key: str = "", body: dict[str, Any] | None = None, timeout: float = 5.0
) -> Any:
    """Like `ask`, for an answer with status 200 and JSON in it.

    Raises:
        RequestRefused: When the status is another one, or the answer is not JSON.
        Unreachable: As in `ask`.
    """
    status, data = ask(base_url, path, api_key=api_key, body=body, timeout=timeout)
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    if status == 200 and content is not None:
        return content
    error = content.get("error") if isinstance(content, dict) else None
    said = str(error.get("message", "")) if isinstance(error, dict) else data[:200].decode(errors="replace").strip()
    fix = "Give the server's API key." if status in (401, 403) else "The server's log says more."
    raise RequestRefused(
        f"{base_url}{path} answered {status}: {said or 'no JSON'}.", fix=fix, status=status, url=base_url + path
    )
