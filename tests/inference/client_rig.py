"""What tests of the client share."""

from __future__ import annotations

import time
from collections.abc import Callable

from noa_lab.inference import CompletionRequest

ASK = CompletionRequest(prompt="x", temperature=0.7, max_tokens=100, stop=["."])


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
