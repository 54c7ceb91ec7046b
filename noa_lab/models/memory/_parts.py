"""Where the memory goes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

__all__ = ["DeviceMemory", "MemoryParts", "Prediction"]


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """Bytes by what they are for.

    Attributes:
        weights: The model's tensors.
        kv_cache: Keys and values of what was read, and recurrent states.
        compute: What one step of computing needs.
        output: Scores of the next tokens.
        program: llama-server itself: its code, the vocabulary, buffers of its connections.
        slots: What each slot takes beside its cache once it has worked.
    """

    weights: int = 0
    kv_cache: int = 0
    compute: int = 0
    output: int = 0
    program: int = 0
    slots: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.kv_cache + self.compute + self.output + self.program + self.slots

    def as_dict(self) -> dict[str, int]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What goes to one GPU.

    Attributes:
        name: As llama.cpp names it, for example "CUDA0"; "GPU" for all together where that was not asked.
        parts: What it is for.
        free_bytes: Free there now; None where it is not known.
    """

    name: str
    parts: MemoryParts
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """How much memory a server would take.

    Attributes:
        host: In the machine's memory.
        devices: In that of its GPUs.
        repacked: Weights that llama.cpp rearranges for this CPU: where the file is mapped into memory, they are there twice while it
            loads.
    """

    host: MemoryParts
    devices: tuple[DeviceMemory, ...] = ()
    repacked: int = 0

    def with_program(self, program: int) -> Prediction:
        """The same with another size of the program itself."""
        return replace(self, host=replace(self.host, program=program))
