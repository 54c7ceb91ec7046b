"""One llama.cpp on this machine, as its manifest describes it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from noa_lab.errors import UnknownName

__all__ = ["Runtime"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A folder with llama.cpp's programs and libraries that has passed the smoke test here.

    Attributes:
        id: Name of its folder under `runtimes/`.
        folder: Where its programs are.
        source: How it came: "sdist" (built from the source inside the llama-cpp-python sdist), later also "release", "system", "path".
        tag: llama.cpp's release tag, for example "b11312".
        build_number: llama.cpp's build number as the binary itself reports it.
        commit: llama.cpp's commit (short), as the binary reports it.
        backend: "cpu", "cuda", "metal", ...
        flags: CMake options that it was built with.
        compiler: What compiled it, as the binary reports it.
        threads: Thread count that was fastest in the smoke test; llama-server's default here.
        tools: Names of its programs, without ".exe".
        files: sha256 of every file, by name.
        server_flags: The options its llama-server understands, from `--help`.
    """

    id: str
    folder: Path
    source: str
    tag: str
    build_number: int
    commit: str
    backend: str = "cpu"
    flags: tuple[str, ...] = ()
    compiler: str = ""
    threads: int = 1
    tools: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    server_flags: tuple[str, ...] = ()

    def tool(self, name: str) -> Path:
        """Path of one of its programs, for example "llama-quantize".

        Raises:
            UnknownName: When this runtime has no such program.
        """
        if name not in self.tools:
            raise UnknownName.among("program", name, self.tools, where=f"runtime {self.id}")
        return self.folder / (f"{name}.exe" if os.name == "nt" else name)

    def as_dict(self) -> dict[str, Any]:
        """The manifest, ready for JSON."""
        return {**asdict(self), "folder": str(self.folder)}
