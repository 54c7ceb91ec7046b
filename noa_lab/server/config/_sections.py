"""The sections of server.yaml. Everything that `ServerSettings` has can stand in `server`, for all models, and in one model's entry."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

from pydantic import Field, create_model, field_validator, model_validator

from noa_lab.config import StrictModel
from noa_lab.errors import BadInput
from noa_lab.inference import InferenceConfig
from noa_lab.server._command import server_name
from noa_lab.server._log_settings import LogSettings
from noa_lab.server._settings import ServerSettings

__all__ = ["ADDRESS_FIELDS", "LoggingSection", "ModelSection", "RouterSection", "ServerFile", "ServerSection"]

ADDRESS_FIELDS = ("host", "port", "allow_remote")
"""Of `ServerSettings`, what is about the public endpoint: model servers listen on loopback, on ports of their own."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[KMGT]i?B|B)", re.IGNORECASE)
_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


class ServerSection(ServerSettings):
    """`server`: the public endpoint, and settings for all models."""

    kind_name: ClassVar[str] = "The section server"

    port: int = Field(default=8080, ge=0, le=65535)
    """Port of the endpoint for all models; 0: one that the system chooses."""


class ModelSection(ServerSettings):
    """One entry of `models`."""

    kind_name: ClassVar[str] = "The model"

    name: str = Field(max_length=60)
    """What requests call it."""
    path: str | None = Field(default=None, min_length=1)
    """Its file, or a reference such as hf://owner/repository/file.gguf; without one, the catalogue's model of this name."""
    default: bool = False
    """Whether it answers requests that name no model; without any, the first one does."""
    pinned: bool = False
    """Whether it stays once it is loaded, whoever else needs memory."""
    tags: tuple[str, ...] | None = None
    """Tasks that requests may ask for instead of a name; None: the catalogue's for this name."""

    @classmethod
    def named(cls, name: str) -> ModelSection:
        """The entry of a model that the file does not list; what a name may not hold becomes a dash."""
        return cls(name=server_name(name))

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("a name has letters, digits, dots, dashes and underscores only")
        return value

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for tag in value or ():
            if not _NAME.fullmatch(tag):
                raise ValueError("a tag has letters, digits, dots, dashes and underscores only")
        return value

    @model_validator(mode="after")
    def _address_is_the_endpoints(self) -> Self:
        for field in ADDRESS_FIELDS:
            if field in self.model_fields_set:
                raise BadInput(
                    f"{field} is not a model's: all models are reached at one address.",
                    fix=f"Set {field} in the section server.",
                    field=field,
                    value=getattr(self, field),
                    path=(field,),
                )
        return self


SAMPLING = (*("temperature", "max_tokens", "top_p", "top_k", "min_p", "repeat_penalty", "stop_sequences", "seed"),)
"""Of `InferenceConfig`, what can be meant for all requests."""

_SAMPLING_FIELDS: dict[str, Any] = {
    name: (InferenceConfig.model_fields[name].annotation, InferenceConfig.model_fields[name]) for name in SAMPLING
}
_Sampling = create_model("_Sampling", __base__=StrictModel, **_SAMPLING_FIELDS)


class InferenceSection(_Sampling):
    """`inference`: how answers are sampled where neither the call nor the experiment file says it."""

    kind_name: ClassVar[str] = "The section inference"


class RouterSection(StrictModel):
    """`router`: how several models share this machine."""

    kind_name: ClassVar[str] = "The section router"

    memory_budget: str | int = "75%"
    """Memory for all models together: bytes, a text such as "8GB" or "8GiB", or a share of the machine's."""
    idle_seconds: float = Field(default=1800.0, ge=0, le=10**8)
    """A model without a request for this long is unloaded; 0: never."""
    max_overtaken: int = Field(default=32, ge=0, le=1_000_000)
    """Requests for loaded models that may be answered before an older one that waits for memory."""
    max_wait_seconds: float = Field(default=30.0, ge=0, le=10**6)
    """The same bound in seconds."""
    max_waiting: int = Field(default=1000, ge=1, le=1_000_000)
    """Requests that may wait; more are refused."""

    @field_validator("memory_budget")
    @classmethod
    def _check_budget(cls, value: str | int) -> str | int:
        if cls._bytes(value, 100) <= 0:
            raise ValueError("an amount above zero is needed")
        return value

    @staticmethod
    def _bytes(value: str | int, machine_bytes: int) -> int:
        if isinstance(value, int):
            return value
        found = _AMOUNT.fullmatch(value.strip())
        if found is None or (found[2] == "%" and float(found[1]) > 100):
            raise ValueError('write it like "8GB", "6.5GiB" or "75%"')
        if found[2] == "%":
            return int(machine_bytes * float(found[1]) / 100)
        return int(float(found[1]) * _UNITS[found[2].lower()])

    def budget_bytes(self, machine_bytes: int) -> int:
        """The budget in bytes.

        Args:
            machine_bytes: Memory of the machine.
        """
        return self._bytes(self.memory_budget, machine_bytes)


class LoggingSection(LogSettings):
    """`logging`: what is written down of the servers."""

    kind_name: ClassVar[str] = "The section logging"


class ServerFile(StrictModel):
    """server.yaml as it is written."""

    kind_name: ClassVar[str] = "server.yaml"

    server: ServerSection = ServerSection()
    models: tuple[ModelSection, ...] = ()
    inference: InferenceSection = InferenceSection()
    router: RouterSection = RouterSection()
    logging: LoggingSection = LoggingSection()
