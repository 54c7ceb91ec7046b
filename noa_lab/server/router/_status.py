"""How a router does, for `noa-lab status`."""

from __future__ import annotations

from typing import Any

from noa_lab.errors import NoaLabError
from noa_lab.server._http import ask_json
from noa_lab.server._identity import owns_port
from noa_lab.server._record import ServerRecord

__all__ = ["measure"]

_QUICK = 1.0


def measure(record: ServerRecord) -> dict[str, Any]:
    """Requests at work, and the slots of the models that are loaded, by the names of `ServerStatus`.

    Args:
        record: The router's record.
    """
    facts: dict[str, Any] = {"slots_busy": 0, "slots_total": 0, "tokens_per_second": None}
    if not owns_port(record.process, record.port):
        return facts
    try:
        listed = ask_json(record.base_url, "/v1/models", api_key=record.api_key, timeout=_QUICK)["data"]
        facts["slots_busy"] = sum(one["in_flight"] for one in listed)
        facts["slots_total"] = sum(one["slots"] for one in listed if one["status"]["value"] == "loaded")
    except (NoaLabError, KeyError, TypeError):
        pass  # it is up and does not answer in time; what it did not tell is not made up
    return facts
