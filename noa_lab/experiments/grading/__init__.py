"""Grading: the scorers that ask a model run here, after the answers are there.

What has been graded is kept with the answers, so that a run that was paused or killed goes on where it stopped.
"""

from noa_lab.experiments.grading._cases import check_graders, grader_models, is_graded, kept_grades
from noa_lab.experiments.grading._stage import Grading

__all__ = ["Grading", "check_graders", "grader_models", "is_graded", "kept_grades"]
