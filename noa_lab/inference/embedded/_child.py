"""The process that holds an embedded model: `python -m noa_lab.inference.embedded._child MODEL CONTEXT THREADS`.

It speaks JSON lines on stdin and stdout. Whatever llama.cpp prints goes to stderr, so it cannot disturb them. It ends when stdin
does, or when its parent is gone, so it never outlives the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from noa_lab.errors import TemplateInvalid
from noa_lab.inference._chat_format import format_chat_prompt
from noa_lab.inference._types import ChatMessage
from noa_lab.inference.embedded._model import Answered, EmbeddedModel, LoadFailed
from noa_lab.inference.embedded._sampler import GrammarInvalid
from noa_lab.inference.embedded._template import ChatTemplate
from noa_lab.inference.embedded._text_cutter import TextCutter

__all__ = ["Child", "Inbox", "main", "serve_parent"]

Message = dict[str, Any]


class Inbox:
    """Takes questions in on a thread of its own, so that cancels and the end of the parent are noticed during work.

    A cancel also stands among what is waiting, for whoever has to know what came before and after it.
    """

    def __init__(self, lines: BinaryIO) -> None:
        self.waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.cancelled: set[int] = set()
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def _read(self, lines: BinaryIO) -> None:
        for line in lines:
            message = json.loads(line)
            if message["op"] == "cancel":
                self.cancelled.add(message["id"])
            self.waiting.put(message)
        os._exit(0)


class Child:
    """Answers questions one after the other."""

    def __init__(self, model: EmbeddedModel, inbox: Inbox, say: Callable[[Message], None], **facts: Any) -> None:
        self._model = model
        self._inbox = inbox
        self._say = say
        source = model.chat_template()
        (bos, add_bos), (eos, add_eos) = model.special("bos"), model.special("eos")
        self._template = ChatTemplate(source, bos=bos, eos=eos, add_bos=add_bos, add_eos=add_eos) if source else None
        say({"ready": True, "context_size": model.context_size, "chat_template": source, "build": _build(), **facts})

    def serve(self) -> None:
        """Answer for ever."""
        while True:
            message = self._inbox.waiting.get()
            if message["op"] != "cancel":
                self.do(message)

    def do(self, message: Message) -> None:
        """Do what one message asks for."""
        try:
            self._say({"id": message["id"], "done": getattr(self, f"_{message['op']}")(message)})
        except GrammarInvalid as error:
            self._say({"id": message["id"], "error": {"kind": "grammar", "reason": str(error)}})
        except TemplateInvalid as error:
            self._say({"id": message["id"], "error": {"kind": "template", "reason": error.fields["reason"]}})
        except Exception as error:
            self._say({"id": message["id"], "error": {"kind": "failed", "reason": f"{type(error).__name__}: {error}"}})

    def _render(self, message: Message) -> str:
        if self._template is None:
            return format_chat_prompt(
                [ChatMessage(role=turn["role"], content=turn["content"]) for turn in message["messages"]]
            )
        return self._template.render(message["messages"])

    def _tokenize(self, message: Message) -> list[int]:
        return self._model.tokenize(message["text"], add_special=message["add_special"])

    def _detokenize(self, message: Message) -> str:
        return self._model.detokenize(message["tokens"]).decode(errors="replace")

    def _answer(self, message: Message) -> Message:
        number = message["id"]
        self._say({"id": number, "started": True})
        text, prompt = self._prompt(message["prompt"])
        if not prompt or len(prompt) >= self._model.context_size:
            return {"prompt": text, "prompt_tokens": len(prompt), "finish_reason": "does_not_fit"}
        facts, cutter = Answered(), TextCutter(message["stop"])
        sampled = self._model.tokens(
            prompt, message["sampling"], message["grammar"], message["max_tokens"], facts, self._cancelled(number)
        )
        with contextlib.closing(sampled):
            for piece in sampled:
                self._emit(number, cutter.feed(piece))
                if cutter.stopped:
                    facts.finish_reason = "stop_sequence"
                    break
        self._emit(number, cutter.flush())
        self._inbox.cancelled.discard(number)
        return {"prompt": text, **{name: getattr(facts, name) for name in Answered.__slots__}}

    def _score(self, message: Message) -> Message:
        facts = Answered()
        found = self._model.score(
            message["prompt"],
            message["continuation"],
            facts,
            self._cancelled(message["id"]),
            reuse=message["cache_prompt"],
        )
        return {"logprobs": found, "prompt_tokens": facts.prompt_tokens, "cached_tokens": facts.cached_tokens}

    def _embed(self, message: Message) -> Message:
        vectors, counts = [], []
        for text in message["texts"]:
            tokens = self._model.tokenize(text)
            counts.append(len(tokens))
            if not tokens or len(tokens) > self._model.context_size:
                return {"does_not_fit": text, "counts": counts}
            vectors.append(self._model.vector(tokens))
        return {"vectors": vectors, "counts": counts}

    def _cancelled(self, number: int) -> Callable[[], bool]:
        return lambda: number in self._inbox.cancelled

    def _prompt(self, given: str | list[Any]) -> tuple[str | list[int], list[int]]:
        """What is sent to the model, and its tokens."""
        if not isinstance(given, str) and isinstance(given[0], int):
            return given, given
        text = given if isinstance(given, str) else self._render({"messages": given})
        return text, self._model.tokenize(text)

    def _emit(self, number: int, text: str) -> None:
        if text:
            self._say({"id": number, "piece": text})


def _build() -> str:
    """The bindings' version; their llama.cpp is pinned by it."""
    import llama_cpp

    return f"llama-cpp-python {llama_cpp.__version__}"


def _follow_parent() -> None:
    """End with the parent even when another process still holds the pipe open (a fork of the parent does)."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def serve_parent(make: Callable[[Inbox, Callable[[Message], None]], Child]) -> None:
    """Load a model and answer until the parent is gone.

    Args:
        make: Makes the child, which loads the model.
    """
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    speaking = threading.Lock()

    def say(message: Message) -> None:
        with speaking:
            out.write(json.dumps(message).encode() + b"\n")

    if os.name != "nt":
        threading.Thread(target=_follow_parent, daemon=True).start()
    inbox = Inbox(sys.stdin.buffer)
    try:
        child = make(inbox, say)
    except LoadFailed as error:
        say({"error": {"kind": "load", "reason": str(error)}})
        return
    except TemplateInvalid as error:
        say({"error": {"kind": "template", "reason": error.fields["reason"]}})
        return
    except (ImportError, OSError, RuntimeError) as error:
        say({"error": {"kind": "library", "reason": f"{type(error).__name__}: {error}"}})
        return
    child.serve()


def main(arguments: list[str]) -> None:
    """Load the model and answer until the parent is gone.

    Args:
        arguments: Path of the GGUF file, context size, threads.
    """
    path, context, threads = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    serve_parent(lambda inbox, say: Child(EmbeddedModel(path, context, threads), inbox, say))


if __name__ == "__main__":
    main(sys.argv[1:])
