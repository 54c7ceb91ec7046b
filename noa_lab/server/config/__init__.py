"""server.yaml: which models are served, how, at what address, and how answers are sampled where nobody says otherwise.

Values come from the call, else the environment (NOA_LAB_SERVER__PORT=9000), else the file, else the defaults; each knows from where.
"""

from noa_lab.server.config._config import ServerConfig
from noa_lab.server.config._explain import ModelPlace, Value, machine_notes, model_places, values
from noa_lab.server.config._load import load_server_config, nearest_server_yaml
from noa_lab.server.config._model_places import find_model
from noa_lab.server.config._sections import (
    LoggingSection,
    ModelSection,
    RouterSection,
    ServerFile,
    ServerSection,
)

__all__ = [
    "LoggingSection",
    "ModelPlace",
    "ModelSection",
    "RouterSection",
    "ServerConfig",
    "ServerFile",
    "ServerSection",
    "Value",
    "find_model",
    "load_server_config",
    "machine_notes",
    "model_places",
    "nearest_server_yaml",
    "values",
]
