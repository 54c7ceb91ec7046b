"""Many questions at once: what their prompts share is evaluated once, and as many answers as pay off grow side by side."""

from noa_lab.inference.batch._lanes import LOST, Lanes
from noa_lab.inference.batch._prefixes import SHORTEST, Prefixes, Trunk, packed
from noa_lab.inference.batch._questions import BatchEngine, BatchFacts, BatchQuestion, BatchSink, Windows
from noa_lab.inference.batch._speeds import Speeds

__all__ = [
    "LOST",
    "SHORTEST",
    "BatchEngine",
    "BatchFacts",
    "BatchQuestion",
    "BatchSink",
    "Lanes",
    "Prefixes",
    "Speeds",
    "Trunk",
    "Windows",
    "packed",
]
