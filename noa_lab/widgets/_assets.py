"""The browser's half of the panels, joined from the files in static/: one module without imports, so that it runs anywhere."""

from __future__ import annotations

from importlib import resources

__all__ = ["CSS", "ESM"]

_FOLDER = resources.files("noa_lab.widgets") / "static"
_MODULES = ("dom.js", "blocks.js", "csv.js", "table.js", "panel.js")

ESM = "\n".join((_FOLDER / name).read_text("utf-8") for name in _MODULES)
"""The module that draws every panel."""

CSS = (_FOLDER / "panel.css").read_text("utf-8")
"""How every panel looks."""
