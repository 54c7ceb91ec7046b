"""A server.yaml as it takes effect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noa_lab.config import YamlDocument
from noa_lab.errors import BadInput
from noa_lab.inference import InferenceConfig
from noa_lab.server._log_settings import LogSettings
from noa_lab.server._settings import ServerSettings
from noa_lab.server.config._sections import (
    ADDRESS_FIELDS,
    LoggingSection,
    ModelSection,
    RouterSection,
    ServerFile,
    ServerSection,
)

__all__ = ["ServerConfig"]


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What server.yaml and the environment say; without a file, the defaults.

    Attributes:
        file: The file; None where there is none.
        document: The data with the place of each value.
        sections: The data, checked.
    """

    file: Path | None
    document: YamlDocument
    sections: ServerFile

    @property
    def server(self) -> ServerSection:
        """The endpoint, and settings for all models."""
        return self.sections.server

    @property
    def models(self) -> tuple[ModelSection, ...]:
        """The models, in the file's order."""
        return self.sections.models

    @property
    def router(self) -> RouterSection:
        """How several models share the machine."""
        return self.sections.router

    @property
    def logging(self) -> LoggingSection:
        """What is written down."""
        return self.sections.logging

    @property
    def inference(self) -> InferenceConfig:
        """How answers are sampled where nobody says otherwise; only what was given counts as set."""
        return InferenceConfig(**self.sections.inference.model_dump(exclude_unset=True))

    @property
    def default(self) -> ModelSection | None:
        """The model for requests that name none: the one marked so, else the first."""
        return next((one for one in self.models if one.default), self.models[0] if self.models else None)

    @property
    def folders(self) -> tuple[Path, ...]:
        """From where relative paths are looked for: the parent of the `configs` folder, then the file's own folder."""
        if self.file is None:
            return (Path.cwd(),)
        own = self.file.absolute().parent
        return (own.parent, own) if own.name == "configs" else (own,)

    @property
    def log_settings(self) -> LogSettings:
        """What is written down, and where: a relative path of `logging.file` begins at the first of `folders`."""
        given = self.logging.model_dump(exclude_unset=True)
        if self.logging.file is not None:
            given["file"] = self.folders[0] / self.logging.file.expanduser()
        return LogSettings(**given)

    def entry(self, name: str) -> ModelSection | None:
        """The entry of a model, or None where the file has none of this name."""
        return next((one for one in self.models if one.name == name), None)

    def settings(self, name: str | None = None, **call: Any) -> ServerSettings:
        """How a model's server is to be run: the call's values, else the model's, else those for all models.

        Args:
            name: The model; one that the file does not list gets what is said for all.
            call: Fields of `ServerSettings` that stand above the file.

        Raises:
            BadInput: When the call's values are wrong.
            ConfigInvalid: When values do not go together.
        """
        entry = self.entry(name) if name is not None else None
        common = _given(self.server)
        own = _given(entry) if entry is not None else {}
        options = {**common.get("options", {}), **own.get("options", {}), **call.get("options", {})}
        merged = {**common, **own, **call, **({"options": options} if options else {})}
        try:
            return ServerSettings(**merged)
        except BadInput as error:
            field = str(error.fields.get("field"))
            if field in call or field not in merged:
                raise
            at = (
                ("models", self.models.index(entry), field) if entry is not None and field in own else ("server", field)
            )
            raise self.document.invalid(error.message, fix=error.fix, at=at, value=error.fields.get("value")) from None

    def with_address(self, **address: Any) -> ServerConfig:
        """This configuration with another address of the endpoint.

        Args:
            address: `host`, `port` and `allow_remote`, as far as they are to be others.

        Raises:
            BadInput: When they are wrong.
        """
        server = ServerSection(**{**self.server.model_dump(exclude_unset=True), **address})
        return ServerConfig(self.file, self.document, self.sections.model_copy(update={"server": server}))

    def with_models(self, entries: tuple[ModelSection, ...]) -> ServerConfig:
        """This configuration with these models instead of the file's."""
        return ServerConfig(self.file, self.document, self.sections.model_copy(update={"models": entries}))


def _given(section: ServerSettings) -> dict[str, Any]:
    """What was written, as far as it is about a model's server."""
    names = (set(ServerSettings.model_fields) & section.model_fields_set) - set(ADDRESS_FIELDS)
    return {name: getattr(section, name) for name in names}
