"""The trial that every llama.cpp passes before it is used: in a child process, with a real model.

A CPU may advertise instructions that it kills a program for (AMX on some virtual machines), and `import llama_cpp` would take a
notebook's kernel with it. So it is a child that dies, and its death has a name.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noa_lab.errors import RuntimeRejected
from noa_lab.events import CancelToken
from noa_lab.runtime._libraries import beside_first
from noa_lab.runtime._process import Child, clean_environment, describe_exit, run
from noa_lab.runtime._rejection import last_words, rejected, rejected_for

__all__ = ["SmokeResult", "program", "smoke_test"]

_START_SECONDS = 120.0
_ANSWER_SECONDS = 120.0
_ASK_SECONDS = 30.0
_HTTP_SECONDS = 600.0
_TOKENS = 8
_LISTENING = re.compile(r"listening on (?:http://)?[^ ]*?:(\d+)(?: - starting the main loop)?\s*$")
_VERSIONS = (
    re.compile(r"\(build (?P<build>\d+), commit (?P<commit>\w+)\)"),
    re.compile(r"version: (?P<build>\d+) \((?P<commit>[^)]{1,60})\)"),
    re.compile(r"\bb(?P<build>\d{3,6})-(?P<commit>[0-9a-f]{7,40})\b"),
    # A distribution's own: "version: 0.6.0", "llama-server v0.5.0-dev".
    re.compile(r"(?:version:?|llama[\w.-]*) v?\d+\.\d+(?:\.\d+)?(?:[-+.]\w+)*\s*$", re.MULTILINE),
)
_BUILD_INFO = re.compile(r"b(\d+)-([0-9a-f]{7,40})")
_MODEL_FAULT = re.compile(r"failed to load model|error loading model|failed to open GGUF", re.IGNORECASE)
_COMPILER = re.compile(r"built with (.+)")
_DEVICE = re.compile(r"[A-Za-z][\w-]*: ")
_FLAG = re.compile(r"(--?[a-zA-Z][\w-]*)(,\s*)?")


@dataclass(frozen=True, slots=True)
class SmokeResult:
    """What the trial found.

    Attributes:
        build_number: llama.cpp's build number by the binary's own word; 0 where it does not know.
        commit: Its commit, short; "unknown" where it does not know. Distributions often build from an archive without a history.
        compiler: What compiled it.
        server_flags: The options that its llama-server understands.
        server_switches: Those of them that take no value.
        seconds: How long the server took from its start to the last of 8 tokens.
        devices: What it can compute with beside the CPU, as it names them: "CUDA0: NVIDIA GeForce RTX 4090 (24563 MiB, ...)".
    """

    build_number: int
    commit: str
    compiler: str
    server_flags: tuple[str, ...]
    seconds: float
    devices: tuple[str, ...] = ()
    server_switches: tuple[str, ...] = ()


def program(folder: Path, name: str) -> Path:
    """Path of a program in a folder of llama.cpp's programs, with ".exe" where this system wants it."""
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.exe"


def smoke_test(
    folder: Path,
    model: Path,
    *,
    cancel: CancelToken | None = None,
    start_seconds: float = _START_SECONDS,
    answer_seconds: float = _ANSWER_SECONDS,
) -> SmokeResult:
    """Try a folder of llama.cpp's programs: version, options, and a server that answers with 8 tokens.

    Args:
        folder: The programs and their libraries.
        model: A small GGUF file.
        cancel: Ends the trial.
        start_seconds: How long the server may take until it listens.
        answer_seconds: How long the 8 tokens may take.

    Raises:
        RuntimeRejected: When a program is missing, dies (the signal is named), hangs, or answers wrongly.
        Cancelled: When `cancel` was.
    """
    server = program(folder, "llama-server")
    if not server.is_file():
        raise rejected(folder, f"there is no {server.name} in it", "no program")
    private = Path(tempfile.mkdtemp(prefix="noa-lab-smoke-"))
    try:
        environment = beside_first(clean_environment(private), folder)
        number, commit, compiler = _version(server, environment, cancel)
        flags, switches = _flags(server, environment, cancel)
        devices = _devices(server, environment, cancel) if "--list-devices" in flags else ()
        started = time.monotonic()
        info = _try_server(server, model, private, flags, (start_seconds, answer_seconds), cancel)
        seconds = time.monotonic() - started
        told = _BUILD_INFO.fullmatch(info)
        if told and commit == "unknown":
            number, commit = int(told[1]), told[2]
        return SmokeResult(number, commit, compiler, flags, seconds, devices, switches)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _version(server: Path, environment: dict[str, str], cancel: CancelToken | None) -> tuple[int, str, str]:
    text = _ask(server, "--version", environment, cancel)
    match = next((found for found in (pattern.search(text) for pattern in _VERSIONS) if found), None)
    if match is None:
        shown = text.strip().splitlines()[0][:200] if text.strip() else "nothing"
        raise rejected(
            server.parent, f"`{server.name} --version` printed {shown!r}, which names no build", "foreign version"
        )
    compiler = _COMPILER.search(text)
    told = match.groupdict()
    commit = told.get("commit", "")
    known = re.fullmatch(r"[0-9a-f]{7,40}", commit) is not None
    return int(told.get("build", 0)), commit if known else "unknown", compiler[1].strip() if compiler else ""


def _devices(server: Path, environment: dict[str, str], cancel: CancelToken | None) -> tuple[str, ...]:
    lines = [line.strip() for line in _ask(server, "--list-devices", environment, cancel).splitlines()]
    start = next(
        (index for index, line in enumerate(lines) if line.lower().startswith("available devices")), len(lines)
    )
    return tuple(line for line in lines[start + 1 :] if _DEVICE.match(line))


