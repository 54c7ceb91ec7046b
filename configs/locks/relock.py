"""Write the lock files from pyproject.toml with `uv pip compile`: versions and hashes for every platform, no addresses.

python configs/locks/relock.py              keep the locked versions, add what is new
python configs/locks/relock.py --upgrade    take the newest of everything
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent / "pyproject.toml"
COMPILE = [
    *("uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-emit-index-url", "--no-annotate"),
    *("--no-header", "--python-version", "3.11", "--group", f"{PROJECT}:build", str(PROJECT)),
]
BINDINGS = "llama-cpp-python"


def compiled(name: str, extra: list[str]) -> str:
    """One lock, with the bindings in it; uv keeps the versions that it finds in its output file."""
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "lock.txt"
        if "--upgrade" not in sys.argv:
            lock.write_text((HERE / f"{name}.txt").read_text() + (HERE / "bindings.txt").read_text(), encoding="utf-8")
        subprocess.run([*COMPILE, *extra, "--output-file", str(lock)], check=True, stdout=subprocess.DEVNULL)
        return lock.read_text(encoding="utf-8")


def main() -> None:
    """Compile core.txt and test.txt, and move the bindings into a file of their own."""
    for name, extra in (("core", []), ("test", ["--extra", "test"])):
        text = compiled(name, extra)
        blocks = re.split(r"(?m)^(?=\S)", text)
        own = [block for block in blocks if block.startswith(f"{BINDINGS}==")]
        (HERE / f"{name}.txt").write_text("".join(block for block in blocks if block not in own), encoding="utf-8")
        (HERE / "bindings.txt").write_text("".join(own), encoding="utf-8")


if __name__ == "__main__":
    main()
