"""What users write in files, typed: server.yaml, comparison files, the values inside them.

Everything here refuses unknown keys with the nearest known one, and says file and line.
"""

from noa_lab.config._environment import with_environment
from noa_lab.config._strict import Fault, StrictModel, explain, find_fault
from noa_lab.config._yaml import YamlDocument, load_yaml, parse_yaml, validate_yaml

__all__ = [
    "Fault",
    "StrictModel",
    "YamlDocument",
    "explain",
    "find_fault",
    "load_yaml",
    "parse_yaml",
    "validate_yaml",
    "with_environment",
]
