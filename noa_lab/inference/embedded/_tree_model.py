"""A GGUF model with many sequences in one context: what they share is in memory once."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noa_lab.inference.batch._prefixes import common, packed
from noa_lab.inference.embedded._model import EmbeddedModel, LoadFailed
from noa_lab.inference.embedded._sampler import Sampler

__all__ = ["BATCH", "Fed", "OutOfCells", "TreeModel"]

BATCH = 512
"""Most tokens decoded at once: llama-server's own physical batch."""

_TOKEN = 4
"""Bytes of a packed token."""

_NO_CELLS = 1
"""What `llama_decode` returns when the context has no room for the batch."""

_PARKED = 0.5
"""Share of the cells that what is parked would take at most, if it were there."""

_PUTTING_BACK = 16
"""Tokens whose evaluation takes longer than putting back what is parked."""

State = ctypes.Array[ctypes.c_uint8]


class OutOfCells(Exception):
    """The context has no room for what was to be decoded."""


@dataclass(frozen=True, slots=True)
class Fed:
    """Tokens of one sequence in a batch.

    Attributes:
        sequence: The sequence.
        start: Position of the first token.
        tokens: The tokens.
        wanted: Whether what follows the last one is to be sampled.
    """

    sequence: int
    start: int
    tokens: Sequence[int]
    wanted: bool


