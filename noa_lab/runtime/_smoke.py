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
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noa_lab.errors import RuntimeRejected
from noa_lab.events import CancelToken
from noa_lab.runtime._process import Child, clean_environment, describe_exit, run

__all__ = ["SmokeResult", "fastest_threads", "program", "smoke_test", "try_bindings"]

_START_SECONDS = 120.0
_ANSWER_SECONDS = 120.0
_TOKENS = 8
_LISTENING = re.compile(r"listening on (?:http://)?[^ ]*?:(\d+)\s*$")
_VERSION = re.compile(r"\(build (\d+), commit ([0-9a-f]+|unknown)\)")
_OLD_VERSION = re.compile(r"version: (\d+) \(([0-9a-f]+|unknown)\)")
_COMPILER = re.compile(r"built with (.+)")
_FLAG = re.compile(r"(--?[a-zA-Z][\w-]*),?")


@dataclass(frozen=True, slots=True)
class SmokeResult:
    """What the trial found.

    Attributes:
        build_number: llama.cpp's build number by the binary's own word.
        commit: Its commit, short.
        compiler: What compiled it.
        server_flags: The options that its llama-server understands.
        seconds: How long the server took from its start to the last of 8 tokens.
    """

    build_number: int
    commit: str
    compiler: str
    server_flags: tuple[str, ...]
    seconds: float


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
        raise _rejected(folder, f"there is no {server.name} in it", "no program")
    private = Path(tempfile.mkdtemp(prefix="noa-lab-smoke-"))
    try:
        environment = clean_environment(private)
        number, commit, compiler = _version(server, environment, cancel)
        flags = _flags(server, environment, cancel)
        started = time.monotonic()
        _try_server(server, model, private, start_seconds, answer_seconds, cancel)
        return SmokeResult(number, commit, compiler, flags, time.monotonic() - started)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _version(server: Path, environment: dict[str, str], cancel: CancelToken | None) -> tuple[int, str, str]:
    text = _ask(server, "--version", environment, cancel)
    match = _VERSION.search(text) or _OLD_VERSION.search(text)
    if match is None:
        shown = text.strip().splitlines()[0][:200] if text.strip() else "nothing"
        raise _rejected(
            server.parent, f"`{server.name} --version` printed {shown!r}, which names no build", "foreign version"
        )
    compiler = _COMPILER.search(text)
    return int(match[1]), match[2], compiler[1].strip() if compiler else ""


def _flags(server: Path, environment: dict[str, str], cancel: CancelToken | None) -> tuple[str, ...]:
    found: set[str] = set()
    for line in _ask(server, "--help", environment, cancel).splitlines():
        # The options come first in a line ("-t,    --threads N"), then what they do.
        for word in line.split() if line.startswith("-") else ():
            match = _FLAG.fullmatch(word)
            if match is None:
                break
            found.add(match[1])
    return tuple(sorted(found))


def _ask(server: Path, option: str, environment: dict[str, str], cancel: CancelToken | None) -> str:
    seconds = 30.0
    lines: list[str] = []
    done = run([server, option], env=environment, seconds=seconds, on_line=lines.append, cancel=cancel)
    if done.timed_out:
        raise _rejected(server.parent, f"`{server.name} {option}` hung for {seconds:.0f} s", "hang")
    if done.returncode != 0:
        reason = f"`{server.name} {option}`: {describe_exit(done.returncode)}{_last_words(done.tail)}"
        raise _rejected(server.parent, reason, "died", done.returncode)
    return "\n".join(lines)


def _try_server(
    server: Path, model: Path, private: Path, start_seconds: float, answer_seconds: float, cancel: CancelToken | None
) -> None:
    key = secrets.token_urlsafe(24)
    # One thread: the trial is about what works, and on a busy machine several would wait for each other.
    listen = ["--host", "127.0.0.1", "--port", "0", "--offline", "--no-ui", "--cors-origins", "localhost"]
    options = [*listen, "-c", "512", "-np", "1", "-t", "1", "-tb", "1"]
    with Child(
        [server, "-m", model, *options], env=clean_environment(private, LLAMA_API_KEY=key), cwd=private
    ) as child:
        port = _await_port(child, server, start_seconds, cancel)
        _ask_server(child, server, port, key, answer_seconds)


def _await_port(child: Child, server: Path, seconds: float, cancel: CancelToken | None) -> int:
    try:
        for line in child.lines(until=time.monotonic() + seconds, cancel=cancel):
            match = _LISTENING.search(line)
            if match:
                return int(match[1])
    except TimeoutError:
        raise _rejected(server.parent, f"{server.name} hung: it was not ready after {seconds:.0f} s", "hang") from None
    raise _died(child, server, "while it loaded the model")


