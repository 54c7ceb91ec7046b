"""Every check of noa_lab in one command: style, types, layers, tests, notebooks, browser.

    python lab.py test [--full] [--no-browser]

`--full` adds the long kill, fault and fuzz matrices. Under CI=true nothing may be skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM_PACKAGES = ("chromium", "fonts-dejavu-core", "fonts-liberation")
SECOND_HALF = ("experiments", "inference", "server", "widgets")
CI = os.environ.get("CI") == "true"


def module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def halves() -> tuple[list[str], list[str]]:
    """The folders of tests in two parts that take about as long."""
    second = [f"tests/{name}" for name in SECOND_HALF]
    rooms = sorted(each for each in (ROOT / "tests").iterdir() if each.is_dir() and any(each.glob("**/test_*.py")))
    return [name for name in (f"tests/{room.name}" for room in rooms) if name not in second], second


def steps(*, full: bool, browser: bool) -> dict[str, list[str]]:
    """The commands by title, cheapest first; those with "1 of 2" and "2 of 2" run side by side."""
    first, second = halves()
    chosen = {
        "Style (ruff check)": module("ruff", "check", "."),
        "Format (ruff format)": module("ruff", "format", "--check", "."),
        "Types (mypy --strict)": module("mypy"),
        "Layers (import-linter)": [shutil.which("lint-imports") or "lint-imports", "--no-cache"],
        "Tests, 1 of 2 (pytest)": module("pytest", "-q", "-m", "not full and not browser", *first),
        "Tests, 2 of 2 (pytest)": module("pytest", "-q", "-m", "not full and not browser", *second),
        "Notebooks (nbmake)": module("pytest", "-q", "--nbmake", "--nbmake-timeout=600", "--timeout=900", "notebooks"),
    }
    if browser:
        chosen["Browser (JupyterLab in Chromium)"] = module("pytest", "-q", "-m", "browser and not full")
    if full:
        chosen["The long matrices (pytest -m full)"] = module("pytest", "-q", "-m", "full", "--timeout=3600")
    return chosen


def find_chromium() -> bool:
    """Whether there is a Chromium; installs Debian's when this is root on Debian, saying so first."""
    if shutil.which("chromium"):
        return True
    command = ["apt-get", "install", "-y", "--no-install-recommends", *CHROMIUM_PACKAGES]
    if not (shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0):
        print(f"! The browser tests are skipped: no Chromium. On Debian: sudo {' '.join(command)}", flush=True)
        return False
    print(f"· The browser tests need Chromium; installing Debian's: {' '.join(command)}", flush=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update"], command):
        done = subprocess.run(step, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            print(done.stdout.decode(errors="replace")[-2000:], flush=True)
            return False
    return shutil.which("chromium") is not None


@contextmanager
def own_home() -> Iterator[dict[str, str]]:
    """The environment for notebooks: their runs, servers and models go into a home that is deleted afterwards."""
    from noa_lab.paths import Home
    from noa_lab.testing import borrowed_home

    with tempfile.TemporaryDirectory(prefix="noa-lab-notebooks-") as place:
        home = borrowed_home(Path(place) / "home", Home.default())
        yield {**os.environ, "NOA_LAB_HOME": str(home.root)}


def run_all(commands: dict[str, list[str]]) -> list[str]:
    """Run them one after the other; returns the titles of those that failed.

    The second half of the tests runs beside the first, as both mostly wait; its output comes when the first is through.
    """
    failed = []
    beside: subprocess.Popen[bytes] | None = None
    with tempfile.TemporaryFile() as kept:
        try:
            for title, command in commands.items():
                began = time.monotonic()
                print(f"\n=== {title}", flush=True)
                if "1 of 2" in title:
                    other = next(each for name, each in commands.items() if "2 of 2" in name)
                    beside = subprocess.Popen(
                        other, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=kept, stderr=subprocess.STDOUT
                    )
                if "2 of 2" in title and beside is not None:
                    code = beside.wait()
                    kept.seek(0)
                    print(kept.read().decode(errors="replace"), flush=True)
                elif title.startswith("Notebooks"):
                    with own_home() as env:
                        code = subprocess.call(command, cwd=ROOT, stdin=subprocess.DEVNULL, env=env)
                else:
                    code = subprocess.call(command, cwd=ROOT, stdin=subprocess.DEVNULL)
                outcome = "ok" if code == 0 else f"FAILED (exit code {code})"
                print(f"=== {title}: {outcome} in {time.monotonic() - began:.0f} s", flush=True)
                if code:
                    failed.append(title)
        finally:
            if beside is not None and beside.poll() is None:
                beside.terminate()
                beside.wait()
    return failed


def main() -> int:
    # A shell that starts this in the background has it ignore Ctrl-C, and what is ignored is inherited: tests of interrupts need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    full, no_browser = "--full" in sys.argv, "--no-browser" in sys.argv
    unknown = [argument for argument in sys.argv[1:] if argument not in ("--full", "--no-browser")]
    if unknown:
        print(f"unknown: {' '.join(unknown)}\n{__doc__}")
        return 2
    skipped = []
    if no_browser:
        skipped.append("browser tests (--no-browser)")
    elif not find_chromium():
        skipped.append("browser tests (no Chromium)")
    start = time.monotonic()
    failed = run_all(steps(full=full, browser=not skipped))
    print(f"\nAll checks took {time.monotonic() - start:.0f} s.")
    for what in skipped:
        print(f"Skipped: {what}")
    if failed:
        print(f"Failed: {'; '.join(failed)}")
    if skipped and CI:
        print("Under CI=true nothing may be skipped.")
    return 1 if failed or (skipped and CI) else 0


if __name__ == "__main__":
    sys.exit(main())
