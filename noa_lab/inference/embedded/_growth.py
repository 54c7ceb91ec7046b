"""Many answers growing side by side in one context: the work of the child process of a `TreeEngine`.

The schedule is that of lanes on a server which can copy slots, with sequences for slots: saving a trunk is a `llama_memory_seq_cp`, which
takes no time and no memory, and further answers to one prompt begin with the logits of its one evaluation.
Each step decodes one batch: a token for every answer that grows, and as many prompt tokens as there is room for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noa_lab.inference.batch._copying import CopyingSchedule
from noa_lab.inference.batch._prefixes import common, packed, unpacked
from noa_lab.inference.batch._schedule import Ask, Job, Prepare
from noa_lab.inference.embedded._sampler import GrammarInvalid, Sampler
from noa_lab.inference.embedded._text_cutter import TextCutter
from noa_lab.inference.embedded._tree_model import BATCH, Fed, OutOfCells, TreeModel

__all__ = ["Asked", "Growth"]

Message = dict[str, Any]
Say = Callable[[Message], None]

SHORTEST = 12
"""Fewest tokens that are worth a trunk of their own: one costs a batch more, which mostly goes on anyway."""


_WORTH_WAITING = 4
"""Tokens that a prompt waits for while another one that begins alike is evaluated: more steps cost about what two tokens do."""


_LOOSE = 256
"""Fewest cells that are worth being freed: llama.cpp's attention goes over the context in steps of as many."""

_TILE = 64
"""Tokens in a batch from which llama.cpp's attention on a CPU goes over the context in tiles: each of them costs less, and sums are added
up in another order. A token is evaluated as a server would that evaluates its whole prompt in batches of `BATCH`."""

_SOON = 4
"""Steps that a few tokens of a prompt wait for answers that are about to end: what comes after those is evaluated along with them."""


@dataclass(slots=True, eq=False)
class Asked:
    """One question of a batch.

    Attributes:
        batch: Number of the message that it came with.
        index: Its place in that message.
        what: What the parent said: tokens, seeds, sampling, grammar, max_tokens, stop.
        prompt: Its tokens, packed.
        left: Answers that are not there yet.
    """

    batch: int
    index: int
    what: Mapping[str, Any]
    prompt: bytes
    left: int


@dataclass(slots=True, eq=False)
class _Feeding:
    """A prompt that is being evaluated."""

    job: Job
    prompt: bytes
    tokens: tuple[int, ...]
    whole: int
    """Tokens of the prompt that it is the beginning of."""
    reused: int = 0
    at: int = 0
    placed: bool = False
    """Whether what another sequence has of it is in its lane."""
    since: float = 0.0
    """When its first token was evaluated; 0.0 before that."""


@dataclass(slots=True, eq=False)
class _Answer:
    """An answer that grows."""

    job: Ask
    asked: Asked
    number: int
    lane: int
    sampler: Sampler
    cutter: TextCutter
    position: int
    began: float
    first: float
    cached: int
    last: int = 0
    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)