def _ask_server(child: Child, server: Path, port: int, key: str, seconds: float) -> None:
    request = {
        "prompt": "Once upon a time",
        "n_predict": _TOKENS,
        "temperature": 0.0,
        "seed": 1,
        "cache_prompt": False,
        "ignore_eos": True,
    }
    try:
        answer = _http(port, key, "/completion", request, seconds)
        props = _http(port, key, "/props", None, seconds)
    except TimeoutError:
        raise _rejected(server.parent, f"{server.name} hung: no answer after {seconds:.0f} s", "hang") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        try:
            child.wait(2)
        except Exception:
            raise _rejected(server.parent, f"{server.name} answered wrongly: {error}", "wrong answer") from None
        raise _died(child, server, "when it was asked for 8 tokens") from None
    text, count = answer.get("content"), answer.get("tokens_predicted")
    if not isinstance(text, str) or not text or count != _TOKENS:
        raise _rejected(
            server.parent, f"{server.name} was asked for {_TOKENS} tokens and gave {count}: {text!r}", "wrong answer"
        )
    if "build_info" not in props:
        raise _rejected(server.parent, f"{server.name} does not say what it is in /props", "wrong answer")


def _http(port: int, key: str, path: str, body: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
    # http.client knows nothing of proxies: loopback stays loopback.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
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
    reason = f"{server.name} {when}: {describe_exit(returncode)}{_last_words(tuple(child.tail))}"
    return _rejected(server.parent, reason, "died", returncode)


def _last_words(lines: tuple[str, ...]) -> str:
    telling = [line for line in lines if re.search(r"error|fail|cannot|not found|abort", line, re.IGNORECASE)] or list(
        lines
    )
    return f" ({telling[-1].strip()[:300]})" if telling else ""


def _rejected(folder: Path, reason: str, kind: str, returncode: int = 0) -> RuntimeRejected:
    import signal

    name = signal.Signals(-returncode).name if returncode < 0 and -returncode in set(signal.Signals) else ""
    return RuntimeRejected(
        f"The llama.cpp in {folder} does not work here: {reason}.",
        fix="Install another build; `noa-lab check` shows what this machine can run.",
        reason=reason,
        kind=kind,
        signal=name,
        path=str(folder),
    )


def fastest_threads(folder: Path, model: Path, cores: int, *, cancel: CancelToken | None = None) -> int:
    """Which thread count is fastest on this machine, measured with llama-bench on the small model.

    A core more is not always faster: two noisy virtual cores were once seven times slower than one.

    Args:
        folder: llama.cpp's programs.
        model: A small GGUF file.
        cores: Cores that may be used.
        cancel: Ends the measurement.

    Returns:
        Of 1, 2, 4, ... and `cores`, the one with the least time for 32 prompt tokens and 16 generated ones. The best of 3 runs
        counts for each, because other programs only ever make a run slower.

    Raises:
        RuntimeRejected: When llama-bench dies, hangs or prints no numbers.
        Cancelled: When `cancel` was.
    """
    choices = sorted({1, cores, *(2**power for power in range(1, cores.bit_length()) if 2**power <= cores)})
    if choices == [1]:
        return 1
    bench = program(folder, "llama-bench")
    private = Path(tempfile.mkdtemp(prefix="noa-lab-bench-"))
    try:
        counts = ",".join(map(str, choices))
        command = [str(bench), "-m", str(model), "-t", counts, *["-p", "32", "-n", "16"], *["-r", "3", "-o", "jsonl"]]
        done = run(command, env=clean_environment(private), seconds=120, cancel=cancel)
    finally:
        shutil.rmtree(private, ignore_errors=True)
    if done.returncode != 0 or done.timed_out:
        how = "it hung" if done.timed_out else describe_exit(done.returncode)
        raise _rejected(folder, f"{bench.name}: {how}{_last_words(done.tail)}", "died", done.returncode)
    seconds = dict.fromkeys(choices, 0.0)
    for line in done.tail:
        if line.startswith("{"):
            row = json.loads(line)
            seconds[row["n_threads"]] += min(row["samples_ns"]) / 1e9
    if not all(seconds.values()):
        raise _rejected(folder, f"{bench.name} printed no times", "wrong answer")
    return min(choices, key=lambda count: seconds[count])


def try_bindings(python: Path, model: Path, *, cancel: CancelToken | None = None) -> None:
    """Import `llama_cpp` in a child Python, load the model, generate one token.

    Args:
        python: The Python whose bindings are tried.
        model: A small GGUF file.
        cancel: Ends the trial.

    Raises:
        RuntimeRejected: When the child dies or the token does not come.
        Cancelled: When `cancel` was.
    """
    code = (
        "import sys, llama_cpp\n"
        "model = llama_cpp.Llama(sys.argv[1], n_ctx=64, n_threads=1, verbose=False)\n"
        "print('tokens', model.create_completion('Once upon', max_tokens=1)['usage']['completion_tokens'])\n"
    )
    private = Path(tempfile.mkdtemp(prefix="noa-lab-bindings-"))
    try:
        done = run([python, "-c", code, model], cwd=private, env=clean_environment(private), seconds=120, cancel=cancel)
    finally:
        shutil.rmtree(private, ignore_errors=True)
    if done.returncode != 0 or done.timed_out or "tokens 1" not in done.text:
        how = "it hung" if done.timed_out else describe_exit(done.returncode)
        raise _rejected(
            Path(python), f"`import llama_cpp` and one token: {how}{_last_words(done.tail)}", "died", done.returncode
        )
