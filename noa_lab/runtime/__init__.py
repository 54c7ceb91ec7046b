"""llama.cpp on this machine: built, found, verified.

The model that a runtime is verified with comes in as an argument: nothing here knows the catalogue.
"""

from noa_lab.runtime._bindings import bindings_linked, link_bindings
from noa_lab.runtime._install import install
from noa_lab.runtime._lock import exclusive
from noa_lab.runtime._machine import Machine, machine
from noa_lab.runtime._pins import PIN, PROGRAMS, Pin
from noa_lab.runtime._process import PATIENT_THREADS
from noa_lab.runtime._pypi import download_distribution
from noa_lab.runtime._runtime import Runtime
from noa_lab.runtime._smoke import SmokeResult, smoke_test
from noa_lab.runtime._source import check_disk
from noa_lab.runtime._store import current, embedded, runtimes

__all__ = [
    "PATIENT_THREADS",
    "PIN",
    "PROGRAMS",
    "Machine",
    "Pin",
    "Runtime",
    "SmokeResult",
    "bindings_linked",
    "check_disk",
    "current",
    "download_distribution",
    "embedded",
    "exclusive",
    "install",
    "link_bindings",
    "machine",
    "runtimes",
    "smoke_test",
]
