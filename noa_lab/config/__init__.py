"""What users write in files, typed: server.yaml, comparison files, the values inside them.

Everything here refuses unknown keys with the nearest known one, and says file and line.
"""

from noa_lab.config._strict import StrictModel, explain

__all__ = ["StrictModel", "explain"]
