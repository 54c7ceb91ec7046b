"""How much llama-server itself takes, beside the buffers that llama.cpp tells of.

Measured on Linux, x86-64, with a CPU build of b11312, on models of 1,000 to 262,144 tokens and 2 to 80 layers (`benchmarks/fit.py
program` repeats it): code and heap 19 MiB; the vocabulary with its merges about 250 bytes for each token; 80 kB for each layer; 7 MiB
more once all slots are at work.
"""

from __future__ import annotations

from noa_lab.models.memory._layout import Layout

__all__ = ["TOUCHED_AT_START", "WORKING_BYTES", "program_bytes"]

_CODE_BYTES = 20_000_000
_TOKEN_BYTES = 250
_LAYER_BYTES = 80_000

WORKING_BYTES = 7_000_000
"""What it takes more once it works than right after its start."""

TOUCHED_AT_START = 0.25
"""Share of the compute buffer that is in memory right after the start: memory that was never written to is not there yet."""


def program_bytes(layout: Layout) -> int:
    """Bytes of llama-server itself while it works with this model."""
    return _CODE_BYTES + WORKING_BYTES + _TOKEN_BYTES * layout.vocabulary + _LAYER_BYTES * layout.blocks
