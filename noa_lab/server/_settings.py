"""How a llama-server is to be run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from noa_lab.config import StrictModel

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.runtime import Runtime

__all__ = ["ServerSettings"]


class ServerSettings(StrictModel):
    """How a llama-server is to be run. Two requests for one model with equal settings share one server."""

    context_size: int = Field(default=4096, ge=16, le=10_000_000)
    """Tokens that one request may use, prompt and answer together: per slot, so llama-server gets `context_size * slots`."""
    slots: int = Field(default=2, ge=1, le=256)
    """Requests worked on at the same time."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads; None takes the count that was fastest when the runtime was installed."""
    batch_size: int = Field(default=2048, ge=1, le=1_000_000)
    """Most prompt tokens handed over at once (`-b`)."""
    ubatch_size: int = Field(default=512, ge=1, le=1_000_000)
    """Most prompt tokens computed at once (`-ub`)."""
    gpu_layers: int = Field(default=0, ge=-1, le=10_000)
    """Layers kept on the GPU; 0 none, -1 all."""
    flash_attention: Literal["auto", "on", "off"] = "auto"
    """Whether the fused attention kernel is used."""

    def resolved(self, runtime: Runtime, model: ModelFile) -> tuple[ServerSettings, tuple[str, ...]]:
        """The settings that can really be had, and in words what differs from what was asked for.

        A context longer than the one the model was trained for is cut to it, as llama-server would do in silence.
        """
        notes = []
        trained = model.metadata.context_length
        context = self.context_size
        if trained and context > trained:
            if "context_size" in self.model_fields_set:
                notes.append(f"context_size {context} is more than {model.name} was trained for: {trained} is used.")
            context = trained
        if self.gpu_layers and runtime.backend == "cpu":
            notes.append(
                f"gpu_layers {self.gpu_layers} has no effect: runtime {runtime.id} is built for the CPU alone."
            )
        threads = self.threads or max(1, runtime.threads)
        return self.model_copy(update={"context_size": context, "threads": threads}), tuple(notes)
