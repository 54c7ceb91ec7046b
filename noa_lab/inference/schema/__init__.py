"""From a JSON Schema to a GBNF grammar that only lets valid JSON through.

What a grammar cannot hold an answer to is refused by its keyword; llama.cpp's own converter skips it without a word.
"""

from noa_lab.inference.schema._compile import schema_grammar
from noa_lab.inference.schema._validate import schema_fault

__all__ = ["schema_fault", "schema_grammar"]
