"""What the watcher does, one small process a server.

It starts llama-server, drains its output into the log, owns the record, and counts the holders that are connected to it. When the last
one has gone and the server is not to be kept, it ends llama-server; when llama-server ends, it says why and ends as well.

Messages are JSON, one object a line. Holder to watcher: {"secret", "op": "hold"|"status"|"keep"|"stop", "id", ...}; "hold" makes the
connection count. Watcher to holder: {"event": "state"|"progress"|"exit"|"refused", ...} and {"reply": id, ...}.
"""

from __future__ import annotations

import hmac
import json
import selectors
import signal
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noa_lab.server._channel import listen, remove_address
from noa_lab.server._child import Child
from noa_lab.server._exits import ExitReason
from noa_lab.server._identity import here, own_mark
from noa_lab.server._log import LogWriter
from noa_lab.server._record import ServerRecord, remove_record, write_record

__all__ = ["Watcher"]

FIRST_HOLDER_SECONDS = 10.0
"""Only where the starter's connection cannot be inherited (Windows): how long the first holder may take to connect."""

_TICK = 1.0
_BUSY_TICK = 0.02


@dataclass(eq=False, slots=True)
class _Peer:
    """A connection to the watcher."""

    socket: socket.socket
    holder: dict[str, Any] | None = None
    trusted: bool = False
    buffer: bytes = field(default=b"", repr=False)


