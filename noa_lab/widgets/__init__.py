"""Panels for JupyterLab: set up, get models, launch servers, compare prompts, watch a run.

Every panel is a view of what is true (`lab`, a run), has `.code` for the Python it stands for, and can be read without JavaScript.
"""

from noa_lab.widgets._ask import Ask, load, unload
from noa_lab.widgets._compare import ComparePanel
from noa_lab.widgets._models import ModelPanel
from noa_lab.widgets._panel import Panel
from noa_lab.widgets._run import RunView, show_run
from noa_lab.widgets._server import ServerPanel
from noa_lab.widgets._setup import SetupPanel

__all__ = [
    "Ask",
    "ComparePanel",
    "ModelPanel",
    "Panel",
    "RunView",
    "ServerPanel",
    "SetupPanel",
    "load",
    "show_run",
    "unload",
]
