"""Answers recorded from an engine and played back without it.

A cassette is a JSON Lines file: its first line says what was recorded, each further line holds one question and what came of it.
"""

from noa_lab.inference.cassette._engine import CassetteEngine

__all__ = ["CassetteEngine"]
