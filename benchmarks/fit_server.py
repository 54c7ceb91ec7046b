"""A real llama-server whose peak memory is read, at its start and at work."""

from __future__ import annotations

import json
import re
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from noa_lab.models.memory import MemorySettings
from noa_lab.runtime import Runtime, clean_environment
from noa_lab.runtime._process import Child

_LISTENING = re.compile(r"listening on http://[^ ]*?:(\d+)")


def peak_of_server(
    runtime: Runtime, path: Path, settings: MemorySettings, *, load_mode: str = "none", work: bool = True
) -> tuple[int, int]:
    """Peak resident memory in bytes: right after the load, and after every slot has read a prompt that fills its context."""
    with tempfile.TemporaryDirectory(prefix="fit-server-") as private:
        environment = clean_environment(Path(private))
        with Child([runtime.tool("llama-server"), *_arguments(path, settings, load_mode)], env=environment) as child:
            port = next((int(match[1]) for line in child.lines() if (match := _LISTENING.search(line))), 0)
            assert port, "\n".join(child.tail)
            _until_healthy(port)
            process = _server_below()
            start = _peak(process.pid)
            if work:
                with ThreadPoolExecutor(settings.slots) as pool:
                    list(pool.map(lambda slot: _fill(port, slot, settings), range(settings.slots)))
            return start, _peak(process.pid)


def _arguments(path: Path, settings: MemorySettings, load_mode: str) -> list[str]:
    return [
        *("-m", str(path), "--host", "127.0.0.1", "--port", "0", "--offline", "--no-ui", "-fit", "off"),
        *("-c", str(settings.context_size * settings.slots), "-np", str(settings.slots), "-no-kvu", "-t", "2"),
        *("-ctk", settings.cache_type_k, "-ctv", settings.cache_type_v, "-fa", settings.flash_attention),
        *("--load-mode", load_mode, "--cache-ram", "0"),
    ]


def _until_healthy(port: int, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError


def _server_below() -> psutil.Process:
    """The server, which has a guard between it and this process."""
    below = psutil.Process().children(recursive=True)
    return next(each for each in below if "llama-server" in each.name())


def _fill(port: int, slot: int, settings: MemorySettings) -> None:
    """A prompt as long as the slot's context, less the 8 tokens of the answer."""
    tokens = [300 + (slot + position) % 200 for position in range(settings.context_size - 9)]
    body = {"prompt": tokens, "n_predict": 8, "id_slot": slot, "ignore_eos": True, "temperature": 0.0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=1200) as answer:
        assert json.load(answer)["timings"]["prompt_n"] > settings.context_size // 2


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