class Growth:
    """Answers batches of questions.

    Args:
        model: The model; sequences from 0 on are lanes, those after them keep trunks.
        lanes: How many answers may grow at once.
        stores: How many trunks can be kept.
        say: Sends a message to the parent.
    """

    def __init__(self, model: TreeModel, lanes: int, stores: int, say: Say) -> None:
        self._model, self._lanes, self._say = model, lanes, say
        self._keeping = range(lanes, lanes + stores)
        """Sequences that keep trunks."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._schedule = CopyingSchedule(self._lanes, shortest=SHORTEST, obeyed=True)
        self._questions: dict[int, Asked] = {}
        self._open: dict[int, int] = {}
        """By batch: questions of which answers are missing."""
        self._feeding: list[_Feeding] = []
        self._answers: list[_Answer] = []
        self._kept: dict[int, int] = {}
        """By trunk: the sequence that keeps it."""
        self._free = list(reversed(self._keeping))
        self._evaluated = 0
        """Prompt tokens evaluated that the parent has not been told of."""
        self._model.clear()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._open)

    @property
    def batches(self) -> set[int]:
        """The messages of which answers are missing."""
        return set(self._open)

    def add(self, batch: int, questions: Iterable[Mapping[str, Any]], early: Iterable[int]) -> None:
        """Take the questions of one message in."""
        asked = [
            Asked(batch, index, what, packed(what["tokens"]), len(what["seeds"]))
            for index, what in enumerate(questions)
        ]
        if not self._open:
            # Single questions may have used the context meanwhile.
            self._model.clear()
        self._open[batch] = len(asked)
        numbers = self._schedule.add([each.prompt for each in asked], [each.left for each in asked], list(early))
        self._questions.update(zip(numbers, asked, strict=True))
        self._end_if_done(batch)

    def enough(self) -> None:
        """Begin nothing more; what is under way goes on."""
        self._schedule.drop()
        going: dict[int, int] = {}
        for answer in self._answers:
            going[id(answer.asked)] = going.get(id(answer.asked), 0) + 1
        for feeding in self._feeding:
            if isinstance(feeding.job, Ask):
                key = id(self._questions[feeding.job.question])
                going[key] = going.get(key, 0) + feeding.job.count
        self._open = dict.fromkeys(self._open, 0)
        for asked in self._questions.values():
            asked.left = going.get(id(asked), 0)
            self._open[asked.batch] = self._open.get(asked.batch, 0) + (asked.left > 0)
        for batch in [batch for batch, left in self._open.items() if left == 0]:
            self._end_if_done(batch)

    def cancel(self) -> None:
        """Stop everything at once."""
        for answer in self._answers:
            answer.sampler.close()
        self._begin_anew()

    # One step

    def step(self) -> None:
        """Begin what can be begun, decode one batch, and take what it brings.

        Raises:
            RuntimeError: When llama.cpp fails.
        """
        self._begin_more()
        parts = list(self._parts(BATCH, in_tiles=True))
        tokens = sum(count for _, count in parts)
        if tokens >= _TILE:
            if not self._more_soon(tokens):
                self._decode([], parts)
            parts = []
        growing = list(self._answers)
        room = _TILE - 1 - len(growing) - sum(count for _, count in parts)
        parts += self._parts(room, in_tiles=False)
        if self._more_soon(len(growing) + sum(count for _, count in parts)):
            parts = []
        if growing or parts:
            self._decode(growing, parts)

    def _begin_more(self) -> None:
        """Begin what can be begun, and tidy up where it is time to."""
        if self._model.crowded:
            self._tidy()
        while not self._model.crowded and (job := self._schedule.next()) is not None:
            self._begin(job)
        for number, feeding in enumerate(self._feeding):
            if not feeding.placed and not self._model.crowded:
                self._place(feeding, self._feeding[:number])
        self._tidy()

    def _tidy(self) -> None:
        """Let go of what is not needed where more can begin then, or where so much has come together that moving the rest costs less."""
        needed = self._working() | self._schedule.spared
        room = self._model.room(needed)
        more = self._model.crowded and not self._model.would_be_crowded(room)
        if more or self._model.taken - room >= max(_LOOSE, room // 4):
            self._model.tidy(needed, self._keeping)

    def _working(self) -> set[int]:
        """The lanes that hold something that is needed."""
        fed = {feeding.job.lane for feeding in self._feeding if feeding.placed}
        return fed | {answer.lane for answer in self._answers}

    def _parts(self, room: int, *, in_tiles: bool) -> Iterator[tuple[_Feeding, int]]:
        """The prompts to go on with, and how many tokens of each there is room for.

        Args:
            room: For how many tokens.
            in_tiles: Whether to take those that a server evaluates in tiles, or the others.
        """
        for feeding in self._feeding:
            if room <= 0:
                return
            if feeding.placed:
                start = feeding.at // BATCH * BATCH
                if (min(feeding.whole - start, BATCH) >= _TILE) == in_tiles:
                    count = min(room, len(feeding.tokens) - feeding.at, start + BATCH - feeding.at)
                    room -= count
                    yield feeding, count

    def _decode(self, growing: Sequence[_Answer], parts: Sequence[tuple[_Feeding, int]]) -> None:
        """Decode one batch, and take what it brings."""
        fed = [Fed(answer.lane, answer.position, (answer.last,), wanted=True) for answer in growing]
        for feeding, count in parts:
            feeding.since = feeding.since or time.perf_counter()
            tokens = feeding.tokens[feeding.at : feeding.at + count]
            wanted = feeding.at + count == len(feeding.tokens) and isinstance(feeding.job, Ask)
            fed.append(Fed(feeding.job.lane, feeding.at, tokens, wanted=wanted))
        places = self._evaluate(fed)
        for answer, place in zip(growing, places, strict=False):
            answer.position += 1
            self._grow(answer, place)
        for (feeding, count), place in zip(parts, places[len(growing) :], strict=True):
            self._evaluated += count
            feeding.at += count
            if feeding.at == len(feeding.tokens) and feeding in self._feeding:
                self._feeding.remove(feeding)
                self._fed(feeding, place)

    def _more_soon(self, tokens: int) -> bool:
        """Whether a step of so many tokens is better put off until answers end whose lanes bring more of them.

        A tile that is not full costs as much as a full one.
        """
        if tokens >= 2 * _TILE or not self._schedule.waiting:
            return False
        return any(self._longest(answer.asked) - len(answer.tokens) <= _SOON for answer in self._answers)

    def _evaluate(self, fed: Sequence[Fed]) -> list[int]:
        """Decode one batch; room is made for it where there is none."""
        try:
            return self._model.decode(fed)
        except OutOfCells:
            self._model.tidy(self._working(), self._keeping)
            return self._model.decode(fed)

    def _begin(self, job: Job) -> None:
        if isinstance(job, Prepare):
            wholes = [
                len(each.what["tokens"]) for each in self._questions.values() if each.prompt.startswith(job.tokens)
            ]
            self._feed(job, job.tokens, min(wholes))
            return
        asked = self._questions[job.question]
        self._say({"id": asked.batch, "begun": asked.index, "first": job.first, "count": job.count})
        self._feed(job, asked.prompt, len(asked.what["tokens"]))

    def _feed(self, job: Job, prompt: bytes, whole: int) -> None:
        self._feeding.append(_Feeding(job, prompt, unpacked(prompt), whole))

    def _place(self, feeding: _Feeding, ahead: Iterable[_Feeding]) -> None:
        """Let a prompt go on from what any sequence has of it: the answer that grows there leaves its prompt as it is.

        It waits where one of the prompts ahead of it will have clearly more of it in a moment.
        """
        source, shared = self._model.nearest(feeding.prompt)
        if max((common(other.prompt, feeding.prompt) for other in ahead), default=0) >= shared + _WORTH_WAITING:
            return
        # The last token is evaluated in any case: its logits are what an answer begins with.
        feeding.reused = feeding.at = min(shared, len(feeding.tokens) - 1)
        feeding.placed = True
        self._model.copy(source, feeding.job.lane, feeding.at)

    def _fed(self, feeding: _Feeding, place: int) -> None:
        """A prompt has been evaluated."""
        job = feeding.job
        if isinstance(job, Prepare):
            saved = bool(self._free)
            if saved:
                self._kept[job.trunk] = self._free.pop()
                self._model.copy(job.lane, self._kept[job.trunk], len(feeding.tokens))
            self._schedule.prepared(job, saved=saved)
            return
        asked = self._questions[job.question]
        for number, lane in enumerate((job.lane, *job.children)):
            if number:
                self._model.copy(job.lane, lane, len(feeding.tokens))
            try:
                sampler = self._sampler(asked, job.first + number)
            except GrammarInvalid as error:
                self._refuse(job, asked, job.first + number, lane, str(error))
                continue
            cached = feeding.reused if number == 0 else len(feeding.tokens)
            answer = _Answer(
                job, asked, job.first + number, lane, sampler, TextCutter(asked.what["stop"]), len(feeding.tokens),
                feeding.since, 0.0, cached,
            )  # fmt: skip
            self._answers.append(answer)
            self._grow(answer, place)

    def _sampler(self, asked: Asked, answer: int) -> Sampler:
        seed = asked.what["seeds"][answer]
        sampling = {**asked.what["sampling"], "seed": 0 if seed is None else seed}
        return self._model.sampler(sampling, asked.what["grammar"], asked.what["tokens"])

    def _grow(self, answer: _Answer, place: int) -> None:
        """Sample the next token of an answer, and end it where it ends."""
        what = answer.asked.what
        token = self._model.sample(answer.sampler, place)
        now = time.perf_counter()
        answer.first = answer.first or now
        answer.tokens.append(token)
        if what["sampling"]["n_probs"]:
            answer.logprobs.append(self._model.probability(token, place, what["sampling"]["n_probs"]))
        answer.last = token
        if self._model.ends(token):
            self._end(answer, "stop", now)
            return
        answer.text.append(answer.cutter.feed(self._model.piece(token)))
        if answer.cutter.stopped:
            self._end(answer, "stop_sequence", now)
        elif len(answer.tokens) >= self._longest(answer.asked):
            self._end(answer, "length", now)

    def _longest(self, asked: Asked) -> int:
        """Tokens that an answer can have."""
        return min(int(asked.what["max_tokens"]), self._model.context_size - len(asked.what["tokens"]))

    def _end(self, answer: _Answer, reason: str, now: float) -> None:
        what = answer.asked.what
        answer.text.append(answer.cutter.flush())
        answer.sampler.close()
        self._answers.remove(answer)
        self._say(
            {
                "id": answer.asked.batch,
                "question": answer.asked.index,
                "answer": answer.number,
                "text": "".join(answer.text),
                "finish_reason": reason,
                "prompt_tokens": len(what["tokens"]),
                "cached_tokens": answer.cached,
                "completion_tokens": len(answer.tokens),
                "truncated": reason == "length" and len(answer.tokens) < what["max_tokens"],
                "prefill_ms": (answer.first - answer.began) * 1000,
                "decode_ms": (now - answer.first) * 1000,
                "tokens": answer.tokens,
                "logprobs": answer.logprobs,
                "evaluated": self._untold(),
            }
        )
        self._over(answer.job, answer.asked, answer.lane)

    def _untold(self) -> int:
        told, self._evaluated = self._evaluated, 0
        return told

    def _refuse(self, job: Ask, asked: Asked, number: int, lane: int, reason: str) -> None:
        self._say({"id": asked.batch, "question": asked.index, "answer": number, "refused": reason})
        self._over(job, asked, lane)

    def _over(self, job: Ask, asked: Asked, lane: int) -> None:
        """A lane has finished its answer."""
        self._schedule.freed(job, lane)
        if not any(answer.job is job for answer in self._answers) and not self._schedule.working(job):
            self._schedule.asked(job)
        for trunk in self._schedule.unneeded:
            sequence = self._kept.pop(trunk)
            self._model.forget(sequence)
            self._free.append(sequence)
        self._schedule.unneeded.clear()
        asked.left -= 1
        if asked.left == 0:
            del self._questions[job.question]
            self._open[asked.batch] -= 1
            self._end_if_done(asked.batch)

    def _end_if_done(self, batch: int) -> None:
        if self._open.get(batch) == 0:
            del self._open[batch]
            self._say({"id": batch, "done": {"evaluated": self._untold()}})
            if not self._open:
                self._begin_anew()
