"""What `comparisons.py` runs on: the model whose answers never end early, and fresh llama-servers with their own defaults."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from noa_lab import models
from noa_lab.models import ModelFile
from noa_lab.paths import Home
from noa_lab.runtime import Runtime, with_patient_threads

__all__ = [
    "Bare",
    "Counts",
    "bare_server",
    "endless_model",
    "home_beside",
    "least_tokens",
    "peak_decode",
    "read_counts",
    "small_model",
]

_HEADER = 16 << 20
_SILENT_TOKEN = 3
"""A token that SmolLM2 never says unasked: <repo_name>."""


def endless_model(source: Path, target: Path) -> Path:
    """A copy of the model for which no token ends an answer, so that every answer has the length that was asked for.

    llama.cpp takes as ends the token that the header names and those with well-known names. Their names are changed, letter for letter,
    in the vocabulary and in the chat template alike: prompts have the same tokens as before, and weights are not touched.
    """
    raw = bytearray(source.read_bytes())
    head = bytes(raw[:_HEADER])
    key = b"tokenizer.ggml.eos_token_id"
    place = head.index(key) + len(key)
    if struct.unpack_from("<I", head, place)[0] != 4:
        sys.exit(f"{source.name}: the end token is not written as a 32-bit number")
    struct.pack_into("<I", raw, place + 4, _SILENT_TOKEN)
    for known, other in ((b"<|im_end|>", b"<|im_off|>"), (b"<|endoftext|>", b"<|offoftext|>")):
        for found in re.finditer(re.escape(known), head):
            raw[found.start() : found.end()] = other
    target.write_bytes(raw)
    return target


def small_model(own: Home) -> ModelFile:
    """The model that benchmarks run on, from this home."""
    found = models.find("smollm2-135m", own)
    if found is None:
        sys.exit("Get the model first: noa-lab models get smollm2-135m")
    return found


def home_beside(own: Home, folder: Path) -> Home:
    """A home in this folder that has the runtimes of another one, and nothing else yet."""
    home = Home(folder / "home")
    home.root.mkdir()
    (home.root / "runtimes").symlink_to(own.root / "runtimes")
    return home


@dataclass(frozen=True)
class Counts:
    """What a server has done, by its own count: prompt tokens evaluated, tokens generated."""

    evaluated: int
    generated: int


@dataclass(frozen=True)
class Bare:
    """A llama-server of its own."""

    url: str
    key: str

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=3600, limits=limits)


@contextlib.contextmanager
def bare_server(runtime: Runtime, model: Path, log: Path, slots: int | None = None) -> Iterator[Bare]:
    """A fresh llama-server as one starts it by hand: everything by its own defaults but the count of slots, if given.

    Its threads wait as those of our servers do, so that what is compared is how it is asked.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(runtime.tool("llama-server")), "-m", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-t", str(runtime.threads), "--metrics", "--offline"]
    command += [] if slots is None else ["-np", str(slots), "-c", str(2048 * slots)]
    key = secrets.token_hex(8)
    with log.open("wb") as output:
        environment = {**with_patient_threads(os.environ), "LLAMA_API_KEY": key}
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        bare = Bare(f"http://127.0.0.1:{port}", key)
        _wait(bare, process, log)
        yield bare
    finally:
        process.terminate()
        process.wait(30)


def _wait(bare: Bare, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{bare.url}/health").status_code == 200:
                return
        time.sleep(0.1)
    sys.exit(f"llama-server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def read_counts(url: str, key: str) -> Counts:
    """By the server's /metrics."""
    text = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"}).text

    def value(name: str) -> int:
        found = re.search(rf"^llamacpp:{name} (\S+)$", text, re.MULTILINE)
        return int(float(found[1])) if found else 0

    return Counts(value("prompt_tokens_total"), value("tokens_predicted_total"))


async def least_tokens(bare: Bare, conversations: Sequence[list[dict[str, str]]]) -> int:
    """Distinct beginnings of all prompts, and one token for each repeated prompt: nothing can evaluate fewer."""
    beginnings: set[tuple[int, ...]] = set()
    repeated = 0
    async with bare.client() as ask:
        for messages in conversations:
            text = (await ask.post("/apply-template", json={"messages": messages})).json()["prompt"]
            body = {"content": text, "add_special": True, "parse_special": True}
            tokens = tuple((await ask.post("/tokenize", json=body)).json()["tokens"])
            repeated += tokens in beginnings
            beginnings.update(itertools.accumulate(((token,) for token in tokens), lambda one, more: one + more))
    return len(beginnings) + repeated


def peak_decode(runtime: Runtime, model: Path, log: Path) -> float:
    """Most tokens a second that a llama-server generates, over some numbers of short answers side by side."""
    return max(asyncio.run(_decode(runtime, model, log, width)) for width in (8, 16, 32))


async def _decode(runtime: Runtime, model: Path, log: Path, width: int) -> float:
    length = 48
    body = {"prompt": "Once", "n_predict": length, "ignore_eos": True, "temperature": 0}
    with bare_server(runtime, model, log, width) as bare:
        async with bare.client() as ask:
            await ask.post("/completion", json=body)
            began = time.perf_counter()
            await asyncio.gather(*(ask.post("/completion", json=body) for _ in range(width)))
            return width * length / (time.perf_counter() - began)
