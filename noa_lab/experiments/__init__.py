"""Comparisons: prompts x inputs x models x sampling x repeats, run, stored, scored and judged.

`Grid` says what to run, `start` runs it, `Run` is how it is watched, continued and asked for a verdict; `Store` keeps every answer.
"""

from noa_lab.experiments import score
from noa_lab.experiments._comparison_file import Comparison, load_comparison
from noa_lab.experiments._estimate import Estimate, estimate
from noa_lab.experiments._run import Run
from noa_lab.experiments._run_start import RunList, RunSummary, list_runs, open_run, start
from noa_lab.experiments.execution._budget import Budget
from noa_lab.experiments.execution._identity import IdentityFor
from noa_lab.experiments.execution._plan import Plan
from noa_lab.experiments.execution._tally import RunProgress
from noa_lab.experiments.execution._wish import EngineFor, EngineWish, Requested
from noa_lab.experiments.grading import grader_models
from noa_lab.experiments.grid._cells import Cell
from noa_lab.experiments.grid._grid import Grid
from noa_lab.experiments.grid._inputs import Input, load_inputs
from noa_lab.experiments.grid._prompt_files import load_prompts
from noa_lab.experiments.grid._prompts import Prompt
from noa_lab.experiments.grid._templates import Template
from noa_lab.experiments.promptfoo import Imported, import_promptfoo
from noa_lab.experiments.report import (
    RunFacts,
    summary_table,
    write_csv,
    write_markdown,
    write_parquet,
    write_report,
)
from noa_lab.experiments.score._base import Scorer
from noa_lab.experiments.score._specs import scorer_from_spec
from noa_lab.experiments.statistics import (
    DEFAULT_MARGIN,
    InputPlan,
    Verdict,
    Verdicts,
    plan_from,
    plan_inputs,
    verdict,
    verdicts,
)
from noa_lab.experiments.store._archive import export_run, import_run
from noa_lab.experiments.store._labels import delete, purge, restore
from noa_lab.experiments.store._store import Store

__all__ = [
    "DEFAULT_MARGIN",
    "Budget",
    "Cell",
    "Comparison",
    "EngineFor",
    "EngineWish",
    "Estimate",
    "Grid",
    "IdentityFor",
    "Imported",
    "Input",
    "InputPlan",
    "Plan",
    "Prompt",
    "Requested",
    "Run",
    "RunFacts",
    "RunList",
    "RunProgress",
    "RunSummary",
    "Scorer",
    "Store",
    "Template",
    "Verdict",
    "Verdicts",
    "delete",
    "estimate",
    "export_run",
    "grader_models",
    "import_promptfoo",
    "import_run",
    "list_runs",
    "load_comparison",
    "load_inputs",
    "load_prompts",
    "open_run",
    "plan_from",
    "plan_inputs",
    "purge",
    "restore",
    "score",
    "scorer_from_spec",
    "start",
    "summary_table",
    "verdict",
    "verdicts",
    "write_csv",
    "write_markdown",
    "write_parquet",
    "write_report",
]
