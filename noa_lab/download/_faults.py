"""Why a download failed, in words: every error names the address without its secrets, a kind for programs, and a fix."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from noa_lab.errors import BadInput, DownloadFailed

__all__ = ["KINDS", "Advice", "check_address", "encrypted", "failed", "header_number", "refusal", "shown"]

KINDS = (
    *(
        "unreachable",
        "stalled",
        "cut",
        "truncated",
        "server",
        "rate limit",
        "refused",
        "not found",
        "gated",
        "redirects",
    ),
    *("bad address", "not encrypted", "web page", "encoded", "bad range", "changed", "too large", "wrong size"),
    *("wrong digest", "busy"),
)
"""unreachable: nobody answers. stalled: silence, or less than 1 KiB/s. cut: the connection broke off. truncated: fewer bytes came than
were announced. server: status 500 and above. rate limit: 429, or 403 with a time to wait. refused: another status. gated: a licence
must be accepted first. web page: HTML in place of the file. encoded: compressed though asked not to. bad range: another part than
asked for. changed: it is another file every time. wrong size, wrong digest: not the file that was promised. busy: another process
fetches it, on a drive without locks."""

Advice = Mapping[str, str]
"""What to do about a kind of fault, in place of the general words; for "disk full" only how to have it on another disk."""

_NUMBER = re.compile(r"[0-9]{1,18}")
_AGAIN = "Start it again: it continues where it stopped."
_GENERAL: Advice = {
    "unreachable": "Check the network connection, then start it again.",
    "stalled": _AGAIN,
    "cut": _AGAIN,
    "truncated": _AGAIN,
    "server": "Try again later: it continues where it stopped.",
    "rate limit": "Try again {when}.",
    "refused": "Check the address.",
    "not found": "Check the address.",
    "gated": "Accept the licence on its page, and set a token.",
    "redirects": "Try again later, or use another source.",
    "bad address": "Check the address.",
    "not encrypted": "Use an https address.",
    "web page": "Open a web page in a browser: the network may ask you to log in first.",
    "encoded": "Use another source.",
    "bad range": "Use another source.",
    "changed": "Try again later: it may be being replaced.",
    "too large": "Use another source.",
    "wrong size": "Try again later, or use another source.",
}


def failed(
    kind: str, url: str, reason: str, fix: str = "", *, advice: Advice | None = None, when: str = "", **fields: object
) -> DownloadFailed:
    """The error for an address.

    Args:
        kind: What it is called for programs, `fields["kind"]`: one of `KINDS`, or one of the caller's own.
        url: The address; shown without password and signature.
        reason: What went wrong, as the second half of a sentence.
        fix: What to do about it; default: by the kind.
        advice: What to do, by kind, where the general words do not fit.
        when: For "rate limit": "at 14:30", "later".
        fields: Further facts.
    """
    where = shown(url)
    fix = (fix or (advice or {}).get(kind) or _GENERAL.get(kind, _AGAIN)).replace("{when}", when)
    return DownloadFailed(
        f"{where} could not be fetched: {reason}.", fix=fix, source=where, reason=reason, kind=kind, **fields
    )


def refusal(url: str, status: int, headers: Mapping[str, str], *, advice: Advice | None = None) -> DownloadFailed:
    """The error for a status that is none of success: kinds "rate limit", "not found", "refused", "gated", "server".

    Args:
        url: The address that was asked.
        status: What it answered.
        headers: With what; names in lower case, or a mapping that ignores case.
        advice: What to do, by kind, where the general words do not fit.
    """
    host = urlsplit(url).hostname or url
    limited = status == 429 or "retry-after" in headers or headers.get("x-ratelimit-remaining") == "0"
    if status in (403, 429) and limited:
        until = _limit_ends(headers)
        when = f"at {time.strftime('%H:%M', time.localtime(until))}" if until else "later"
        reason = f"{host} answers no more requests from this address"
        return failed("rate limit", url, reason, advice=advice, when=when, status=status, resets_at=until)
    if status in (401, 403) and headers.get("x-error-code") == "GatedRepo":
        reason = f"{host} wants its licence accepted first"
        return failed("gated", url, reason, advice=advice, status=status)
    if status in (404, 410):
        return failed("not found", url, f"{host} has no such file", advice=advice, status=status)
    if status >= 500:
        return failed(
            "server",
            url,
            f"{host} answered with status {status}",
            advice=advice,
            status=status,
            resets_at=_limit_ends(headers),
        )
    return failed("refused", url, f"{host} answered with status {status}", advice=advice, status=status)


def _limit_ends(headers: Mapping[str, str]) -> float | None:
    """When a rate limit ends, in seconds since the epoch."""
    after, reset = header_number(headers, "retry-after"), header_number(headers, "x-ratelimit-reset")
    if after is not None:
        return time.time() + min(after, 86_400)
    return float(reset) if reset is not None and reset < 10**11 else None


def header_number(headers: Mapping[str, str], name: str) -> int | None:
    """The whole number that a header gives; None where it gives none, or one that no file and no clock has."""
    text = headers.get(name, "")
    return int(text) if _NUMBER.fullmatch(text) else None


def check_address(url: str, *, field: str, allow_http_loopback: bool) -> str:
    """An address that a user gave, without the slash at its end.

    Raises:
        BadInput: When it is none, is not encrypted, or holds a password.
    """
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or not encrypted(url, allow_http_loopback=allow_http_loopback) or parts.query or parts.fragment:
        raise BadInput(
            f"{field} {shown(url)!r} is not an https address.",
            fix="Give one like https://mirror.example/llama.cpp.",
            field=field,
        )
    if parts.username is not None or parts.password is not None:
        raise BadInput(
            f"{field} holds a user name or password, which would end up in logs.",
            fix="Give the address without a user name and password.",
            field=field,
        )
    return url.rstrip("/")


def encrypted(url: str, *, allow_http_loopback: bool) -> bool:
    """Whether an address is https, or at least stays on this machine where that is enough."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return True
    return allow_http_loopback and parts.scheme == "http" and _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown(url: str) -> str:
    """An address as it may be written down: without password and without a signed query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return url.split("?", 1)[0].rsplit("@", 1)[-1]
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
