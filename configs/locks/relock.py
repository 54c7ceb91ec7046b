"""Write the lock files from pyproject.toml with `uv pip compile`: versions and hashes for every platform, no addresses."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent / "pyproject.toml"
COMPILE = [
    *("uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-emit-index-url", "--no-annotate"),
    *("--no-header", "--python-version", "3.11", "--group", f"{PROJECT}:build", str(PROJECT)),
]
BINDINGS = "llama-cpp-python"


def main() -> None:
    """Compile core.txt and test.txt, and move the bindings into a file of their own."""
    for name, extra in (("core", []), ("test", ["--extra", "test"])):
        text = subprocess.run([*COMPILE, *extra], check=True, capture_output=True, text=True).stdout
        blocks = re.split(r"(?m)^(?=\S)", text)
        own = [block for block in blocks if block.startswith(f"{BINDINGS}==")]
        (HERE / f"{name}.txt").write_text("".join(block for block in blocks if block not in own), encoding="utf-8")
        (HERE / "bindings.txt").write_text("".join(own), encoding="utf-8")


if __name__ == "__main__":
    main()
