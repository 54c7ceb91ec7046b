"""llama.cpp on this machine: built, found, verified.

The model that a runtime is verified with comes in as an argument: nothing here knows the catalogue.
"""

from noa_lab.runtime._runtime import Runtime

__all__ = ["Runtime"]
