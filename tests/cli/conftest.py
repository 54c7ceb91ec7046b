"""The `noa-lab` command as a user runs it: a process of its own, in a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def noa_lab(home, tmp_path) -> Run:
    def run(*arguments: object, timeout: float = 200) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "noa_lab.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=tmp_path, env=os.environ)

    return run
