"""Reading server.yaml."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from noa_lab.config import YamlDocument, load_yaml, validate_yaml, with_environment
from noa_lab.errors import ConfigInvalid
from noa_lab.server.config._config import ServerConfig
from noa_lab.server.config._sections import ServerFile

__all__ = ["load_server_config", "nearest_server_yaml"]

_NEAREST = Path("configs", "server.yaml")
CHOSEN_BY = "NOA_LAB_CONFIG"
"""Environment variable that names the file to use where none is given; "none" is none."""


def nearest_server_yaml(start: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file that NOA_LAB_CONFIG names, else the nearest `configs/server.yaml` upward from the working folder, or None.

    Args:
        start: Where to begin; default: the working folder.
        environment: The environment variables.
    """
    chosen = environment.get(CHOSEN_BY, "")
    if chosen:
        return None if chosen == "none" else Path(chosen).expanduser()
    begin = (start or Path.cwd()).absolute()
    return next((folder / _NEAREST for folder in (begin, *begin.parents) if (folder / _NEAREST).is_file()), None)


def load_server_config(path: Path | str | None = None, environment: Mapping[str, str] = os.environ) -> ServerConfig:
    """Read server.yaml and the environment's overrides, and check them.

    Args:
        path: The file; None for the nearest one, and where there is none, for the defaults.
        environment: The environment variables.

    Raises:
        ConfigInvalid: With file and line, or the environment variable; what was found, what is allowed, the nearest known key.
    """
    file = Path(path).expanduser() if path is not None else nearest_server_yaml(environment=environment)
    document = load_yaml(file) if file is not None else YamlDocument(_NEAREST, None, {})
    try:
        document = with_environment(document, environment, tuple(ServerFile.model_fields))
        sections = validate_yaml(ServerFile, document)
        config = ServerConfig(file, document, sections)
        _check(config)
    except ConfigInvalid as error:
        if path is None and file is not None and error.fields.get("file"):
            hint = f"If {file} is not noa_lab's, set {CHOSEN_BY}=none."
            raise ConfigInvalid(error.message, fix=f"{error.fix} {hint}", **error.fields) from None
        raise
    return config


def _check(config: ServerConfig) -> None:
    """What no section can know by itself."""
    document = config.document
    seen: dict[str, int] = {}
    default: str | None = None
    for index, entry in enumerate(config.models):
        if entry.name in seen:
            first = document.source(("models", seen[entry.name], "name"))
            message = f"the model {entry.name!r} is there twice (first in {first})."
            raise document.invalid(
                message, fix="Give one of them another name.", at=("models", index, "name"), value=entry.name
            )
        seen[entry.name] = index
        if entry.default and default is not None:
            message = f"{default!r} and {entry.name!r} are both the default."
            raise document.invalid(
                message, fix="Keep one `default: true`.", at=("models", index, "default"), value=True
            )
        default = entry.name if entry.default else default
        config.settings(entry.name)
