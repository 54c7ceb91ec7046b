"""A door for promptfoo's users: its configuration becomes a comparison, and what cannot is named.

Nothing of the configuration is run, and no other file is opened, unless it is trusted.
"""

from noa_lab.experiments.promptfoo._import import Imported, import_promptfoo
from noa_lab.experiments.promptfoo._notes import Note

__all__ = ["Imported", "Note", "import_promptfoo"]