def _flags(
    server: Path, environment: dict[str, str], cancel: CancelToken | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options that `--help` lists, and those of them that take no value."""
    found: set[str] = set()
    switches: set[str] = set()
    for line in _ask(server, "--help", environment, cancel).splitlines():
        names, end = _option_names(line)
        found |= names
        # One space and a value ("-t,    --threads N"), or a gap of at least three, and what they do.
        if re.match(r"(?: {2,}|\s*$)", line[end:]):
            switches |= names
    return tuple(sorted(found)), tuple(sorted(switches))


def _option_names(line: str) -> tuple[set[str], int]:
    """The options that a line of `--help` begins with, and where they end."""
    names, end = set(), 0
    while match := _FLAG.match(line, end):
        names.add(match[1])
        end = match.end(1)
        if not match[2]:
            break
        end = match.end()
    return names, end


def _ask(server: Path, option: str, environment: dict[str, str], cancel: CancelToken | None) -> str:
    lines: list[str] = []
    done = run([server, option], env=environment, seconds=_ASK_SECONDS, on_line=lines.append, cancel=cancel)
    if done.timed_out or done.returncode != 0:
        raise rejected_for(server.parent, f"`{server.name} {option}`", done)
    return "\n".join(lines)


def _try_server(
    server: Path,
    model: Path,
    private: Path,
    flags: tuple[str, ...],
    seconds: tuple[float, float],
    cancel: CancelToken | None,
) -> str:
    """Start it, ask it; returns how it names its build ("b11312-0c1e57098"), "" where it does not."""
    key = secrets.token_urlsafe(24)
    # One thread: the trial is about what works, and on a busy machine several would wait for each other.
    options = ["--host", "127.0.0.1", "--port", "0", "-c", "512", "-np", "1", "-t", "1", "-tb", "1"]
    # Releases of 2024 lack these.
    for option in (["--offline"], ["--no-ui"], ["--cors-origins", "localhost"]):
        options += option if option[0] in flags else []
    environment = beside_first(clean_environment(private, LLAMA_API_KEY=key), server.parent)
    with Child([server, "-m", model, *options], env=environment, cwd=private) as child:
        port = _await_port(child, server, seconds[0], cancel)
        return _ask_server(child, server, port, key, seconds[1], cancel)


def _await_port(child: Child, server: Path, seconds: float, cancel: CancelToken | None) -> int:
    try:
        for line in child.lines(until=time.monotonic() + seconds, cancel=cancel):
            match = _LISTENING.search(line)
            if match:
                return int(match[1])
    except TimeoutError:
        raise rejected(server.parent, f"{server.name} hung: it was not ready after {seconds:.0f} s", "hang") from None
    raise _died(child, server, "while it loaded the model")


def _ask_server(child: Child, server: Path, port: int, key: str, seconds: float, cancel: CancelToken | None) -> str:
    request = {"prompt": "Once upon a time", "n_predict": _TOKENS, "temperature": 0.0, "seed": 1, "ignore_eos": True}
    try:
        answer = _patiently(lambda: _http(port, key, "/completion", request), seconds, cancel)
        props = _patiently(lambda: _http(port, key, "/props", None), seconds, cancel)
    except TimeoutError:
        raise rejected(server.parent, f"{server.name} hung: no answer after {seconds:.0f} s", "hang") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        try:
            child.wait(2)
        except subprocess.TimeoutExpired:
            raise rejected(server.parent, f"{server.name} answered wrongly: {error}", "wrong answer") from None
        raise _died(child, server, "when it was asked for 8 tokens") from None
    text, count = answer.get("content"), answer.get("tokens_predicted")
    if not isinstance(text, str) or not text or count != _TOKENS:
        raise rejected(
            server.parent, f"{server.name} was asked for {_TOKENS} tokens and gave {count}: {text!r}", "wrong answer"
        )
    # Servers of 2024 give their settings, but not their build.
    if not {"build_info", "default_generation_settings"} & set(props):
        raise rejected(server.parent, f"{server.name} does not say what it is in /props", "wrong answer")
    return str(props.get("build_info", ""))


def _patiently(ask: Callable[[], dict[str, Any]], seconds: float, cancel: CancelToken | None) -> dict[str, Any]:
    """Ask in a thread, so that a cancellation need not wait for the answer.

    Raises:
        TimeoutError: After `seconds`.
        Cancelled: When `cancel` was; the thread ends with the server.
    """
    answer: Future[dict[str, Any]] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, name="noa-lab smoke test", daemon=True).start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if cancel is not None:
            cancel.check()
        if wait([answer], 0.1).done:
            return answer.result()
    raise TimeoutError


def _http(port: int, key: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    # http.client knows nothing of proxies: loopback stays loopback.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_HTTP_SECONDS)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise ValueError(f"status {response.status}: {content[:200].decode('utf-8', 'replace')}")
        parsed = json.loads(content)
        if not isinstance(parsed, dict):
            raise ValueError("the answer is no JSON object")
        return parsed
    finally:
        connection.close()


def _died(child: Child, server: Path, when: str) -> RuntimeRejected:
    returncode = child.wait(10)
    reason = f"{server.name} {when}: {describe_exit(returncode)}{last_words(child.tail)}"
    # A clean exit over the model is no fault of the build: a safer one would end in the same way.
    about_model = returncode == 1 and any(_MODEL_FAULT.search(line) for line in child.tail)
    return rejected(server.parent, reason, "model" if about_model else "died", returncode)
