"""What strict mode asks of a server, checked before each answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from noa_lab.errors import BadInput, RequestRefused
from noa_lab.inference._protocol import Mode

__all__ = ["Strict", "check_mode"]


class Strict:
    """One request at a time on one setup. Belongs to the private loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        """Held by the request that is going on."""
        self._pinned: dict[str, Any] | None = None

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for this request's turn."""
        async with self._turn:
            yield

    def check(self, props: Mapping[str, Any], url: str) -> None:
        """Compare a server with the one that the first strict answer came from.

        Args:
            props: What it says of itself (`/props`).
            url: Its address, for the error.

        Raises:
            BadInput: When it has several slots: requests of others could share a batch with ours.
            RequestRefused: When it is not what it was.
        """
        slots = props.get("total_slots")
        if slots != 1:
            raise BadInput(
                f"Strict mode needs a server with one slot; this one has {slots}.",
                fix="Serve the model with slots=1.",
                field="mode",
                value="strict",
            )
        settings = props.get("default_generation_settings") or {}
        found = {name: props.get(name) for name in ("build_info", "model_path", "chat_template")}
        found["context_size"] = settings.get("n_ctx")
        if self._pinned is None:
            self._pinned = found
        changed = sorted(name for name, value in found.items() if self._pinned[name] != value)
        if changed:
            raise RequestRefused(
                f"The server at {url} is not what it was at the first strict answer: {', '.join(changed)} changed.",
                fix="Make a new engine: answers of two setups are not comparable.",
                status=200,
                type="setup_changed",
                url=url,
                changed=changed,
            )


def check_mode(mode: object) -> Mode:
    """The mode, if it is one."""
    if mode == "fast" or mode == "strict":
        return mode
    raise BadInput(
        f"mode = {mode!r} does not exist.", fix='Give mode="fast" or mode="strict".', field="mode", value=mode
    )
