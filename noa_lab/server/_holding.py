"""Holding a server: the connection that counts, and what the watcher says over it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noa_lab.errors import ServerExited
from noa_lab.events import Progress
from noa_lab.server._channel import Channel, ChannelEnded, connect
from noa_lab.server._exits import ExitReason
from noa_lab.server._identity import own_mark
from noa_lab.server._record import ServerRecord

__all__ = ["Hold", "exited", "hold", "progress_of", "this_holder", "updated"]


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold on a server: the open connection and the record as it was then.

    Attributes:
        channel: The connection; closing it lets go.
        record: The record, with the key.
        joined: Whether the server was there already.
        notes: What is to be said about how this server was chosen.
    """

    channel: Channel
    record: ServerRecord
    joined: bool
    notes: tuple[str, ...] = ()


def hold(record: ServerRecord) -> tuple[Channel, ServerRecord] | None:
    """Become a holder of a server that is up; None when it is ending or does not answer.

    Returns:
        The connection, and the record as the watcher answered: what was read from disk may be older, and the news in between are not
        sent again.
    """
    if not record.watched:
        return None
    try:
        channel = connect(record.address, timeout=2.0)
    except OSError:
        return None
    try:
        channel.send({"secret": record.secret, "op": "hold", "holder": this_holder()})
        answer = channel.receive(timeout=2.0)
    except ChannelEnded:
        answer = None
    except BaseException:
        channel.close()
        raise
    if answer is None or answer.get("event") != "state":
        channel.close()
        return None
    return channel, updated(record, answer)


def this_holder() -> dict[str, Any]:
    """How this process introduces itself to a watcher."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return {**own_mark().as_dict(), "program": "notebook" if "ipykernel" in program else program}


def updated(record: ServerRecord, message: dict[str, Any]) -> ServerRecord:
    """`record` with what a message of the watcher says; secrets, which messages do not hold, stay."""
    news = message.get("record")
    return ServerRecord.from_dict({**record.as_dict(), **news}) if isinstance(news, dict) else record


def progress_of(step: str, message: dict[str, Any]) -> Progress:
    """A watcher's message about the loading, as progress of `step`."""
    done, total = message.get("done"), message.get("total")
    return Progress(step, str(message["message"]), done=done, total=total, unit=str(message.get("unit", "")))


def exited(name: str, message: dict[str, Any]) -> ServerExited:
    """The error for a watcher's message that llama-server has ended."""
    reason = ExitReason(str(message.get("kind")), str(message.get("reason")), message.get("exit_code"))
    how = "was not started" if reason.kind in ("port", "start") else "ended"
    return ServerExited(
        f"llama-server ({name}) {how}: {reason.words}.",
        fix=reason.fix,
        name=name,
        exit_code=reason.exit_code,
        reason=reason.words,
        kind=reason.kind,
        log_tail=list(message.get("tail", [])),
    )
