"""Scorers of answers that shall be JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from noa_lab.experiments.score._base import PassFail, refuse

__all__ = ["JsonValid"]


@dataclass(frozen=True, kw_only=True)
class JsonValid(PassFail):
    """Whether the whole answer is one JSON value (RFC 8259: no NaN), or an object with the required keys."""

    kind: ClassVar[str] = "json_valid"

    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        keys: Any = self.required
        if isinstance(keys, str) or not all(isinstance(key, str) for key in keys):
            refuse("required", f"{keys!r} is no list of keys", 'Give a list of texts, for example ["title"].', keys)
        object.__setattr__(self, "required", tuple(keys))

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        del row
        try:
            value = json.loads(answer, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return False
        return not self.required or (isinstance(value, dict) and set(self.required) <= set(value))

    def _argument(self) -> Any:
        return True

    def _options(self) -> dict[str, Any]:
        return {"required": list(self.required)} if self.required else {}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