class TreeModel(EmbeddedModel):
    """One model, and one context that its sequences share (llama.cpp's unified KV cache).

    llama.cpp's attention adds up in half precision, cell by cell. For a sum to be that of a server with a slot of its own for every
    sequence, the cells of a sequence must lie in the order of its tokens. A new token takes the first cell that is free, so that none is
    freed before `tidy`, which leaves no gaps: until then, one more sequence, `_released`, keeps what the others let go of.

    Attention also goes through all cells that are taken, whoever they belong to: a token of SmolLM2-135M took a third longer beside 5,000
    that are not its own. So `tidy` leaves there only what is at work, and parks the rest in memory.

    Args:
        path: The GGUF file.
        context_size: Tokens that one sequence may have, prompt and answer together.
        threads: Threads of computation.
        cells: Tokens that all sequences may have together, those that they share counted once.
        sequences: How many sequences there are.

    Raises:
        LoadFailed: With the reason in words.
    """

    def __init__(self, path: Path, context_size: int, threads: int, *, cells: int, sequences: int) -> None:
        self._cells, self._sequences, self._released, self._moving = cells, sequences, sequences, sequences + 1
        self._taken = 0
        super().__init__(path, context_size, threads)
        self._held = [b""] * sequences
        """By sequence: the tokens that it holds, packed."""
        self._parked: dict[int, State] = {}
        """By sequence: what it holds, where that is not in the context."""
        self._memory = self._lib.llama_get_memory(self._context)
        self._batch = self._lib.llama_batch_init(BATCH, 0, 1)

    def _new_context(self, threads: int) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = self._cells, BATCH, BATCH, self._sequences + 2
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise LoadFailed(f"there is not enough memory for a context of {self._cells} tokens")
        return context

    @property
    def can_go_back(self) -> bool:
        """Whether a sequence can be cut back to any of its tokens: recurrent models and those with a sliding window cannot."""
        lib = self._lib
        recurrent = lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
        return not recurrent and int(lib.llama_model_n_swa(self._model)) == 0

    def sampler(self, sampling: dict[str, Any], grammar: str | None, prompt: Sequence[int]) -> Sampler:
        """What chooses the tokens of one answer; the caller closes it.

        Raises:
            GrammarInvalid: When llama.cpp cannot read the grammar.
        """
        found = Sampler(self._lib, self._vocab, sampling, grammar)
        found.look_back(list(prompt[-int(sampling["repeat_last_n"]) :]))
        return found

    def sample(self, sampler: Sampler, output: int) -> int:
        """The next token by the last batch's output at this place of the batch."""
        return sampler.sample(self._context, output)

    def probability(self, token: int, output: int, top: int) -> dict[str, Any]:
        """Probability of a token, in the form of llama-server's `completion_probabilities`."""
        return self._probability(token, output, top)

    def ends(self, token: int) -> bool:
        """Whether a token ends the text."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def piece(self, token: int) -> bytes:
        """The bytes of a generated token."""
        return self._bytes(token)

    # Sequences

    def nearest(self, tokens: bytes) -> tuple[int, int]:
        """The sequence that holds most of the beginning of these packed tokens, and how many of them it holds.

        One that is parked must hold clearly more than those in the context.
        """
        shared = [common(held, tokens) for held in self._held]
        best = max(range(self._sequences), key=lambda each: shared[each] - _PUTTING_BACK * (each in self._parked))
        return best, shared[best]

    def copy(self, source: int, target: int, length: int) -> None:
        """Make a sequence share the first tokens of another one; what it had is let go of."""
        if source in self._parked:
            length_held = len(self._held[source]) // _TOKEN
            self._put(self._parked.pop(source), [(source, length_held)], 0)
            self._taken += length_held
        if source == target:
            self._cut(target, length)
            return
        self.forget(target)
        self._lib.llama_memory_seq_cp(self._memory, source, target, 0, length)
        self._held[target] = self._held[source][: length * _TOKEN]

    def forget(self, sequence: int) -> None:
        """Let go of what a sequence holds."""
        if self._parked.pop(sequence, None) is None:
            self._cut(sequence, 0)
        self._held[sequence] = b""

    def _cut(self, sequence: int, length: int) -> None:
        """Keep only the first tokens of a sequence, which is in the context."""
        if len(self._held[sequence]) > length * _TOKEN:
            self._lib.llama_memory_seq_cp(self._memory, sequence, self._released, length, -1)
            self._lib.llama_memory_seq_rm(self._memory, sequence, length, -1)
            self._held[sequence] = self._held[sequence][: length * _TOKEN]

    @property
    def taken(self) -> int:
        """Cells that are taken, those that nothing needs any more included."""
        return self._taken

    @property
    def crowded(self) -> bool:
        """Whether so many cells are taken that another prompt and its answer may not fit."""
        return self.would_be_crowded(self._taken)

    def would_be_crowded(self, taken: int) -> bool:
        """The same where so many cells are taken."""
        return self._cells - taken < self.context_size

    def room(self, sequences: Collection[int]) -> int:
        """Cells that these sequences need: what they share is counted once."""
        return sum(len(self._held[sequence]) // _TOKEN - shared for sequence, shared in self._shared(sequences))

    def _shared(self, sequences: Collection[int]) -> Iterator[tuple[int, int]]:
        """These sequences, sorted by what they hold, each with the tokens that it shares with the one before it."""
        before = b""
        for sequence in sorted(sequences, key=self._held.__getitem__):
            yield sequence, common(before, self._held[sequence])
            before = self._held[sequence]

    def tidy(self, working: Collection[int], kept: Iterable[int]) -> None:
        """Move what is at work together, in the order of its tokens, park what else is to be kept, and let go of the rest.

        Args:
            working: Sequences to stay in the context; none of them is parked.
            kept: Sequences to be there when they are needed again. Those for which there is no room are forgotten.

        Raises:
            RuntimeError: When llama.cpp fails.
        """
        staying = self._park(working, kept)
        for sequence in range(self._sequences):
            if sequence not in staying and sequence not in self._parked:
                self.forget(sequence)
        self._lib.llama_memory_seq_rm(self._memory, self._released, -1, -1)
        before = self._size(staying)
        self._move_all(staying)
        if self._size(staying) < before:
            # What had been evaluated twice is there once now, and left gaps.
            self._move_all(staying)
        self._taken = self.room(staying)

    def _move_all(self, sequences: Collection[int]) -> None:
        """Move all that these sequences hold to the first cells; where they begin with equal tokens, they share them from now on."""
        order = [*self._shared(sequences)]
        for place, (sequence, shared) in enumerate(order):
            length = len(self._held[sequence]) // _TOKEN
            owners, most = [(sequence, length)], length
            for other, also in order[place + 1 :]:
                most = min(most, also)
                if most <= shared:
                    break
                owners.append((other, most))
            if shared < length:
                self._move(owners, shared)

    def _size(self, sequences: Iterable[int]) -> int:
        """Bytes of all cells of these sequences together."""
        for sequence in sequences:
            self._lib.llama_memory_seq_cp(self._memory, sequence, self._moving, 0, -1)
        size = int(self._lib.llama_state_seq_get_size(self._context, self._moving))
        self._lib.llama_memory_seq_rm(self._memory, self._moving, -1, -1)
        return size

    def _park(self, working: Collection[int], kept: Iterable[int]) -> set[int]:
        """Park what is to be kept, but for what those at work hold anyway; returns what stays in the context."""
        staying, room = {*working}, int(_PARKED * self._cells)
        for sequence in kept:
            held = self._held[sequence]
            if sequence not in self._parked and any(self._held[each].startswith(held) for each in working):
                staying.add(sequence)
                continue
            if len(held) // _TOKEN > room:
                self.forget(sequence)
                continue
            room -= len(held) // _TOKEN
            if held and sequence not in self._parked:
                self._parked[sequence] = self._state(sequence, 0)
                self._cut(sequence, 0)
                self._held[sequence] = held
        return staying

    def _move(self, owners: Sequence[tuple[int, int]], start: int) -> None:
        """Move what the first of these sequences holds from a position on to the first cells that are free.

        No token comes to lie behind the place where any of its owners had it, and none is free in front of what it continues: so the
        order of tokens stays as it was.

        Args:
            owners: Sequences, and the length up to which each holds the same.
            start: The position.
        """
        state = self._state(owners[0][0], start)
        for sequence, length in owners:
            self._lib.llama_memory_seq_rm(self._memory, sequence, start, length)
        self._put(state, owners, start)

    def _state(self, sequence: int, start: int) -> State:
        """What a sequence holds from a position on."""
        self._lib.llama_memory_seq_cp(self._memory, sequence, self._moving, start, -1)
        size = int(self._lib.llama_state_seq_get_size(self._context, self._moving))
        state = (ctypes.c_uint8 * size)()
        if not size or int(self._lib.llama_state_seq_get_data(self._context, state, size, self._moving)) != size:
            raise RuntimeError("llama_state_seq_get_data failed")
        self._lib.llama_memory_seq_rm(self._memory, self._moving, -1, -1)
        return state

    def _put(self, state: State, owners: Sequence[tuple[int, int]], start: int) -> None:
        """Put a state into the first cells that are free, for sequences that hold it from a position on up to a length each."""
        if not self._lib.llama_state_seq_set_data(self._context, state, len(state), self._moving):
            raise RuntimeError("llama_state_seq_set_data failed")
        for sequence, length in owners:
            self._lib.llama_memory_seq_cp(self._memory, self._moving, sequence, start, length)
        self._lib.llama_memory_seq_rm(self._memory, self._moving, -1, -1)

    def clear(self) -> None:
        """Forget everything."""
        self._lib.llama_memory_clear(self._memory, True)
        self._in_context.clear()
        self._held = [b""] * self._sequences
        self._parked.clear()
        self._taken = 0

    def decode(self, fed: Sequence[Fed]) -> list[int]:
        """Evaluate tokens of several sequences at once.

        Args:
            fed: At most `BATCH` tokens in all.

        Returns:
            For each sequence fed, the place of its last token in the batch: where to sample what follows.

        Raises:
            OutOfCells: When there is no room; nothing has changed then.
            RuntimeError: When llama.cpp fails.
        """
        batch, place = self._batch, 0
        places = []
        for part in fed:
            for offset, token in enumerate(part.tokens):
                batch.token[place], batch.pos[place] = token, part.start + offset
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, part.sequence
                batch.logits[place] = part.wanted and offset == len(part.tokens) - 1
                place += 1
            places.append(place - 1)
        batch.n_tokens = place
        code = self._lib.llama_decode(self._context, batch)
        if code == _NO_CELLS:
            raise OutOfCells
        if code != 0:
            raise RuntimeError(f"llama_decode failed with code {code}")
        for part in fed:
            self._held[part.sequence] += packed(part.tokens)
        self._taken += place
        return places
