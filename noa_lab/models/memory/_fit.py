"""Whether a model fits: what it needs, what is free, and how sure that is."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import Any, Literal

from noa_lab.models.memory._parts import DeviceMemory, MemoryParts
from noa_lab.models.memory._settings import MemorySettings
from noa_lab.tables import size

__all__ = ["Fit", "Verdict"]

Verdict = Literal["fits", "tight", "does not fit"]

_HOW = {
    "catalogue": "the catalogue's words",
    "header": "the file's header",
    "llama-fit-params": "llama.cpp's own layout (llama-fit-params)",
}


@dataclass(frozen=True, slots=True)
class Fit:
    """How much memory a server with this model would take while all its slots are at work, beside what is free.

    Attributes:
        model: Name of the model.
        architecture: For example "llama"; "" where only the catalogue is known.
        settings: How it would be run.
        host: What goes to the machine's memory, by what it is for.
        devices: What goes to GPUs.
        low_bytes: The least that it is likely to take of the machine's memory.
        high_bytes: The most.
        free_bytes: What is free of the machine's memory.
        total_bytes: What there is in all.
        limited_by: "machine" or "control group" (a container's or service's limit), whichever is the narrower.
        largest_context: Most tokens for each slot that surely fit with the other settings as they are; 0 for none, None where that is
            not known.
        trained_context: Tokens that the model was trained for; 0 where that is not known.
        how: "header", "llama-fit-params" or "catalogue".
        loads: Past loads that corrected it; 0 for none.
        measured: Whether loads of this architecture were ever measured, here or for this release.
        notes: What else is to be said.
    """

    model: str
    architecture: str
    settings: MemorySettings
    host: MemoryParts
    devices: tuple[DeviceMemory, ...]
    low_bytes: int
    high_bytes: int
    free_bytes: int
    total_bytes: int
    limited_by: str
    largest_context: int | None
    trained_context: int
    how: str
    loads: int = 0
    measured: bool = False
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """What it would take of the machine's memory, most likely."""
        return self.host.total

    @property
    def verdict(self) -> Verdict:
        """Whether the most that it is likely to take is free ("fits"), the least is ("tight"), or not even that ("does not fit")."""
        worst: Verdict = "fits"
        if self.high_bytes > self.free_bytes:
            worst = "tight"
        for device in self.devices:
            if device.free_bytes is not None and device.parts.total > device.free_bytes:
                worst = "does not fit"
        return "does not fit" if self.low_bytes > self.free_bytes else worst

    @property
    def source(self) -> str:
        """Where the numbers come from, in words."""
        words = _HOW[self.how]
        return f"{words}, corrected by {self.loads} past load{'s' if self.loads > 1 else ''}" if self.loads else words

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "model": self.model,
            "verdict": self.verdict,
            "bytes": self.bytes,
            "low_bytes": self.low_bytes,
            "high_bytes": self.high_bytes,
            "free_bytes": self.free_bytes,
            "total_bytes": self.total_bytes,
            "limited_by": self.limited_by,
            "parts": self.host.as_dict(),
            "devices": [
                {
                    "name": each.name,
                    "bytes": each.parts.total,
                    "free_bytes": each.free_bytes,
                    "parts": each.parts.as_dict(),
                }
                for each in self.devices
            ],
            "settings": asdict(self.settings),
            "largest_context": self.largest_context,
            "trained_context": self.trained_context,
            "architecture": self.architecture,
            "how": self.how,
            "loads": self.loads,
            "measured": self.measured,
            "notes": list(self.notes),
        }

    def rows(self) -> list[tuple[str, str]]:
        """What people want to know, as names and values."""
        settings = self.settings
        slots = f"{settings.slots} slot{'s' if settings.slots > 1 else ''} of {settings.context_size:,} tokens"
        parts = [(name.replace("_", " "), count) for name, count in self.host.as_dict().items() if count]
        rows = [
            ("verdict", self.verdict),
            ("needs", f"{size(self.bytes)} ({size(self.low_bytes)} to {size(self.high_bytes)}) with {slots}"),
            ("free", f"{size(self.free_bytes)} of {size(self.total_bytes)} ({self.limited_by})"),
        ]
        if self.how != "catalogue":
            rows.append(("made up of", ", ".join(f"{name} {size(count)}" for name, count in parts)))
        rows += [(each.name, self._device(each)) for each in self.devices]
        if self.largest_context is not None:
            rows.append(("largest context", self._largest()))
        rows.append(("known from", self.source))
        rows += [("note", note) for note in self.notes]
        return rows

    def _device(self, device: DeviceMemory) -> str:
        free = "an unknown amount" if device.free_bytes is None else size(device.free_bytes)
        return f"{size(device.parts.total)}; {free} is free"

    def _largest(self) -> str:
        if not self.largest_context:
            return "none fits"
        whole = self.trained_context and self.largest_context >= self.trained_context
        return f"{self.largest_context:,} tokens for each slot" + (", all that it was trained for" if whole else "")

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join([self.model, *(f"  {name:{width}}  {value}" for name, value in self.rows())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th><td style="text-align:left">{html.escape(value)}</td></tr>'
            for name, value in self.rows()
        )
        return f"<div><b>{html.escape(self.model)}</b></div><table>{rows}</table>"
