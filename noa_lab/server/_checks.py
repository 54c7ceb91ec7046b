"""The seed's two questions to any server of language models: is it healthy, and does it complete a prompt?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from noa_lab.errors import InferenceError, RequestRefused, ServerMissing
from noa_lab.server._http import ask, ask_json
from noa_lab.server._identity import owns_port
from noa_lab.server._record import read_records
from noa_lab.server._status import find, missing, servers
from noa_lab.tables import TableList

if TYPE_CHECKING:
    from noa_lab.paths import Home

__all__ = ["CheckList", "CheckResult", "address_of", "test_server"]

_PROMPT = "Hello, my name is"
_TOKENS = 8


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check.

    Attributes:
        name: "health" or "completion".
        ok: Whether it passed.
        detail: What was found, in words.
        ms: How long it took, milliseconds.
        tokens: Tokens generated, by the server's own count; 0 for "health".
        tokens_per_second: How fast, by the server's own measurement; None where it does not tell.
    """

    name: str
    ok: bool
    detail: str
    ms: float
    tokens: int = 0
    tokens_per_second: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


class CheckList(TableList[CheckResult]):
    """What was checked; a table in a notebook, and `pandas.DataFrame` takes it."""

    _heads = ("Check", "Passed", "Took", "Tokens/s", "Found")
    _empty = "Nothing was checked."

    def _cells(self, row: CheckResult) -> tuple[object, ...]:
        rate = f"{row.tokens_per_second:.0f}" if row.tokens_per_second else ""
        return (row.name, "yes" if row.ok else "no", f"{row.ms:.0f} ms", rate, row.detail)


@dataclass(frozen=True, slots=True)
class _Found:
    detail: str
    tokens: int = 0
    rate: float | None = None


def address_of(home: Home, target: str | None, api_key: str | None = None) -> tuple[str, str | None]:
    """The address and the key of the server that is meant.

    Args:
        home: The home, for servers of ours.
        target: An address, or the name of a server of ours; None for the one that is up.
        api_key: The key for an address; None takes that of our own server there, else NOA_LAB_API_KEY.

    Raises:
        ServerMissing: When no such server is up.
    """
    if target is not None and any(sign in target for sign in "/:"):
        return target, api_key or _key_of_ours(home, target) or os.environ.get("NOA_LAB_API_KEY")
    if target is None:
        ready = [one.name for one in servers(home) if one.state in ("ready", "busy")]
        if not ready:
            fix = "Start one with `noa-lab serve`, or give an address."
            raise ServerMissing("No server of noa_lab is up.", fix=fix, name=None)
        target = ready[0]
    record = find(home, target)
    if record is None:
        raise missing(home, target)
    return record.base_url, record.api_key


def _key_of_ours(home: Home, url: str) -> str | None:
    """The key of the server of ours that answers at an address, if one does."""
    address = url.rstrip("/").removesuffix("/v1").replace("//localhost:", "//127.0.0.1:")
    at = (one for one in read_records(home) if one.base_url == address and owns_port(one.process, one.port))
    return next((one.api_key for one in at), None)


def test_server(
    url: str,
    api_key: str | None = None,  # noqa: PT028
    *,
    timeout: float = 60.0,  # noqa: PT028
) -> CheckList:
    """Check the health and one completion of a server, ours or any other; it is talked to and nothing else.

    llama-server's own endpoints are tried first, then OpenAI's (/v1/models, /v1/completions), which other servers have.

    Args:
        url: Its address, for example "http://127.0.0.1:8080"; one that ends in "/v1" is good as well.
        api_key: Its key, if it asks for one.
        timeout: Seconds that it may take to answer.

    Returns:
        Two results, "health" and "completion"; the second one is also tried when the first has failed.

    Raises:
        BadInput: When `url` is not an address.
    """
    address = url.rstrip("/").removesuffix("/v1")
    key = str(api_key or "")
    return CheckList(
        (
            _timed("health", lambda: _health(address, key, min(timeout, 10.0))),
            _timed("completion", lambda: _completion(address, key, timeout)),
        )
    )


# pytest collects functions with this prefix wherever a test module imports them.
test_server.__test__ = False  # type: ignore[attr-defined]


def _timed(name: str, check: Callable[[], _Found]) -> CheckResult:
    start = time.perf_counter()
    try:
        found, ok = check(), True
    except InferenceError as error:
        found, ok = _Found(error.message), False
    return CheckResult(name, ok, found.detail, (time.perf_counter() - start) * 1000, found.tokens, found.rate)


def _health(url: str, api_key: str, timeout: float) -> _Found:
    status, body = ask(url, "/health", timeout=timeout)
    if status == 404:  # not llama.cpp's: a server that lists its models is up
        models = ask_json(url, "/v1/models", api_key=api_key, timeout=timeout)
        names = [str(one.get("id", "?")) for one in models.get("data", [])] if isinstance(models, dict) else []
        return _Found(f"no /health, but it lists its models: {', '.join(names) or 'none'}")
    if status != 200:
        raise InferenceError(
            f"/health answered {status}: {body[:120].decode(errors='replace')}",
            fix="Wait until the model is loaded, then check again.",
        )
    return _Found("ok")


def _completion(url: str, api_key: str, timeout: float) -> _Found:
    body = {"prompt": _PROMPT, "n_predict": _TOKENS, "temperature": 0.0, "seed": 1, "cache_prompt": False}
    try:
        answer = ask_json(url, "/completion", api_key=api_key, body=body, timeout=timeout)
    except RequestRefused as error:
        if error.fields.get("status") != 404:
            raise
        return _openai_completion(url, api_key, timeout)
    text = answer.get("content") if isinstance(answer, dict) else None
    timings = answer.get("timings") if isinstance(answer, dict) else None
    rate = timings.get("predicted_per_second") if isinstance(timings, dict) else None
    tokens = answer.get("tokens_predicted", 0) if isinstance(answer, dict) else 0
    return _answered(text, tokens, rate if isinstance(rate, int | float) else None)


def _openai_completion(url: str, api_key: str, timeout: float) -> _Found:
    models = ask_json(url, "/v1/models", api_key=api_key, timeout=timeout)
    try:
        model = models["data"][0]["id"]
        body = {"model": model, "prompt": _PROMPT, "max_tokens": _TOKENS, "temperature": 0.0, "seed": 1}
        answer = ask_json(url, "/v1/completions", api_key=api_key, body=body, timeout=timeout)
        text = answer["choices"][0]["text"]
        tokens = answer.get("usage", {}).get("completion_tokens", 0)
    except (KeyError, IndexError, TypeError, AttributeError):
        text, tokens = None, 0
    return _answered(text, tokens, None)


def _answered(text: object, tokens: object, rate: float | None) -> _Found:
    if not isinstance(text, str) or not text:
        raise InferenceError(
            "The answer holds no text: this is not a server of a language model, or it has no model loaded.",
            fix="Check the address, and that the server has a model.",
        )
    count = tokens if isinstance(tokens, int) else 0
    speed = f" at {rate:.0f} tokens/s" if rate else ""
    return _Found(f"{count} tokens{speed}: {text.strip()[:80]!r}", count, rate)
