"""Models that other tools keep on this machine: found, and used where they are.

Nothing here writes into another tool's folders.
"""

from pathlib import Path

from noa_lab.models.stores._folder import lm_studio_folders, models_in_folder, models_of_lm_studio
from noa_lab.models.stores._huggingface import models_of_hugging_face
from noa_lab.models.stores._ollama import models_of_ollama, ollama_folders
from noa_lab.models.stores._stored import StoredModel, StoredModels, name_for

__all__ = [
    "StoredModel",
    "StoredModels",
    "lm_studio_folders",
    "models_in_folder",
    "models_of_hugging_face",
    "models_of_lm_studio",
    "models_of_ollama",
    "name_for",
    "ollama_folders",
    "stored_models",
]


def stored_models() -> StoredModels:
    """The models of Hugging Face's cache, Ollama and LM Studio on this machine."""
    home = Path.home()
    return StoredModels([*models_of_hugging_face(), *models_of_ollama(home), *models_of_lm_studio(home)])
