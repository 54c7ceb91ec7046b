"""What tests use in place of the real thing, for speed and for faults: scripted engines and servers.

Each fake is contract-tested against what it imitates; nothing in the product imports this package.
"""

from noa_lab.inference import Reply, ScriptedCall, ScriptedEngine
from noa_lab.testing._fake_server import FakeLlamaServer, Script
from noa_lab.testing._fake_slots import FakeSlots, Faults
from noa_lab.testing._file_server import FileFault, FileServer, Valve
from noa_lab.testing._gguf_shapes import SHAPES, Shape, write_shape
from noa_lab.testing._home import borrowed_home
from noa_lab.testing._hub import FakeHub
from noa_lab.testing._release_api import FakeReleaseApi, Fault, SeenRequest
from noa_lab.testing._release_archives import pack_companion, pack_release

__all__ = [
    "SHAPES",
    "FakeHub",
    "FakeLlamaServer",
    "FakeReleaseApi",
    "FakeSlots",
    "Fault",
    "Faults",
    "FileFault",
    "FileServer",
    "Reply",
    "Script",
    "ScriptedCall",
    "ScriptedEngine",
    "SeenRequest",
    "Shape",
    "Valve",
    "borrowed_home",
    "pack_companion",
    "pack_release",
    "write_shape",
]
