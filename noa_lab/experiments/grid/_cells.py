"""Cells: one prompt, one input, one model, one sampling, one repeat; what each is called and what makes two the same."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from noa_lab.experiments.grid._conversations import Conversations
from noa_lab.experiments.grid._prompts import canonical_json, content_hash
from noa_lab.inference import InferenceConfig

__all__ = ["Cell", "cell_key", "derive_seed", "execution_order", "sampling_text"]

_SEEDS = 2**32 - 1
"""Seeds go from 0 to 2**32 - 2; llama-server takes the next one as "draw one"."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One answer to be had.

    Attributes:
        prompt: Name of the prompt.
        input_id: Id of the input.
        model: Reference of the model.
        sampling: Index into the grid's samplings.
        repeat: 0 for the first.
        seed: Seed of the sampler; None where decoding is greedy.
        cell_id: 16 hexadecimal digits that name the cell within its run.
    """

    prompt: str
    input_id: str
    model: str
    sampling: int
    repeat: int
    seed: int | None
    cell_id: str

    @classmethod
    def make(cls, prompt: str, input_id: str, model: str, sampling: int, repeat: int, seed: int | None) -> Cell:
        """A cell with the id that belongs to its place in the grid."""
        place = "\0".join((prompt, input_id, model, str(sampling), str(repeat)))
        return cls(prompt, input_id, model, sampling, repeat, seed, hashlib.sha256(place.encode()).hexdigest()[:16])


def derive_seed(grid_seed: int, seed_key: str, config: InferenceConfig, repeat: int) -> int | None:
    """The seed of a cell.

    It does not depend on the prompt: the arms of one input share it (common random numbers), which takes sampling noise out of
    their difference. A sampling that names a seed keeps it. Repeat k has the first one's seed + k, as llama-server counts the seeds of
    several answers to one request.

    Args:
        grid_seed: The grid's seed.
        seed_key: See `Input.seed_key`.
        config: The sampling.
        repeat: 0 for the first.

    Returns:
        A number from 0 to 2**32 - 2, or None for greedy decoding, which draws nothing.
    """
    if config.greedy:
        return None
    first = config.seed
    if first is None:
        first = int(content_hash([grid_seed, seed_key, config.model_dump(mode="json")])[:16], 16)
    return (first + repeat) % _SEEDS


def sampling_text(config: InferenceConfig) -> str:
    """A sampling as the text that goes into `cell_key`; its seed is left out, as each cell has its own."""
    return canonical_json(config.model_dump(mode="json", exclude={"seed"}))


def cell_key(conversation_hash: str, fingerprint_hash: str, sampling: str, seed: int | None, repeat: int) -> str:
    """What makes two cells, also of different runs, the same question to the same machine.

    Args:
        conversation_hash: Hash of the filled-in conversation, see `Conversations.hash`.
        fingerprint_hash: Hash of `InferenceEngine.fingerprint()`.
        sampling: The sampling, see `sampling_text`.
        seed: The cell's seed.
        repeat: The cell's repeat: an answer never stands in for another repeat.

    Returns:
        sha256, hexadecimal.
    """
    # The canonical JSON of a list of these five, without writing the sampling again for each of many cells.
    drawn = "null" if seed is None else seed
    text = f'["{conversation_hash}","{fingerprint_hash}",{sampling},{drawn},{repeat}]'
    return hashlib.sha256(text.encode()).hexdigest()


def execution_order(cells: Iterable[Cell], conversations: Conversations) -> list[Cell]:
    """The order in which cells are asked for.

    Model by model, so that each is loaded once. Within a model first one cell of every arm (prompt and sampling), so that all
    arms show something early; then by the text of the conversations, which puts those with a common beginning next to each
    other, where the server's prompt cache finds them. Equal texts keep the grid's order.
    """
    ordered: list[Cell] = []
    for _, group in itertools.groupby(cells, key=lambda cell: cell.model):
        of_model = list(group)
        first_of_arm: dict[Any, Cell] = {}
        for cell in of_model:
            first_of_arm.setdefault((cell.prompt, cell.sampling), cell)
        early = list(first_of_arm.values())
        taken = {cell.cell_id for cell in early}
        rest = [cell for cell in of_model if cell.cell_id not in taken]
        rest.sort(key=lambda cell: conversations.texts((cell.prompt, cell.input_id)))
        ordered += early + rest
    return ordered
