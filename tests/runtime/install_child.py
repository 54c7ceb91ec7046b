"""An installation or a rollback in a process of its own, to be killed: fake programs, a real trial, real files.

python install_child.py HOME PACKAGE [rollback | FOLDER-OR-ARCHIVE]
"""

from __future__ import annotations

import sys
from pathlib import Path

from runtime_fakes import fake_programs, tiny_source

from noa_lab import runtime
from noa_lab.paths import Home
from noa_lab.runtime import _bindings, _install_source, _install_ways
from noa_lab.runtime._backends import Choice


def main(home: Home, package: Path) -> None:
    def source_folder(pin: object, work: Path, **options: object) -> Path:
        return work / "source" if (work / "source").exists() else tiny_source(work / "source")

    def build(source: Path, folder: Path, *args: object, **options: object) -> Path:
        return fake_programs(folder / "bin")

    _install_ways.choose_backend = lambda: Choice("cpu", "cpu: a test")
    _install_source.find_toolchain = lambda: None
    _install_source.source_folder = source_folder
    _install_source.build = build
    _bindings.library_folder = lambda: package
    _bindings._try = lambda python, model, cancel: None
    model = home.root / "model.gguf"
    model.write_bytes(b"GGUF")
    print("begin", flush=True)
    what = sys.argv[3] if sys.argv[3:] else "auto"
    found = runtime.rollback(home) if what == "rollback" else runtime.install(home, model=model, source=what)
    print(found.id, flush=True)


if __name__ == "__main__":
    main(Home(Path(sys.argv[1])), Path(sys.argv[2]))
