"""The parent's end of an embedded model's process: start it, ask it, notice its death, end it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from noa_lab.errors import (
    BadInput,
    ModelFileBroken,
    NoaLabError,
    RequestRefused,
    RuntimeMissing,
    TemplateInvalid,
    Unreachable,
)

__all__ = ["ChildProcess"]

Message = dict[str, Any]

_LONGEST_LINE = 256 * 1024 * 1024


class ChildProcess:
    """One child with one model. Belongs to one event loop of one process.

    Its stdin is its lifeline: the child ends when the pipe closes, which the system does for us should this process die.

    Args:
        model: The GGUF file.
        context_size: Tokens of prompt and answer together.
        threads: Threads of computation.
        program: The module that is the child's program.
        more: What else that program is told.
    """

    def __init__(
        self,
        model: Path,
        context_size: int,
        threads: int,
        *,
        program: str = "noa_lab.inference.embedded._child",
        more: Sequence[int] = (),
    ) -> None:
        self._command = [program, str(model), str(context_size), str(threads), *map(str, more)]
        self._model = model
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._log: IO[bytes] | None = None
        self._asked: dict[int, asyncio.Queue[Message | None]] = {}
        self._number = 0
        self.owner = os.getpid()
        self.facts: Message = {}

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        """Whether the child can be asked."""
        return self._process is not None and self._process.returncode is None and self._reader is not None

    async def start(self) -> None:
        """Start the child and wait until its model is loaded.

        Raises:
            ModelFileBroken: When llama.cpp cannot load the file.
            RuntimeMissing: When the bindings find no llama.cpp.
            Unreachable: When the child died; the signal is named.
        """
        from noa_lab.runtime import with_patient_threads

        self._log = tempfile.TemporaryFile(prefix="noa-lab-embedded-")  # noqa: SIM115 - closed by `stop`
        options: dict[str, Any] = {} if os.name == "nt" else {"start_new_session": True}
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a notebook folder's own jinja2.py must not be imported
                "-m",
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._log,
                env=with_patient_threads(os.environ),
                limit=_LONGEST_LINE,
                **options,
            )
            first = await self._next_line()
            if "error" in first:
                raise self._load_error(first["error"])
        except BaseException:
            await self.stop()
            raise
        self.facts = first
        self._reader = asyncio.create_task(self._read())

    async def _next_line(self) -> Message:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise await self.death()
        message: Message = json.loads(line)
        return message

    async def _read(self) -> None:
        with contextlib.suppress(Unreachable):
            while True:
                message = await self._next_line()
                waiting = self._asked.get(message["id"])
                if waiting is not None:
                    waiting.put_nowait(message)
        self._reader = None
        for waiting in self._asked.values():
            waiting.put_nowait(None)

    async def ask(self, question: Mapping[str, Any], hear: Callable[[Message], None]) -> Any:
        """Ask, pass on what comes before the end, and return the result. Cancelling the coroutine cancels the work.

        Raises:
            Unreachable: When the child died.
            TemplateInvalid: When the chat template refuses the conversation.
            BadInput: When the child could not do it, in its words.
        """
        self._number += 1
        number = self._number
        answers = self._asked[number] = asyncio.Queue()
        try:
            await self._write({**question, "id": number})
            while True:
                message = await answers.get()
                if message is None:
                    raise await self.death()
                if "done" in message:
                    return message["done"]
                if "error" in message:
                    raise _refused(message["error"])
                hear(message)
        except asyncio.CancelledError:
            if self.running:
                self._post({"op": "cancel", "id": number})
            raise
        finally:
            del self._asked[number]

    async def tell(self, message: Mapping[str, Any]) -> None:
        """Tell the child something that has no answer.

        Raises:
            Unreachable: When it died.
        """
        await self._write(dict(message))

    def _post(self, message: Message) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _write(self, message: Message) -> None:
        if not self.running:
            raise await self.death()
        self._post(message)
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            await self._process.stdin.drain()
        except OSError:
            raise await self.death() from None

    async def death(self) -> Unreachable:
        """The error for a child that ended, with the signal or the exit code, and what it last said."""
        assert self._process is not None
        code = await self._process.wait()
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        fix = "Ask again (a new process is started)."
        if how in {"SIGILL", "SIGSEGV", "SIGABRT"}:
            fix = "Run `noa-lab install` again: this build of llama.cpp does not suit the processor. Asking again starts a new process."
        return Unreachable(
            f"The process of the embedded model ended ({how}).",
            fix=fix,
            url=f"embedded:{self._model.name}",
            reason=how,
            exit_code=code,
            log_tail=self._log_tail(),
        )

    def _load_error(self, error: Message) -> NoaLabError:
        reason = error["reason"]
        if error["kind"] == "library":
            fix = "Run `noa-lab install`."
            return RuntimeMissing(f"llama-cpp-python finds no llama.cpp: {reason}.", fix=fix, reason=reason)
        if error["kind"] == "template":
            return TemplateInvalid(
                f"The chat template in {self._model.name} is no valid template: {reason}.",
                fix="Use another file of this model.",
                reason=reason,
            )
        return ModelFileBroken(
            f"{self._model} cannot be loaded: {reason}.",
            fix="Check the file (`noa-lab models verify`) and the context size.",
            path=str(self._model),
            reason=reason,
            log_tail=self._log_tail(),
        )

    def _log_tail(self) -> str:
        if self._log is None or self._log.closed:
            return ""
        # The child shares the file's position: read without moving it.
        size = os.fstat(self._log.fileno()).st_size
        if hasattr(os, "pread"):
            return os.pread(self._log.fileno(), 2000, max(0, size - 2000)).decode(errors="replace")
        return ""

    async def stop(self) -> None:
        """End the child: close its pipe, and kill it when that is not enough within 2 s."""
        process, reader = self._process, self._reader
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 2.0)
            if process.returncode is None:
                process.kill()
                await process.wait()
        if reader is not None:
            await asyncio.gather(reader, return_exceptions=True)
        if self._log is not None:
            self._log.close()


def _refused(error: Message) -> NoaLabError:
    if error["kind"] == "template":
        return TemplateInvalid(
            f"The model's chat template refuses this conversation: {error['reason']}.",
            fix="Change the order or the roles of the messages, or use generate with text of your own.",
            reason=error["reason"],
        )
    if error["kind"] == "grammar":
        return RequestRefused(
            f"llama.cpp refuses the grammar: {error['reason']}.",
            fix="Correct the grammar; llama.cpp's grammars/README.md describes GBNF.",
            status=400,
            type="invalid_request_error",
            url="embedded:",
        )
    return BadInput(
        f"The embedded model could not do this: {error['reason']}.",
        fix="Shorten the request; if that does not help, report it with this message.",
        field="request",
        value=error["reason"],
    )
