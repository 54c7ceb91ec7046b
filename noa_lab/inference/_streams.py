"""Answers as they arrive, for `for` and for `async for`, over one kind of work: a coroutine that emits pieces and returns the answer."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from noa_lab.errors import BadInput, Cancelled
from noa_lab.inference._loop import background, next_piece

__all__ = ["Emit", "RunningAsyncStream", "RunningStream"]

Emit = Callable[[str], None]
"""Takes one piece of the answer; called on the private loop, returns at once."""

R = TypeVar("R")


class _Request(Generic[R]):
    """The state both streams share: the request starts with the first piece asked for and is sent once."""

    def __init__(self, work: Callable[[Emit], Coroutine[Any, Any, R]]) -> None:
        self._work = work
        self._future: concurrent.futures.Future[R] | None = None
        self._text: list[str] = []
        self._closed = False

    def _start(self, emit: Emit, end: Callable[[], None]) -> concurrent.futures.Future[R]:
        if self._future is not None or self._closed:
            raise BadInput(
                "This stream was already read.", fix="Ask the engine for a new stream.", field="stream", value="used"
            )
        self._future = background().submit(self._work(emit))
        self._future.add_done_callback(lambda _: end())
        return self._future

    def _cancel(self) -> None:
        self._closed = True
        if self._future is not None:
            self._future.cancel()

    @property
    def result(self) -> R:
        """The whole answer; only after the last piece.

        Raises:
            BadInput: When the last piece has not been read yet.
            Cancelled: When the stream was closed before its end; `fields["text"]` is what had arrived.
            NoaLabError: The error that ended the stream.
        """
        future = self._future
        if future is not None and future.done() and not future.cancelled():
            return future.result()
        if self._closed:
            raise Cancelled("The stream was closed before its end.", fix="Ask again.", text="".join(self._text))
        raise BadInput(
            "The answer is not complete yet.", fix="Read the stream to its end first.", field="result", value=None
        )


class RunningStream(_Request[R]):
    """`TextStream` over a coroutine on the private loop. Also a context manager, which closes it."""

    def __iter__(self) -> Iterator[str]:
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        future = self._start(pieces.put, lambda: pieces.put(None))
        return self._read(pieces, future)

    def _read(self, pieces: queue.SimpleQueue[str | None], future: concurrent.futures.Future[R]) -> Iterator[str]:
        try:
            while (piece := next_piece(pieces)) is not None:
                self._text.append(piece)
                yield piece
            if not future.cancelled():
                future.result()
        finally:
            if not future.done():
                self._cancel()

    def close(self) -> None:
        """Cancel the request if it is still going on; reading then ends."""
        self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RunningAsyncStream(_Request[R]):
    """`AsyncTextStream` over a coroutine on the private loop. Also an async context manager, which closes it."""

    def __aiter__(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def pass_on(piece: str | None) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def end() -> None:
            if not loop.is_closed():
                pass_on(None)

        return _AsyncPieces(self, pieces, self._start(pass_on, end))

    async def aclose(self) -> None:
        """Cancel the request if it is still going on; reading then ends."""
        self._cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _AsyncPieces(AsyncIterator[str], Generic[R]):
    """The iterator of one async stream.

    An object and no generator: `break` out of `async for` cancels at once, not when asyncio gets round to closing a generator.
    """

    def __init__(
        self,
        stream: RunningAsyncStream[R],
        pieces: asyncio.Queue[str | None],
        future: concurrent.futures.Future[R],
    ) -> None:
        self._stream, self._pieces, self._future = stream, pieces, future

    async def __anext__(self) -> str:
        try:
            piece = await self._pieces.get()
        except BaseException:
            self._stream._cancel()  # noqa: SLF001 - the two classes are one thing
            raise
        if piece is None:
            self._pieces.put_nowait(None)
            if not self._future.cancelled():
                self._future.result()
            raise StopAsyncIteration
        self._stream._text.append(piece)  # noqa: SLF001
        return piece

    def __del__(self) -> None:
        if not self._future.done():
            self._stream._cancel()  # noqa: SLF001
