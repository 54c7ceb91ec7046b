"""A model on llama-cpp-python, in a child process of its own.

`_engine` and `_process` are the parent's side; `_child` is the program of the child, and `_model`, `_sampler`, `_vectors` what it does.
`_template` renders conversations by a model's own chat template.
Many answers at once: `_tree` is the parent's side, `_tree_child` the program, `_growth` its work on `_tree_model`.
"""

from noa_lab.inference.embedded._engine import EmbeddedEngine
from noa_lab.inference.embedded._template import ChatTemplate
from noa_lab.inference.embedded._tree import TreeEngine

__all__ = ["ChatTemplate", "EmbeddedEngine", "TreeEngine"]
