"""Statistics of comparisons: pairs, intervals, verdicts, and how many inputs they need.

`verdict` compares two arms of a table of cells, `verdicts` several; everything else here is what these rest on.
"""

from noa_lab.experiments.statistics._compare import ScoreFacts, verdict, verdicts
from noa_lab.experiments.statistics._judged import Judged
from noa_lab.experiments.statistics._margin import DEFAULT_MARGIN
from noa_lab.experiments.statistics._pilot import plan_from
from noa_lab.experiments.statistics._power import InputPlan, plan_inputs
from noa_lab.experiments.statistics._verdict import Verdict, Verdicts

__all__ = [
    "DEFAULT_MARGIN",
    "InputPlan",
    "Judged",
    "ScoreFacts",
    "Verdict",
    "Verdicts",
    "plan_from",
    "plan_inputs",
    "verdict",
    "verdicts",
]
