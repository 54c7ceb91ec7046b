"""How many requests at once bring the most tokens: measured on a real llama-server of its own."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from noa_lab.events import CancelToken
from noa_lab.paths import Home
from noa_lab.server._http import ask_json
from noa_lab.server._serve import serve
from noa_lab.server._settings import ServerSettings
from noa_lab.server._stop import stop_all

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.runtime import Runtime
    from noa_lab.server._server import Server

__all__ = ["measure_slots"]

_CONTEXT = 512
_PROMPT = "Request number {}. Count slowly from one to one hundred, in words:"
_ANSWER_SECONDS = 600.0


def measure_slots(
    runtime: Runtime,
    model: ModelFile,
    settings: ServerSettings,
    choices: Sequence[int],
    *,
    tokens: int,
    rounds: int,
    tell: Callable[[int], None],
    cancel: CancelToken | None,
) -> dict[int, float]:
    """Tokens a second of all requests together, for each number of requests at once; the best of all rounds.

    The server lives in a home of its own, so that it is in nobody's way and is never joined.

    Args:
        runtime: The llama.cpp.
        model: The model.
        settings: Threads and batch; context and slots are chosen here.
        choices: Numbers of requests at once.
        tokens: Tokens that each request generates.
        rounds: How often everything is measured, in another order each time.
        tell: Told the number before it is measured.
        cancel: Gives up.

    Raises:
        ServerExited: When the server cannot be had.
        Cancelled: When `cancel` was.
    """
    wanted = settings.model_copy(update={"slots": max(choices), "context_size": _CONTEXT})
    best = dict.fromkeys(choices, 0.0)
    order = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="noa-lab-tune-") as folder:
        home = Home(Path(folder))
        try:
            server = serve(runtime, model, wanted, home=home, cancel=cancel)
            _ask(server, 0, 1)  # the first request pays for what is made once
            for _ in range(rounds):
                for count in order.sample(list(choices), len(choices)):
                    if cancel is not None:
                        cancel.check("Tuning")
                    tell(count)
                    best[count] = max(best[count], _speed(server, count, tokens))
        finally:
            stop_all(home)  # and wait for it, before its folder goes
    return best


def _speed(server: Server, count: int, tokens: int) -> float:
    with ThreadPoolExecutor(count) as pool:
        start = time.perf_counter()
        written = sum(pool.map(lambda number: _ask(server, number, tokens), range(count)))
        return written / (time.perf_counter() - start)


def _ask(server: Server, number: int, tokens: int) -> int:
    """One request; how many tokens it brought."""
    body = {
        "prompt": _PROMPT.format(number),
        "n_predict": tokens,
        "ignore_eos": True,
        "cache_prompt": False,
        "seed": number,
    }
    answer = ask_json(server.base_url, "/completion", api_key=server.api_key, body=body, timeout=_ANSWER_SECONDS)
    return int(answer["tokens_predicted"])
