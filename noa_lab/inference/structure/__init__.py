"""Objects from a model: five ways to ask for JSON, each checked against its schema.

`_asking` is the conversation, `_reading` finds JSON in a reply, `_shape` describes a schema to a model.
"""

from noa_lab.inference.structure._asking import astructured, structured
from noa_lab.inference.structure._result import Attempt, Structured, StructureMode

__all__ = ["Attempt", "StructureMode", "Structured", "astructured", "structured"]
