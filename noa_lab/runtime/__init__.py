"""llama.cpp on this machine: prebuilt, built, found; verified before it is used, and replaceable.

The model that a runtime is verified with comes in as an argument: nothing here knows the catalogue.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from noa_lab.runtime._advisories import Advice, advice_for, is_loopback, refuse_known_bad
from noa_lab.runtime._backends import Choice, Gpu, choose_backend
from noa_lab.runtime._bindings import bindings_linked, bindings_ready, link_bindings
from noa_lab.runtime._free_memory import FreeMemory, free_memory
from noa_lab.runtime._install import install
from noa_lab.runtime._libraries import beside_first
from noa_lab.runtime._lock import exclusive
from noa_lab.runtime._machine import Machine, machine
from noa_lab.runtime._options import DEFAULTS, InstallOptions, spelled_out
from noa_lab.runtime._pins import PIN, PROGRAMS, Pin
from noa_lab.runtime._plan import InstallPlan, Obstacle, plan_install
from noa_lab.runtime._process import Finished, clean_environment, run, with_patient_threads
from noa_lab.runtime._runtime import Runtime, RuntimeList
from noa_lab.runtime._store import current, embedded, rollback, runtimes
from noa_lab.runtime._tool import run_tool
from noa_lab.runtime._wish import OPTIONS_OF, WAYS

if TYPE_CHECKING:
    from noa_lab.runtime._pypi import download_distribution
    from noa_lab.runtime._smoke import SmokeResult, smoke_test

_LATER = {"SmokeResult": "_smoke", "download_distribution": "_pypi", "smoke_test": "_smoke"}
"""What only an installation needs, and where it is; loaded when it is first used."""

__all__ = [
    "DEFAULTS",
    "OPTIONS_OF",
    "PIN",
    "PROGRAMS",
    "WAYS",
    "Advice",
    "Choice",
    "Finished",
    "FreeMemory",
    "Gpu",
    "InstallOptions",
    "InstallPlan",
    "Machine",
    "Obstacle",
    "Pin",
    "Runtime",
    "RuntimeList",
    "SmokeResult",
    "advice_for",
    "beside_first",
    "bindings_linked",
    "bindings_ready",
    "choose_backend",
    "clean_environment",
    "current",
    "download_distribution",
    "embedded",
    "exclusive",
    "free_memory",
    "install",
    "is_loopback",
    "link_bindings",
    "machine",
    "plan_install",
    "refuse_known_bad",
    "rollback",
    "run",
    "run_tool",
    "runtimes",
    "smoke_test",
    "spelled_out",
    "with_patient_threads",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"noa_lab.runtime.{_LATER[name]}"), name)
    raise AttributeError(f"module 'noa_lab.runtime' has no attribute {name!r}")
