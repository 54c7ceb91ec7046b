"""How much memory a model takes while it works, and whether that is free.

Three ways, each better than the one before: the file's header (also of a file that is somewhere else), `llama-fit-params`, and what
past loads really took.
"""

from noa_lab.models.memory._find_fit import find_fit, fit_of_file, header_elsewhere, remember_load
from noa_lab.models.memory._fit import Fit, Verdict
from noa_lab.models.memory._loads import Load, past_loads, record_load
from noa_lab.models.memory._parts import DeviceMemory, MemoryParts
from noa_lab.models.memory._prompt_cache import prompt_cache_bytes
from noa_lab.models.memory._settings import CACHE_TYPES, MemorySettings

__all__ = [
    "CACHE_TYPES",
    "DeviceMemory",
    "Fit",
    "Load",
    "MemoryParts",
    "MemorySettings",
    "Verdict",
    "find_fit",
    "fit_of_file",
    "header_elsewhere",
    "past_loads",
    "prompt_cache_bytes",
    "record_load",
    "remember_load",
]
