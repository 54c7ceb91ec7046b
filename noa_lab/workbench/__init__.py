"""The Lab: the verbs (check, install, serve, compare, ...) that tie the rooms together.

One Lab is one home folder. The verbs at the top of `noa_lab` are the default Lab's.
"""

from noa_lab.workbench._check import Finding, Report
from noa_lab.workbench._lab import Lab, default_lab

__all__ = ["Finding", "Lab", "Report", "default_lab"]
