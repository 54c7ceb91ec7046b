"""Statistics of comparisons: pairs, intervals, verdicts.

`verdict` compares two arms of a table of cells; everything else here is what it rests on.
"""

from noa_lab.experiments.statistics._margin import DEFAULT_MARGIN
from noa_lab.experiments.statistics._verdict import Verdict, verdict

__all__ = ["DEFAULT_MARGIN", "Verdict", "verdict"]
