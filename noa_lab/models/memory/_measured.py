"""The architectures whose memory was measured for this release."""

from __future__ import annotations

import functools
from pathlib import Path

from noa_lab.config import load_yaml

__all__ = ["MEASURED_FILE", "measured_architectures"]

MEASURED_FILE = Path(__file__).with_name("measured.yaml")


@functools.cache
def measured_architectures() -> frozenset[str]:
    """Their names, as GGUF files give them."""
    return frozenset(load_yaml(MEASURED_FILE).data["architectures"])
