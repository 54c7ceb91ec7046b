"""The seed's two questions to any llama-server: is it healthy, and does it answer?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from noa_lab.errors import InferenceError
from noa_lab.server._http import ask, ask_json

__all__ = ["CheckResult", "test_server"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check.

    Attributes:
        name: "health" or "completion".
        ok: Whether it passed.
        detail: What was found, in words.
        ms: How long it took, milliseconds.
    """

    name: str
    ok: bool
    detail: str
    ms: float

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def test_server(
    url: str,
    api_key: str | None = None,  # noqa: PT028
    *,
    timeout: float = 60.0,  # noqa: PT028
) -> list[CheckResult]:
    """Check the health and one completion of a llama-server, ours or any other; it is talked to and nothing else.

    Args:
        url: Its address, for example "http://127.0.0.1:8080".
        api_key: Its key, if it asks for one.
        timeout: Seconds that it may take to answer.

    Returns:
        Two results, "health" and "completion"; the second one is also tried when the first has failed.

    Raises:
        BadInput: When `url` is not an address.
    """
    address = url.rstrip("/")
    key = str(api_key or "")
    return [
        _timed("health", lambda: _health(address, min(timeout, 10.0))),
        _timed("completion", lambda: _completion(address, key, timeout)),
    ]


# pytest collects functions with this prefix wherever a test module imports them.
test_server.__test__ = False  # type: ignore[attr-defined]


def _timed(name: str, check: Callable[[], str]) -> CheckResult:
    start = time.perf_counter()
    try:
        detail, ok = check(), True
    except InferenceError as error:
        detail, ok = error.message, False
    return CheckResult(name, ok, detail, (time.perf_counter() - start) * 1000)


def _health(url: str, timeout: float) -> str:
    status, body = ask(url, "/health", timeout=timeout)
    if status != 200:
        raise InferenceError(
            f"/health answered {status}: {body[:120].decode(errors='replace')}", fix="Wait until the model is loaded."
        )
    return "ok"


def _completion(url: str, api_key: str, timeout: float) -> str:
    body = {"prompt": "Hello, my name is", "n_predict": 8, "temperature": 0.0, "seed": 1, "cache_prompt": False}
    answer = ask_json(url, "/completion", api_key=api_key, body=body, timeout=timeout)
    text = answer.get("content") if isinstance(answer, dict) else None
    if not isinstance(text, str) or not text:
        raise InferenceError(
            "The answer holds no text: this is no llama-server, or it has no model.", fix="Check the address."
        )
    return f"{answer.get('tokens_predicted', 0)} tokens: {text.strip()[:80]!r}"
