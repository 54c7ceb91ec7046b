"""A model on llama-cpp-python, in a child process of its own.

`_engine` and `_process` are the parent's side; `_child` is the program of the child, and `_model`, `_sampler`, `_vectors` what it does.
"""

from noa_lab.inference.embedded._engine import EmbeddedEngine

__all__ = ["EmbeddedEngine"]
