"""How a llama-server is to be run."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from noa_lab.config import StrictModel
from noa_lab.errors import BadInput
from noa_lab.runtime import is_loopback
from noa_lab.server._options import OptionValue, check_options

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.runtime import Runtime
    from noa_lab.server.tuning._tuned import Tuned

__all__ = ["CacheType", "Resolved", "ServerSettings"]

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
"""Number formats of the KV cache, by llama.cpp's names."""

_WIDE = ("f32", "f16", "bf16")


class ServerSettings(StrictModel):
    """How a llama-server is to be run. Two requests for one model with equal settings share one server."""

    context_size: int = Field(default=4096, ge=16, le=10_000_000)
    """Tokens that one request may use, prompt and answer together: per slot, so llama-server gets `context_size * slots`."""
    slots: int = Field(default=2, ge=1, le=256)
    """Requests worked on at the same time; default: as `noa-lab tune` found for the model, else 2."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads for generating; None: as tuned for the model, else the count that was fastest when the runtime was installed."""
    threads_batch: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads for prompts; None: as tuned for the model, else as `threads`."""
    batch_size: int = Field(default=2048, ge=1, le=1_000_000)
    """Most prompt tokens handed over at once (`-b`). llama-server hears of nothing else (cancelled requests, other slots' tokens) before
    it is through with them; so on the CPU, where more at once is no faster, the default is `ubatch_size`."""
    ubatch_size: int = Field(default=512, ge=1, le=1_000_000)
    """Most prompt tokens computed at once (`-ub`)."""
    gpu_layers: int = Field(default=0, ge=-1, le=10_000)
    """Layers kept on the GPU; 0 none, -1 all."""
    flash_attention: Literal["auto", "on", "off"] = "auto"
    """Whether the fused attention kernel is used."""
    cache_type_k: CacheType = "f16"
    """Number format of the keys in the KV cache."""
    cache_type_v: CacheType = "f16"
    """Number format of the values in the KV cache; one with fewer than 16 bits needs flash attention."""
    load_mode: Literal["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"] = "auto"
    """How the model gets into memory: mapped from the file ("mmap"), read ("none", "dio"), and whether it is locked there ("mlock")."""
    embeddings: bool = False
    """Whether it answers /v1/embeddings too, beside completions. A text to embed may then be `ubatch_size` tokens long, and
    `batch_size` is the same."""
    pooling: Literal["none", "mean", "cls", "last"] | None = None
    """How token embeddings become one for the text; None: as the model says, and "mean" where it says nothing."""
    host: str = "127.0.0.1"
    """Address that it listens on; one that other machines can reach needs `allow_remote`."""
    allow_remote: bool = False
    """Whether `host` may be an address that other machines can reach. The key then crosses the network without encryption."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port; 0: one that the system chooses. It stays the same when the server is restarted after a crash."""
    hang_seconds: float = Field(default=60.0, ge=1.0, le=86_400.0)
    """Seconds without any sign of life after which it counts as hung and is restarted."""
    save_slots: bool = False
    """Whether what a slot holds can be saved and put into another one (`--slot-save-path`), in a folder that ends with the server."""
    purpose: str = ""
    """What it is for. A server is only shared by those who give the same; empty for everybody."""
    options: dict[str, OptionValue] = Field(default_factory=dict)
    """Further options of llama-server by their long names without dashes, for example {"cache-reuse": 256, "context-shift": True};
    docs/server.md lists them."""

    @field_validator("host")
    @classmethod
    def _one_address(cls, value: str) -> str:
        return "127.0.0.1" if value == "localhost" else value.strip("[]")  # the name may mean ::1 as well

    @field_validator("options")
    @classmethod
    def _known_options(cls, value: dict[str, OptionValue]) -> dict[str, OptionValue]:
        return check_options(value)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not _is_address(self.host):
            raise _bad("host", self.host, "is not an IP address", 'Write one like "127.0.0.1".')
        if not self.allow_remote and not is_loopback(self.host):
            fix = 'Take "127.0.0.1", or say allow_remote=True (`--allow-remote`) if you mean it.'
            raise _bad("host", self.host, "lets other machines reach the server", fix)
        if self.cache_type_v not in _WIDE and self.flash_attention == "off":
            fix = 'Leave flash_attention at "auto", or take "f16".'
            raise _bad("cache_type_v", self.cache_type_v, "needs flash attention, which is switched off", fix)
        return self

    def resolved(self, runtime: Runtime, model: ModelFile, tuned: Tuned | None = None) -> Resolved:
        """The settings that can really be had, with what was left open filled in.

        A context longer than the one the model was trained for is cut to it, as llama-server would do in silence.

        Args:
            runtime: The llama.cpp to run.
            model: The model to serve.
            tuned: What `noa-lab tune` has measured for this model, machine and build; used for what was not given, where as many layers
                are on the GPU.
        """
        given = self.model_fields_set
        origins = {name: "given" if name in given else "default" for name in type(self).model_fields}
        values: dict[str, Any] = {}
        notes: list[str] = []
        if tuned is not None and runtime.backend != "cpu" and tuned.gpu_layers != self.gpu_layers:
            notes.append(
                f"What was tuned for {model.name} is not used: it was measured with gpu_layers {tuned.gpu_layers}."
            )
            tuned = None
        for name, value in tuned.as_settings().items() if tuned is not None else ():
            if name not in given or getattr(self, name) is None:
                values[name], origins[name] = value, "tuned for this model"
        if values.get("threads", self.threads) is None:
            values["threads"], origins["threads"] = max(1, runtime.threads), "measured at install"
        if values.get("threads_batch", self.threads_batch) is None:
            values["threads_batch"] = values.get("threads", self.threads)
            origins["threads_batch"] = "as threads"
        notes += [*self._fit_context(model, values, origins), *self._fit_batches(values, origins)]
        if self.gpu_layers and runtime.backend == "cpu":
            notes.append(
                f"gpu_layers {self.gpu_layers} has no effect: runtime {runtime.id} is built for the CPU alone."
            )
        if not is_loopback(self.host):
            notes.append(f"Other machines can reach it at {self.host}; the key crosses the network unencrypted.")
        return Resolved(self.model_copy(update=values), tuple(notes), origins)

    def _fit_context(self, model: ModelFile, values: dict[str, Any], origins: dict[str, str]) -> list[str]:
        trained = model.metadata.context_length
        if not trained or self.context_size <= trained:
            return []
        values["context_size"], origins["context_size"] = trained, "the model's training length"
        asked = "context_size" in self.model_fields_set
        note = f"context_size {self.context_size} is more than {model.name} was trained for: {trained} is used."
        return [note] if asked else []

    def _fit_batches(self, values: dict[str, Any], origins: dict[str, str]) -> list[str]:
        """`ubatch_size` is at most `batch_size`; to embed a text, llama-server computes it at once, so both are the same then."""
        batch = values.get("batch_size", self.batch_size)
        ubatch = values.get("ubatch_size", self.ubatch_size)
        fitting = min(ubatch, batch)
        if origins["batch_size"] == "default" and not self.gpu_layers and not self.embeddings:
            values["batch_size"], origins["batch_size"] = ubatch, "as ubatch_size"
            return []
        if self.embeddings and "ubatch_size" not in self.model_fields_set:
            fitting = batch = min(batch, values.get("context_size", self.context_size))
        elif self.embeddings:
            batch = fitting
        if fitting != ubatch:
            values["ubatch_size"], origins["ubatch_size"] = fitting, "as batch_size"
        if batch != values.get("batch_size", self.batch_size):
            values["batch_size"], origins["batch_size"] = batch, "for embeddings"
        asked = {"batch_size", "ubatch_size"} <= self.model_fields_set and ubatch > fitting
        return [f"ubatch_size {ubatch} is more than batch_size: {fitting} is used."] if asked else []


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings as they are used.

    Attributes:
        settings: The settings; nothing is left open.
        notes: In words, what differs from what was asked for.
        origins: Where each field's value comes from: "given", "default", "tuned for this model", "measured at install", ...
    """

    settings: ServerSettings
    notes: tuple[str, ...]
    origins: dict[str, str]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _bad(field: str, value: object, why: str, fix: str) -> BadInput:
    return BadInput(
        f"ServerSettings: {field} = {value!r} {why}.", fix=fix, field=field, value=value, path=(field,), nearest=None
    )
