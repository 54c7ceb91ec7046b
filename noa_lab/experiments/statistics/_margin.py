"""The smallest difference that matters, where nobody says otherwise."""

from __future__ import annotations

__all__ = ["DEFAULT_MARGIN"]

DEFAULT_MARGIN = 0.05
"""In units of the score: five percentage points of a 0/1 score."""
