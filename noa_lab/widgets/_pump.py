"""The one thread that runs a panel's commands and writes its traits.

Callbacks of widgets arrive on whatever thread the kernel likes (main thread or subshell, by ipykernel version), so they only put a
command in a line. The pump takes one at a time. It starts with the first command, ends itself when there is nothing left to do, and
is ended by `close`; so a notebook that only shows panels ends with no thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Command", "Pump"]

Command = Callable[[], None]
"""What the pump runs; it may raise, and must not block."""

_GAP = 0.1
_LINGER = 0.5


class Pump:
    """Runs commands in the order they came, and publishes at most ten times a second.

    Args:
        name: Name of the thread.
        publish: Called after something changed; the only place where traits are written.
        failed: Takes what a command raised.
    """

    def __init__(self, name: str, *, publish: Command, failed: Callable[[Exception], None]) -> None:
        self._name = name
        self._publish = publish
        self._failed = failed
        # Protects everything below; never held while a command runs.
        self._changed = threading.Condition()
        self._commands: deque[Command] = deque()
        self._later: tuple[float, Command] | None = None
        self._thread: threading.Thread | None = None
        self._running = False
        self._dirty = False
        self._published = 0.0
        self._closed = False

    def submit(self, command: Command) -> bool:
        """Put `command` in the line; from any thread, at once. Returns False when the pump is closed."""
        with self._changed:
            if self._closed:
                return False
            self._commands.append(command)
            self._wake()
            return True

    def invalidate(self) -> None:
        """Ask for a publish, at once or a tenth of a second after the last one; from any thread."""
        with self._changed:
            if not self._closed:
                self._dirty = True
                self._wake()

    def later(self, seconds: float, command: Command) -> None:
        """Run `command` after `seconds`, unless `later` is called again before; there is one such command."""
        with self._changed:
            if not self._closed:
                self._later = (time.monotonic() + seconds, command)
                self._wake()

    def settle(self, timeout: float = 60.0, *, quiet: Callable[[], bool] = lambda: True) -> bool:
        """Wait until every command so far has run and been published.

        Args:
            timeout: Seconds to wait at most.
            quiet: Must hold as well. It is asked between two commands, so it sees no state that a command has half changed.

        Returns:
            Whether that was so in time, or the pump is closed.
        """
        with self._changed:
            return self._changed.wait_for(
                lambda: (not (self._commands or self._running or self._dirty) and quiet()) or self._closed, timeout
            )

    def close(self, timeout: float = 2.0) -> None:
        """End the thread; commands still in the line are dropped. Safe to call twice, and from the pump itself."""
        with self._changed:
            self._closed = True
            self._commands.clear()
            self._dirty = False
            self._later = None
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    @property
    def alive(self) -> bool:
        """Whether its thread is running."""
        with self._changed:
            return self._thread is not None

    @property
    def closed(self) -> bool:
        """Whether it takes no more commands."""
        with self._changed:
            return self._closed

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while (command := self._next()) is not None:
            try:
                command()
            except Exception as error:
                self._failed(error)
            with self._changed:
                self._running = False
                self._changed.notify_all()

    def _next(self) -> Command | None:
        """The next thing to do, waiting for it; None, with the thread signed off, when there is nothing."""
        quiet_since = time.monotonic()
        with self._changed:
            while True:
                now = time.monotonic()
                command, wait = self._due(now)
                if command is not None:
                    self._running = True
                    return command
                if wait is None:
                    wait = quiet_since + _LINGER - now
                    if wait <= 0 or self._closed:
                        self._thread = None
                        return None
                self._changed.wait(wait)

    def _due(self, now: float) -> tuple[Command | None, float | None]:
        """What is due at `now`, or how long until something is (None: nothing is planned)."""
        if self._closed:
            return None, None
        if self._dirty and now >= self._published + _GAP:
            self._dirty = False
            self._published = now
            return self._publish, None
        if self._commands:
            return self._commands.popleft(), None
        if self._dirty:
            return None, self._published + _GAP - now
        if self._later is not None:
            at, command = self._later
            if now >= at:
                self._later = None
                return command, None
            return None, at - now
        return None, None
