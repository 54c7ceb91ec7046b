"""One llama.cpp on this machine, as its manifest describes it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from noa_lab.errors import UnknownName
from noa_lab.tables import TableList

__all__ = ["Runtime", "RuntimeList"]

_RENAMED = {
    "main": "llama-cli",
    "server": "llama-server",
    "quantize": "llama-quantize",
    "perplexity": "llama-perplexity",
    "imatrix": "llama-imatrix",
    "tokenize": "llama-tokenize",
    "gguf-split": "llama-gguf-split",
    "rpc-server": "ggml-rpc-server",
}
"""llama.cpp's programs before June 2024, and their successors."""


@dataclass(frozen=True, slots=True, repr=False)
class Runtime:
    """A folder with llama.cpp's programs and libraries that has passed the smoke test here.

    Attributes:
        id: Name of its folder under `runtimes/`.
        folder: Where its programs are.
        source: How it came: "sdist" (built from the source inside the llama-cpp-python sdist), "source" (built from source that the user
            gave), "release" (prebuilt), "path" (programs that the user gave, copied), "system" (found here, used where it is).
        tag: llama.cpp's release tag, for example "b11312"; "" where it is not known.
        build_number: llama.cpp's build number as the binary itself reports it.
        commit: llama.cpp's commit (short), as the binary reports it.
        backend: "cpu", "cuda", "metal", ...
        flags: CMake options that it was built with.
        compiler: What compiled it, as the binary reports it.
        threads: Thread count that was fastest in the smoke test; llama-server's default here.
        tools: Names of its programs, without ".exe".
        files: sha256 of every file, by name.
        server_flags: The options its llama-server understands, from `--help`.
        server_switches: Those of them that take no value; some have come to take one over the years.
        url: Where it came from: an address, or a path.
        digests: sha256 of the archives that it came in, by name.
        verified: Whether those digests were checked against a published one; None where it did not come in an archive.
        devices: The devices it sees beside the CPU, from `--list-devices`.
        installed: When it was put in place (ISO 8601, UTC).
        stamps: Size and time of change of its files by name, where they are used in a place that is not the home's.
        marks: What it is used for: "current", "embedded", "previous" (where `rollback` goes); not part of the manifest.
        notes: On what `install` returns: what was tried first and why it is not this; not part of the manifest.
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
    server_switches: tuple[str, ...] = ()
    url: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    verified: bool | None = None
    devices: tuple[str, ...] = ()
    installed: str = field(default="", compare=False)
    stamps: dict[str, str] = field(default_factory=dict)
    marks: tuple[str, ...] = field(default=(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        """What it is, in a line; `as_dict` has all of it."""
        marks = f"; {', '.join(self.marks)}" if self.marks else ""
        what = f"llama.cpp {self.tag or f'build {self.build_number}'}, {self.backend}, from {self.source}, {self.threads} threads"
        return f"<Runtime {self.id}: {what}{marks}>"

    def tool(self, name: str) -> Path:
        """Path of one of its programs, for example "llama-quantize".

        The names of 2023 ("quantize", "main", "server") mean their successors; where a runtime is that old, the present names mean them.

        Raises:
            UnknownName: When this runtime has no such program.
        """
        plain = name.removesuffix(".exe")
        older = [old for old, new in _RENAMED.items() if new == plain]
        found = next((each for each in (plain, _RENAMED.get(plain, ""), *older) if each in self.tools), None)
        if found is None:
            raise UnknownName.among("program", name, self.tools, where=f"runtime {self.id}")
        return self.folder / (f"{found}.exe" if os.name == "nt" else found)

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {**asdict(self), "folder": str(self.folder)}

    def manifest(self) -> dict[str, Any]:
        """What is kept about it in its folder, ready for JSON."""
        return {name: value for name, value in self.as_dict().items() if name not in {"marks", "notes"}}


class RuntimeList(TableList[Runtime]):
    """The llama.cpp builds of a home; a table in a notebook, and `pandas.DataFrame` takes it."""

    _heads = ("Runtime", "Used as", "Release", "Build", "Commit", "Backend", "Came from", "Threads")
    _short = ("Runtime", "Used as", "Release", "Backend", "Came from", "Threads")
    _empty = "No llama.cpp is installed yet: lab.install() gets one."

    def _cells(self, row: Runtime) -> tuple[object, ...]:
        marks = ", ".join(row.marks)
        return (row.id, marks, row.tag, row.build_number, row.commit, row.backend, row.source, row.threads)