class Watcher:
    """The watcher's state and loop.

    Args:
        spec: What the starter sent: record, folder, argv, env, transport, death_watch.
        starter: The starter's own connection, which is the first hold; None where it has to connect like the others.
    """

    def __init__(self, spec: dict[str, Any], starter: socket.socket | None) -> None:
        self._spec = spec
        self._folder = Path(spec["folder"])
        self._started = time.monotonic()
        self._queue: deque[tuple[str, object]] = deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._peers: list[_Peer] = []
        self._child: Child | None = None
        self._had_holder = starter is not None
        self._why_ending = ""
        self._exit: ExitReason | None = None
        self.record = ServerRecord.from_dict(spec["record"]).changed(
            state="starting", here=here(), watcher=own_mark(), started_at=time.time()
        )
        self._log = LogWriter(Path(self.record.log), (self.record.api_key, self.record.secret))
        (self._folder / "config").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._listener, address = listen(spec["transport"], self._folder)
        self.record = self.record.changed(address=address)
        if starter is not None:
            starter.setblocking(False)
            self._peers.append(_Peer(starter, holder=spec["holder"], trusted=True))

    # --- life -----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Watch until llama-server is gone."""
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._notify("asked", "the watcher was asked to end (SIGTERM)"))
        self._wake_in.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ, None)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        for peer in self._peers:
            self._selector.register(peer.socket, selectors.EVENT_READ, peer)
        try:
            write_record(self._folder, self.record)
            self._launch()
            while self._exit is None:
                self._turn()
        finally:
            self._finish()

    def _launch(self) -> None:
        self._log.write(f"[noa_lab {time.strftime('%Y-%m-%d %H:%M:%S')}] {' '.join(self._spec['argv'])}")
        try:
            self._child = Child(
                self._spec["argv"],
                self._spec["env"],
                folder=self._folder,
                log=self._log,
                death_watch=self._spec["death_watch"],
                notify=self._notify,
            )
        except OSError as error:
            self._exit = ExitReason("start", f"it could not be started: {error}")
            return
        self._change(process=self._child.mark)

    def _turn(self) -> None:
        assert self._child is not None
        busy = self._child.ending or any(kind == "eof" for kind, _ in self._queue)
        for key, _ in self._selector.select(_BUSY_TICK if busy else _TICK):
            if key.fileobj is self._listener:
                self._accept()
            elif key.data is None:
                self._drain_wake()
            else:
                self._read(key.data)
        self._handle_queue()
        self._end_when_alone()
        self._child.step()
        if self._child.gone:
            reason = self._child.reap()
            stopped = ExitReason("stopped", self._why_ending, reason.exit_code)
            self._exit = stopped if self._why_ending else reason

    def _end_when_alone(self) -> None:
        held = any(peer.holder is not None for peer in self._peers)
        self._had_holder = self._had_holder or held
        if held or self.record.keep:
            return
        if self._had_holder or time.monotonic() > self._started + FIRST_HOLDER_SECONDS:
            self._begin_end("its last holder has gone")

    def _begin_end(self, why: str) -> None:
        if self._child is not None and not self._child.ending:
            self._why_ending = why
            self._log.write(f"[noa_lab] ending llama-server: {why}")
            self._change(state="draining")
            self._child.end()

    def _finish(self) -> None:
        if self._exit is None and self._child is not None:
            self._child.kill()
        reason = self._exit or ExitReason("other", "the watcher failed; the log says more")
        self._log.write(f"[noa_lab] llama-server ended: {reason.words}")
        crashed = reason.kind != "stopped" and self.record.state == "ready"
        remove_address(self.record.address, self._folder)
        if crashed:
            changes = {
                "state": "crashed",
                "reason": reason.words,
                "exit_code": reason.exit_code,
                "api_key": "",
                "secret": "",
                "port": 0,
            }
            write_record(self._folder, self.record.changed(**changes))
        else:
            remove_record(self._folder, None)
        tail = list(self._child.tail)[-20:] if self._child is not None else []
        event = {
            "event": "exit",
            "kind": reason.kind,
            "reason": reason.words,
            "exit_code": reason.exit_code,
            "tail": tail,
        }
        self._broadcast(event)
        for peer in self._peers:
            peer.socket.close()
        self._listener.close()
        self._log.close()

    # --- what the child says --------------------------------------------------------------------------------------------

    def _notify(self, kind: str, value: object) -> None:
        """Hand something to the loop; from any thread, or a signal handler."""
        self._queue.append((kind, value))
        try:
            self._wake_out.send(b"x")
        except OSError:
            pass

    def _drain_wake(self) -> None:
        try:
            while self._wake_in.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _handle_queue(self) -> None:
        waiting = len(self._queue)
        for _ in range(waiting):
            kind, value = self._queue.popleft()
            if kind == "port" and isinstance(value, int) and not self.record.port:
                self.record = self.record.changed(port=value)
                threading.Thread(target=self._await_health, args=(value,), name="health", daemon=True).start()
            elif kind == "healthy" and self.record.state == "starting":
                self._change(state="ready")
            elif kind == "phase":
                self._broadcast({"event": "progress", "message": value})
            elif kind == "note":
                self._change(notes=(*self.record.notes, str(value)))
            elif kind == "asked":
                self._begin_end(str(value))
            elif kind == "eof" and self._child is not None and not self._child.gone:
                self._queue.append((kind, value))  # it has closed its output and is about to end: look again soon

    def _await_health(self, port: int) -> None:
        """Ask /health, without the key, until it says 200; runs in a thread of its own so that nothing else waits."""
        request = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        while self._exit is None and self._child is not None and not self._child.ending:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                    connection.sendall(request)
                    if connection.recv(64).split(b" ")[1:2] == [b"200"]:
                        self._notify("healthy", "")
                        return
            except OSError:
                pass
            time.sleep(0.02)

    def _change(self, **changes: Any) -> None:
        self.record = self.record.changed(**changes)
        try:
            write_record(self._folder, self.record)
        except OSError as error:  # a full disk: who is connected learns it all the same
            self._log.write(f"[noa_lab] the record could not be written: {error}")
        self._broadcast(self._state())

    def _state(self) -> dict[str, Any]:
        hidden = ("api_key", "secret", "model")
        return {
            "event": "state",
            "record": {name: value for name, value in self.record.as_dict().items() if name not in hidden},
        }

    # --- holders --------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        peer = _Peer(connection)
        self._peers.append(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _drop(self, peer: _Peer) -> None:
        if peer in self._peers:
            self._peers.remove(peer)
            self._selector.unregister(peer.socket)
            peer.socket.close()

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(peer.buffer) > 65536:
            self._drop(peer)
            return
        *lines, peer.buffer = (peer.buffer + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
                self._obey(peer, message)
            except (ValueError, TypeError, KeyError, AttributeError):
                self._drop(peer)
                return

    def _obey(self, peer: _Peer, message: dict[str, Any]) -> None:
        if not peer.trusted:
            if not hmac.compare_digest(str(message.get("secret", "")).encode(), self.record.secret.encode()):
                self._drop(peer)
                return
            peer.trusted = True
        operation = message["op"]
        if operation == "hold":
            self._hold(peer, message)
            return
        if operation == "keep":
            self._change(keep=bool(message["value"]))
        elif operation == "stop":
            self._begin_end(str(message.get("why", "it was asked to stop")))
        self._send(peer, {"reply": message.get("id"), **self._state(), "holders": self._holders()})

    def _hold(self, peer: _Peer, message: dict[str, Any]) -> None:
        if self._child is None or self._child.ending or self._child.gone:
            self._send(peer, {"event": "refused", "reason": "it is ending"})
            return
        peer.holder = message["holder"]
        self._had_holder = True
        self._send(peer, self._state())

    def _holders(self) -> list[dict[str, Any]]:
        return [peer.holder for peer in self._peers if peer.holder is not None]

    def _send(self, peer: _Peer, message: dict[str, Any]) -> None:
        try:
            peer.socket.send(json.dumps(message).encode() + b"\n")
        except BlockingIOError:
            pass  # a holder that never reads; it can ask again
        except OSError:
            self._drop(peer)

    def _broadcast(self, message: dict[str, Any]) -> None:
        for peer in [peer for peer in self._peers if peer.holder is not None]:
            self._send(peer, message)
