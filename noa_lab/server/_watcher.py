"""What the watcher does, one small process a server.

It starts llama-server, drains its output into the log, owns the record, and counts the holders that are connected to it. When the last
one has gone and the server is not to be kept, it ends llama-server. When llama-server ends by itself, or hangs, it is started again
with the same port and key, until it has failed three times in a row; then the watcher says why and ends as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any

from noa_lab.server._activity import Activity
from noa_lab.server._channel import listen, remove_address
from noa_lab.server._child import Child
from noa_lab.server._exits import ExitReason
from noa_lab.server._identity import here, own_mark
from noa_lab.server._log import LogWriter
from noa_lab.server._peers import Message, Peer, Peers
from noa_lab.server._port import PortInUse, reserve_port, with_port
from noa_lab.server._probe import Probe
from noa_lab.server._record import ServerRecord, remove_record, write_record
from noa_lab.server._supervision import FAILURES, HangWatch, RestartPolicy, Sight

__all__ = ["Watcher"]

FIRST_HOLDER_SECONDS = 10.0
"""Only where the starter's connection cannot be inherited (Windows): how long the first holder may take to connect."""

_TICK = 1.0
_BUSY_TICK = 0.02


class Watcher:
    """The watcher's state and loop.

    Args:
        spec: What the starter sent: record, folder, argv, env, transport, death_watch, hang_seconds, log (level, rotation).
        starter: The starter's own connection, which is the first hold; None where it has to connect like the others.
    """

    def __init__(self, spec: dict[str, Any], starter: socket.socket | None) -> None:
        self._spec = spec
        self._folder = Path(spec["folder"])
        self._started = time.monotonic()
        self._queue: deque[tuple[int, str, object]] = deque()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._launches = 0
        self._child: Child | None = None
        self._probe: Probe | None = None
        self._held_port: socket.socket | None = None
        self._policy = RestartPolicy()
        self._ready_at: float | None = None
        self._again_at = 0.0
        self._why_ending = ""
        self._why_hung = ""
        self._exit: ExitReason | None = None
        self._had_holder = starter is not None
        self.record = ServerRecord.from_dict(spec["record"]).changed(
            state="starting", here=here(), watcher=own_mark(), started_at=time.time()
        )
        secrets = (self.record.api_key, self.record.secret)
        self._log = LogWriter(Path(self.record.log), secrets, **spec.get("log", {}))
        (self._folder / "config").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        listener, address = listen(spec["transport"], self._folder)
        self.record = self.record.changed(address=address)
        self._peers = Peers(listener, self.record.secret, self._obey)
        self._peers.watch(self._wake_in)
        if starter is not None:
            self._peers.add(starter, spec["holder"])

    # --- life -----------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Watch until llama-server is gone for good."""
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._notify(0, "asked", "the watcher was asked to end (SIGTERM)"))
        try:
            write_record(self._folder, self.record)
            self._hold_port()
            if self._exit is None:
                self._launch()
            while self._exit is None:
                self._turn()
        finally:
            self._finish()

    def _hold_port(self) -> None:
        if "--reuse-port" not in self._spec["argv"]:
            return
        try:
            self._held_port = reserve_port(self.record.host, int(self.record.settings.get("port", 0)))
        except PortInUse as error:
            self._exit = ExitReason("port", str(error))

    def _launch(self) -> None:
        argv = self._spec["argv"]
        port = self._held_port.getsockname()[1] if self._held_port is not None else 0
        if port:
            argv = with_port(argv, port)
        self._launches += 1
        launch = self._launches
        self._log.note(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(argv)}")
        try:
            self._child = Child(
                argv,
                self._spec["env"],
                folder=self._folder,
                log=self._log,
                death_watch=self._spec["death_watch"],
                notify=lambda kind, value: self._notify(launch, kind, value),
            )
        except OSError as error:
            self._exit = ExitReason("start", f"it could not be started: {error}")
            return
        patience = float(self._spec.get("hang_seconds", 60.0))
        self._ready_at, self._why_hung = None, ""
        self._activity, self._hang = Activity(int(self.record.model.get("size_bytes") or 0)), HangWatch(patience)
        self._probe = Probe(
            self._child.mark.pid,
            host=self.record.host,
            api_key=self.record.api_key,
            hang_seconds=patience,
            notify=lambda kind, value: self._notify(launch, kind, value),
        )
        self._probe.start(port)
        self._change(process=self._child.mark, port=port)

    def _turn(self) -> None:
        child = self._child
        if child is None:
            self._peers.turn(min(_TICK, self._again_at - time.monotonic()))
        else:
            soon = child.ending or bool(self._why_hung) or any(kind == "eof" for _, kind, _ in self._queue)
            self._peers.turn(_BUSY_TICK if soon else _TICK)
        self._handle_queue()
        self._end_when_alone()
        if child is not None:
            child.step()
            if child.gone:
                self._ended(child)
        elif self._exit is None and time.monotonic() >= self._again_at:
            self._launch()

    def _end_when_alone(self) -> None:
        held = bool(self._peers.holders())
        self._had_holder = self._had_holder or held
        if held or self.record.keep:
            return
        if self._had_holder or time.monotonic() > self._started + FIRST_HOLDER_SECONDS:
            self._begin_end("its last holder has gone")

    def _begin_end(self, why: str) -> None:
        if self._why_ending or self._exit is not None:
            return
        self._why_ending = why
        self._log.note(f"ending llama-server: {why}")
        self._change(state="draining")
        if self._child is None:
            self._exit = ExitReason("stopped", why)
        else:
            self._child.end()

    # --- ends and restarts ----------------------------------------------------------------------------------------------

    def _ended(self, child: Child) -> None:
        """llama-server is gone: decide whether it is started again."""
        if self._probe is not None:
            self._probe.stop()  # and with it the last thread but this one: the next launch forks
        reason = child.reap()
        if self._why_ending:
            self._exit = ExitReason("stopped", self._why_ending, reason.exit_code)
            return
        if self._why_hung:
            reason = ExitReason("hang", f"it hung and was ended: {self._why_hung}", reason.exit_code)
        ready_seconds = None if self._ready_at is None else time.monotonic() - self._ready_at
        delay = self._policy.after(reason, ready_seconds=ready_seconds)
        if delay is None:
            row = f"it failed {FAILURES} times in a row and is not started again; the last time "
            words = row + reason.words if self._policy.failures >= FAILURES else reason.words
            self._exit = ExitReason(reason.kind, words, reason.exit_code)
            return
        self._child, self._probe = None, None
        self._again_at = time.monotonic() + delay
        number = self._policy.failures + 1
        self._log.note(f"llama-server ended: {reason.words}; starting it again ({number} of {FAILURES})")
        self._change(
            state="starting",
            process=None,
            port=self.record.port if self._held_port is not None else 0,
            restarts=self.record.restarts + 1,
            last_failure=reason.words,
        )
        self._peers.tell_holders(
            {"event": "progress", "message": f"{reason.words}; starting it again ({number} of {FAILURES})"}
        )

    def _finish(self) -> None:
        if self._probe is not None:
            self._probe.stop()
        if self._exit is None and self._child is not None:
            self._child.kill()
        reason = self._exit or ExitReason("other", "the watcher failed; the log says more")
        self._log.note(f"llama-server ended: {reason.words}")
        remove_address(self.record.address, self._folder)
        if reason.kind != "stopped" and self.record.was_ready:
            gone = self.record.changed(state="crashed", reason=reason.words, exit_code=reason.exit_code)
            with contextlib.suppress(OSError):  # a full disk: who is connected is told below all the same
                write_record(self._folder, gone.changed(api_key="", secret="", port=0, process=None))
        else:
            remove_record(self._folder, None)
        event: Message = {"event": "exit", "kind": reason.kind, "reason": reason.words, "exit_code": reason.exit_code}
        event["tail"] = list(self._child.tail)[-20:] if self._child is not None else []
        self._peers.tell_holders(event)
        self._peers.close()
        if self._held_port is not None:
            self._held_port.close()
        self._log.close()

    # --- what the child and the looks at it say -------------------------------------------------------------------------

    def _notify(self, launch: int, kind: str, value: object) -> None:
        """Hand something to the loop; from any thread, or a signal handler. `launch` tells which launch it is about; 0 is any."""
        self._queue.append((launch, kind, value))
        try:
            self._wake_out.send(b"x")
        except OSError:  # full: it will wake up
            pass

    def _handle_queue(self) -> None:
        try:
            while self._wake_in.recv(4096):
                pass
        except BlockingIOError:
            pass
        for _ in range(len(self._queue)):
            launch, kind, value = self._queue.popleft()
            if kind == "asked":
                self._begin_end(str(value))
            elif launch == self._launches and self._child is not None:
                self._take(launch, kind, value)

    def _take(self, launch: int, kind: str, value: object) -> None:
        """Take in what was learnt about the present llama-server."""
        assert self._child is not None
        if kind == "port" and isinstance(value, int) and self._probe is not None:
            if not self.record.port:
                self.record = self.record.changed(port=value)
            self._probe.listening(self.record.port)
        elif kind == "healthy" and self.record.state == "starting":
            self._ready_at = time.monotonic()
            self._change(state="ready", was_ready=True)
        elif kind == "phase":
            self._activity.phase = str(value)
            self._peers.tell_holders({"event": "progress", "message": value})
        elif kind == "note" and str(value) not in self.record.notes:
            self._change(notes=(*self.record.notes, str(value)))
        elif kind == "sight" and isinstance(value, Sight):
            self._look(value)
        elif kind == "eof" and not self._child.gone:
            self._queue.append((launch, kind, value))  # it has closed its output and is about to end: look again soon

    def _look(self, sight: Sight) -> None:
        assert self._child is not None
        loading = self.record.state == "starting"
        self._activity.look(sight)
        news = self._activity.news() if loading else None
        if news is not None:
            self._peers.tell_holders(news)
        why = self._hang.look(sight, loading=loading)
        if why is not None and not self._child.ending and not self._why_hung:
            self._why_hung = why
            self._log.note(f"llama-server hangs: {why}")
            self._child.kill()

    def _change(self, **changes: Any) -> None:
        self.record = self.record.changed(**changes)
        try:
            write_record(self._folder, self.record)
        except OSError as error:  # a full disk: who is connected learns it all the same
            self._log.note(f"the record could not be written: {error}")
        self._peers.tell_holders(self._state())

    def _state(self) -> Message:
        hidden = ("api_key", "secret", "model")
        shown = {name: value for name, value in self.record.as_dict().items() if name not in hidden}
        return {"event": "state", "record": shown}

    # --- what holders ask -----------------------------------------------------------------------------------------------

    def _obey(self, peer: Peer, message: Message) -> None:
        operation = message["op"]
        if operation == "hold":
            if self._why_ending or self._exit is not None:
                self._peers.send(peer, {"event": "refused", "reason": "it is ending"})
                return
            peer.holder = message["holder"]
            self._had_holder = True
            self._peers.send(peer, self._state())
            return
        if operation == "keep":
            self._change(keep=bool(message["value"]))
        elif operation == "stop":
            self._begin_end(str(message.get("why", "it was asked to stop")))
        facts = {} if self._child is None else self._activity.facts(loading=self.record.state == "starting")
        answer = {**self._state(), "holders": self._peers.holders(), "facts": facts, "watcher_pid": os.getpid()}
        self._peers.send(peer, {"reply": message.get("id"), **answer})
