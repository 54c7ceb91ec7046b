"""A fake llama-server that keeps slots as the real one does, and answers as fast as it is told to.

What a slot holds, which slot a request gets, that a request waits for its slot, that further answers (`n`) take the first idle slots and
leave them empty, that slots can be saved and restored: all as in llama.cpp b11312, `server-context.cpp`. `tests/inference/batch` compares
it with the real one. Run as `python -m noa_lab.testing._fake_slots` it is a server of its own, for benchmarks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import threading
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

__all__ = ["FakeSlots", "Faults"]

_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")
_WORDS = 50_000


@dataclass
class Faults:
    """What goes wrong.

    Attributes:
        no_saving: Slots cannot be saved: the server was started without a folder.
        disk_full: Saving fails.
        forgetful: Nothing is ever kept, as with a model that cannot go back.
        die_at: The server ends, without a word, when it gets this completion; counted from 1.
        refuse: A completion whose prompt's text this accepts is refused with HTTP 400.
    """

    no_saving: bool = False
    disk_full: bool = False
    forgetful: bool = False
    die_at: int | None = None
    refuse: Callable[[str], bool] = lambda _text: False


@dataclass
class _Slot:
    held: list[int] = field(default_factory=list)
    task: int = -1
    """Number of what it works on; -1 while it is idle."""


class FakeSlots:
    """Listens on a free loopback port in a thread of its own, until it is closed.

    Args:
        slots: How many.
        context_size: Tokens of each.
        answer: The text of an answer, from the prompt's text and the seed.
        seconds: How long a completion takes; a function is called for each.
        faults: What goes wrong.

    Attributes:
        evaluated: Prompt tokens evaluated so far.
        asked: Completions with their prompt's text, in order of arrival.
        counts: Requests by path.
    """

    def __init__(
        self,
        slots: int = 4,
        *,
        context_size: int = 4096,
        answer: Callable[[str, int], str] = lambda _text, _seed: "yes",
        seconds: float | Callable[[], float] = 0.0,
        faults: Faults | None = None,
        port: int = 0,
    ) -> None:
        self.slots, self.context_size, self.seconds, self.faults = slots, context_size, seconds, faults or Faults()
        self._answer = answer
        self._slots = [_Slot() for _ in range(slots)]
        self._saved: dict[str, list[int]] = {}
        self._pieces: dict[int, str] = {}
        self._tasks = 0
        self._port = port
        self._freed: asyncio.Condition
        self.evaluated = 0
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.counts: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        if not ready.wait(60):
            raise TimeoutError("The fake server did not start.")

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._freed = asyncio.Condition()
        make = self._loop.create_server(lambda: _Http(self), "127.0.0.1", self._port)
        self._server = self._loop.run_until_complete(make)
        self.port: int = self._server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def close(self) -> None:
        """Stop listening and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._die)
            self._thread.join(5)

    def _die(self) -> None:
        self._server.close()
        for connection in list(_Http.alive):
            if connection.fake is self:
                connection.transport.abort()
        self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Serve until the process ends."""
        self._thread.join()

    # What it answers

    async def reply(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        name, _, query = path.partition("?")
        self.counts[name] = self.counts.get(name, 0) + 1
        handler: Callable[[Any], Awaitable[Any]] | None = {
            "/props": self._props,
            "/slots": self._list_slots,
            "/apply-template": self._template,
            "/tokenize": self._tokenize,
            "/completion": self._complete,
            "/v1/chat/completions": self._chat,
            "/health": self._health,
            "/v1/models": self._models,
        }.get(name)
        if name.startswith("/slots/") and name != "/slots":
            return await self._slot_file(int(name.rsplit("/", 1)[1]), query, body)
        if handler is None:
            return 404, _error(404, "File Not Found", "not_found_error")
        found = await handler(body)
        return found if isinstance(found, tuple) else (200, found)

    async def _health(self, _body: Any) -> Any:
        return {"status": "ok"}

    async def _models(self, _body: Any) -> Any:
        return {"data": [{"id": "fake"}]}

    async def _props(self, _body: Any) -> Any:
        settings = {"n_ctx": self.context_size}
        return {
            "total_slots": self.slots,
            "default_generation_settings": settings,
            "model_path": "fake.gguf",
            "build_info": "fake",
            "chat_template": "fake {{ messages }}",
        }

    async def _list_slots(self, _body: Any) -> Any:
        return [
            {"id": number, "id_task": slot.task, "is_processing": slot.task >= 0}
            for number, slot in enumerate(self._slots)
        ]

    async def _template(self, body: Any) -> Any:
        return {"prompt": "".join(f"<{turn['role']}> {turn['content']}\n" for turn in body["messages"]) + "<assistant>"}

    async def _tokenize(self, body: Any) -> Any:
        return {"tokens": self._tokens(body["content"])}

    def _tokens(self, text: str) -> list[int]:
        found = []
        for piece in _TOKEN.findall(text):
            token = zlib.crc32(piece.encode()) % _WORDS
            self._pieces.setdefault(token, piece)
            found.append(token)
        return found

    async def _slot_file(self, number: int, query: str, body: Any) -> tuple[int, Any]:
        if self.faults.no_saving:
            return 501, _error(501, "This server does not support slots action.", "not_supported_error")
        slot, name = self._slots[number], body["filename"]
        async with self._freed:
            await self._freed.wait_for(lambda: slot.task < 0)
        if query == "action=save":
            if self.faults.disk_full and slot.held:
                return 500, _error(500, "Unable to save slot", "server_error")
            self._saved[name] = list(slot.held)
            return 200, {"id_slot": number, "n_saved": len(slot.held), "n_written": 8 * len(slot.held)}
        if name not in self._saved:
            return 400, _error(400, "Unable to restore slot", "invalid_request_error")
        slot.held = list(self._saved[name])
        return 200, {"id_slot": number, "n_restored": len(slot.held)}

    async def _chat(self, body: Any) -> Any:
        prompt = (await self._template(body))["prompt"]
        found = await self._complete({**body, "prompt": prompt, "n_predict": body.get("max_tokens", -1)})
        if isinstance(found, tuple):
            return found
        message = {"role": "assistant", "content": found["content"]}
        usage = {"prompt_tokens": found["tokens_evaluated"], "completion_tokens": found["tokens_predicted"]}
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "fake",
            "choices": [choice],
            "usage": usage,
        }

    async def _complete(self, body: Any) -> Any:
        tokens = body["prompt"] if isinstance(body["prompt"], list) else self._tokens(body["prompt"])
        text = "".join(self._pieces.get(token, "?") for token in tokens)
        self.asked.append((text, body))
        if self.faults.die_at == len(self.asked):
            self._die()
            await asyncio.sleep(60)
        if self.faults.refuse(text):
            return 400, _error(400, "Refused.", "invalid_request_error")
        if len(tokens) >= self.context_size:
            error = _error(400, "too long", "exceed_context_size_error")
            error["error"] |= {"n_prompt_tokens": len(tokens), "n_ctx": self.context_size}
            return 400, error
        return await self._work(tokens, text, body)

    async def _work(self, tokens: list[int], text: str, body: Any) -> Any:
        count, pinned = int(body.get("n") or 1), int(body.get("id_slot", -1))
        async with self._freed:
            await self._freed.wait_for(lambda: self._can_begin(pinned, count))
            own = pinned if pinned >= 0 else self._choose(tokens)
            children = [n for n, slot in enumerate(self._slots) if slot.task < 0 and n != own][: count - 1]
            for number in (own, *children):
                self._slots[number].task = self._tasks
                self._tasks += 1
        slot = self._slots[own]
        kept = 0
        if body.get("cache_prompt", True) and not self.faults.forgetful:
            kept = min(_alike(slot.held, tokens), len(tokens) - 1)
        self.evaluated += len(tokens) - kept
        slot.held = list(tokens)
        try:
            seconds = self.seconds() if callable(self.seconds) else self.seconds
            if seconds:
                await asyncio.sleep(seconds)
        finally:
            for number in (own, *children):
                self._slots[number].task = -1
            for number in children:
                self._slots[number].held = []
            async with self._freed:
                self._freed.notify_all()
        seed = int(body.get("seed") or 0)
        parts = [
            self._part(text, index, number, seed + index, tokens, kept, body)
            for index, number in enumerate((own, *children))
        ]
        return parts if count > 1 else parts[0]

    def _can_begin(self, pinned: int, count: int) -> bool:
        free = [number for number, slot in enumerate(self._slots) if slot.task < 0]
        return len(free) >= count and (pinned < 0 or pinned in free)

    def _choose(self, tokens: list[int]) -> int:
        free = [number for number, slot in enumerate(self._slots) if slot.task < 0]
        return max(free, key=lambda number: _alike(self._slots[number].held, tokens))

    def _part(
        self, text: str, index: int, slot: int, seed: int, tokens: list[int], kept: int, body: Any
    ) -> dict[str, Any]:
        answer = self._answer(text, seed)
        size = max(1, len(_TOKEN.findall(answer)))
        names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
        return {
            "index": index,
            "id_slot": slot,
            "content": answer,
            "tokens": [],
            "stop": True,
            "model": "fake",
            "tokens_predicted": size,
            "tokens_evaluated": len(tokens),
            "stop_type": "eos",
            "truncated": False,
            "generation_settings": {**{name: body[name] for name in names if name in body}, "seed": seed},
            "timings": {
                "cache_n": kept,
                "prompt_n": len(tokens) - kept,
                "prompt_ms": 1.0 * (len(tokens) - kept),
                "predicted_n": size,
                "predicted_ms": 2.0 * size,
            },
        }


def _alike(one: list[int], other: list[int]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def _error(code: int, message: str, kind: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "type": kind}}


class _Http(asyncio.Protocol):
    """HTTP/1.1 with kept connections and whole bodies."""

    alive: ClassVar[set[_Http]] = set()

    def __init__(self, fake: FakeSlots) -> None:
        self.fake = fake
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.alive.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self.alive.discard(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, mark, rest = self._data.partition(b"\r\n\r\n")
        if not mark:
            return
        lowered = head.lower()
        place = lowered.find(b"content-length:")
        length = int(lowered[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(rest) < length:
            return
        self._data = rest[length:]
        path = head.split(b" ", 2)[1].decode()
        self._task = asyncio.ensure_future(self._respond(path, json.loads(rest[:length]) if length else None))

    async def _respond(self, path: str, body: Any) -> None:
        status, found = await self.fake.reply(path, body)
        if status == 200 and body and body.get("stream"):
            self._stream(found if isinstance(found, list) else [found])
            return
        data = json.dumps(found).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.transport.write(head.encode() + data)

    def _stream(self, parts: list[dict[str, Any]]) -> None:
        """The answers as server-sent events: each in one piece, then its end mark."""
        events = [{"index": part["index"], "content": part["content"], "tokens": [], "stop": False} for part in parts]
        events += [{**part, "content": ""} for part in parts]
        data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
        head = f"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nContent-Length: {len(data)}\r\n\r\n"
        self.transport.write(head.encode() + data)


def main() -> None:
    """Serve until the process ends; prints the address."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    fake = FakeSlots(options.slots, seconds=options.seconds, port=options.port)
    print(f"main: listening on {fake.base_url}", flush=True)
    fake.wait()


if __name__ == "__main__":
    main()
