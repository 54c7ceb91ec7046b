"""Known faults of llama.cpp builds (`advisories.yaml`), and the options that no server is started with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from noa_lab.errors import BadInput, SetupError

__all__ = ["Advice", "advice_for", "is_loopback", "refuse_known_bad"]

Action = Literal["allow", "warn", "refuse"]

_LOOPBACK = "127.0.0.1"
_TABLE = Path(__file__).with_name("advisories.yaml")


@dataclass(frozen=True, slots=True)
class Advice:
    """What one advisory means for one build in one use.

    Attributes:
        id: The advisory, for example "CVE-2026-107183".
        action: "allow", "warn" or "refuse".
        text: What is wrong with the build.
        because: Why that action.
        fixed: First build that is not affected.
    """

    id: str
    action: Action
    text: str
    because: str
    fixed: int

    def __str__(self) -> str:
        return f"{self.id}: {self.text} Fixed in b{self.fixed}. {self.action.capitalize()}: {self.because}."


@dataclass(frozen=True, slots=True)
class _Rule:
    action: Action
    because: str
    host: str
    flag: str

    def holds(self, loopback: bool, flags: Sequence[str]) -> bool:
        here = not self.host or (self.host == "loopback") == loopback
        return here and (not self.flag or self.flag in flags)


@dataclass(frozen=True, slots=True)
class _Advisory:
    id: str
    first: int
    fixed: int
    text: str
    rules: tuple[_Rule, ...]


@functools.cache
def _table() -> tuple[tuple[_Advisory, ...], tuple[tuple[str, str], ...]]:
    import yaml

    data: dict[str, Any] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    advisories = tuple(
        _Advisory(
            id=each["id"],
            first=each["builds"].get("first", 0),
            fixed=each["builds"]["fixed"],
            text=each["text"],
            rules=tuple(
                _Rule(rule["action"], rule["because"], rule.get("host", ""), rule.get("flag", ""))
                for rule in each["rules"]
            ),
        )
        for each in data["advisories"]
    )
    return advisories, tuple((each["flag"], each["because"]) for each in data["blocked_flags"])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's address: loopback, or a Unix socket."""
    if host == "localhost" or host.endswith(".sock"):
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def advice_for(build_number: int, *, host: str = _LOOPBACK, flags: Sequence[str] = ()) -> tuple[Advice, ...]:
    """What is known against a build in a use of it.

    Args:
        build_number: llama.cpp's build number. 0 and 1 are what builds without a history report: they count as affected by
            everything, because nothing is known in their favour.
        host: The address that the server listens on; several are joined by commas.
        flags: The options that it is started with.
    """
    loopback = all(is_loopback(each.strip()) for each in host.split(","))
    found = []
    for advisory in _table()[0]:
        if build_number > 1 and not advisory.first <= build_number < advisory.fixed:
            continue
        rule = next((rule for rule in advisory.rules if rule.holds(loopback, flags)), None)
        if rule is not None:
            found.append(Advice(advisory.id, rule.action, advisory.text, rule.because, advisory.fixed))
    return tuple(found)


def refuse_known_bad(build_number: int, arguments: Sequence[str]) -> tuple[Advice, ...]:
    """Make sure that a llama-server may be started so.

    Args:
        build_number: llama.cpp's build number; 0 where it is not known.
        arguments: The options of llama-server and their values.

    Returns:
        The advice that does not forbid it, for the notes and for `check`.

    Raises:
        BadInput: For an option that no server is started with.
        SetupError: For a build that must not be used so.
    """
    # llama-server takes "_" for "-" in long options, and "--option=value".
    flags = [word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("-")]
    for blocked, because in _table()[1]:
        hit = next((flag for flag in flags if fnmatchcase(flag, blocked)), None)
        if hit is not None:
            raise BadInput(
                f"llama-server is not started with {hit}: {because}.",
                fix="Leave the option out.",
                field=hit,
                value=hit,
            )
    found = advice_for(build_number, host=_host(arguments), flags=flags)
    for advice in found:
        if advice.action == "refuse":
            raise SetupError(
                f"This llama.cpp ({f'build {build_number}' if build_number > 1 else 'of an unknown build'}) must not be used "
                f"so: {advice}",
                fix=f"Install b{advice.fixed} or newer (`noa-lab install --tag b{advice.fixed}`), or stay on 127.0.0.1 without "
                "the option.",
                advisory=advice.id,
                build_number=build_number,
                fixed=advice.fixed,
            )
    return found


def _host(arguments: Sequence[str]) -> str:
    """The address that a command line makes llama-server listen on: the last one counts."""
    host = _LOOPBACK
    for word, following in zip(arguments, (*arguments[1:], ""), strict=True):
        name, _, value = word.partition("=")
        if name == "--host":
            host = value or following
    return host
