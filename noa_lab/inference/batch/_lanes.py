"""Many questions on one llama-server: its slots as lanes, what prompts share evaluated once."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from noa_lab.errors import CannotShare, RequestRefused, ServerExited, StreamBroken, Unreachable
from noa_lab.inference._chat_format import format_chat_prompt
from noa_lab.inference._completion import Completion
from noa_lab.inference._http import Connection
from noa_lab.inference._protocol import Capabilities
from noa_lab.inference._requests import CompletionResponse
from noa_lab.inference._sampling import check_echo
from noa_lab.inference._types import ChatMessage, InferenceConfig
from noa_lab.inference.batch._copying import CopyingSchedule
from noa_lab.inference.batch._lane_server import LaneServer
from noa_lab.inference.batch._pinned import PinnedSchedule
from noa_lab.inference.batch._prefixes import SHORTEST, Prefixes, packed, unpacked
from noa_lab.inference.batch._questions import BatchFacts, BatchQuestion, BatchSink, Windows
from noa_lab.inference.batch._schedule import Ask, Job, Prepare
from noa_lab.inference.batch._sharing import SharingWatch, prove_sharing
from noa_lab.inference.batch._speeds import Speeds
from noa_lab.inference.batch._width import Sample, Width
from noa_lab.inference.batch._wire import Wire

__all__ = ["LOST", "Lanes"]

LOST = (Unreachable, StreamBroken, ServerExited)
"""Errors after which the server has to be found again."""

_LOOK_SECONDS = 0.002

_EARLY = 32
"""Most arms of which one answer comes early: each may need a trunk of its own to be kept."""

_GUESSED_ANSWER = 32
"""Tokens that an answer is thought to have, at most, before there is one."""

Body = Callable[[Sequence[int], InferenceConfig, int], dict[str, Any]]
Finish = Callable[[CompletionResponse, dict[str, Any], int | None], Completion]


class Lanes:
    """A `BatchEngine` over the slots of one llama-server, which nobody else may use meanwhile.

    Args:
        connection: The server's address and key.
        what: What the server can do.
        body: Makes the request for a prompt, a config and a seed.
        finish: Makes the protocol's answer of the server's.
        speeds: What is known of the server's speed.
    """

    name = "lanes"

    def __init__(
        self, connection: Connection, what: Capabilities, *, body: Body, finish: Finish, speeds: Speeds | None = None
    ) -> None:
        self._what, self._body, self._finish = what, body, finish
        self._server = LaneServer(Wire(connection))
        self.speeds = speeds or Speeds()
        self.facts = BatchFacts(lanes=what.slots)
        self._width = Width(what.slots)
        self._longest = 0
        """Tokens of the longest answer so far."""
        self._schedule: CopyingSchedule | PinnedSchedule = PinnedSchedule(
            what.slots, worth=self._worth, width=self._lanes_at_work
        )
        self._watch = SharingWatch()
        self._questions: dict[int, BatchQuestion] = {}
        """Those that are not answered in full yet: a long run does not keep what it is through with."""
        self._missing: dict[int, int] = {}
        """Answers that each of them still gets."""
        self._begun = False
        self._names = f"noa-{secrets.token_hex(4)}"
        self._free_names: list[str] = []
        self._saved: dict[int, str] = {}

    async def prompt(self, messages: Sequence[ChatMessage]) -> tuple[str, tuple[int, ...]]:
        """See `BatchEngine`."""
        template = self._what.chat_template
        text = await self._server.apply_template(messages) if template else format_chat_prompt(messages)
        return text, await self._server.tokenize(text)

    async def aclose(self) -> None:
        """See `BatchEngine`."""
        await self._server.aclose()

    def _worth(self, tokens: int, answers: int, lanes: int) -> bool:
        seen = self._watch.answers
        each = self.facts.generated / seen if seen else self._longest_answer()
        return self.speeds.worth(tokens, answers * each, lanes)

    def _longest_answer(self) -> int:
        """Tokens that an answer has at most, as far as is known."""
        if self._watch.answers:
            return self._longest
        longest = max((question.config.max_tokens for question in self._questions.values()), default=1)
        return min(longest, _GUESSED_ANSWER)

    def _lanes_at_work(self) -> int:
        return self._width.now(self._longest_answer(), self._schedule.waiting)

    async def run(self, windows: Windows, sink: BatchSink) -> None:
        """See `BatchEngine`."""
        self.facts.copying = await self._server.can_save()
        if self.facts.copying:
            self._schedule = CopyingSchedule(self._what.slots, worth=self._worth, width=self._lanes_at_work)
        jobs: dict[asyncio.Task[None], int] = {}
        coming: asyncio.Task[Sequence[BatchQuestion] | None] | None = None
        over = False
        try:
            while True:
                if coming is None and not over and self._schedule.waiting <= 2 * self._what.slots:
                    self._width.disturbed()
                    coming = asyncio.create_task(_next(windows))
                while not sink.stopping() and (job := self._schedule.next()) is not None:
                    jobs[await self._start(job, sink, jobs)] = job.lane
                if sink.stopping() and not jobs:
                    return
                if not jobs and coming is None:
                    return
                done, _ = await asyncio.wait(
                    {*jobs, *([coming] if coming else [])}, return_when=asyncio.FIRST_COMPLETED
                )
                if coming in done:
                    window, coming = coming.result() if coming else None, None
                    over = window is None
                    await self._take_in(window or ())
                for task in [task for task in jobs if task in done]:
                    del jobs[task]
                    task.result()
        finally:
            await _end(jobs, coming)

    async def _take_in(self, window: Sequence[BatchQuestion]) -> None:
        if not window:
            return
        self._width.disturbed()
        tokens = [packed(question.tokens) for question in window]
        early: list[int] = []
        if not self._begun:
            self._begun = True
            early = list({question.arm: index for index, question in reversed(list(enumerate(window)))}.values())
            early = sorted(early)[:_EARLY]
            await self._prove(tokens)
        elif self._watch.useless and isinstance(self._schedule, CopyingSchedule):
            self._schedule.share_nothing()
        answers = [len(question.seeds) for question in window]
        numbers = list(self._schedule.add(tokens, answers, early))
        self._questions.update(zip(numbers, window, strict=True))
        self._missing.update(zip(numbers, answers, strict=True))

    async def _prove(self, tokens: Sequence[bytes]) -> None:
        """Make sure, before anything is asked, that the model can share; the trunk that this takes is the first one needed."""
        prompt = tokens[0] if self.facts.copying else min(tokens)
        first = [trunk for trunk in Prefixes(tokens).trunks(SHORTEST) if prompt.startswith(trunk.tokens)]
        if first:
            # The outermost: a longer one would be cut back to it when it is saved.
            self._count(first[0].length + 1, await prove_sharing(self._server, unpacked(first[0].tokens)))
            self._schedule.holds(0, first[0].tokens)

    async def _start(self, job: Job, sink: BatchSink, jobs: Mapping[asyncio.Task[None], int]) -> asyncio.Task[None]:
        """Begin a job. One that takes child lanes begins alone.

        llama-server itself chooses the slots of further answers, among those that are idle just then. A lane that is told to do something
        and does not do it yet, or that was restored and is about to be asked, would be one of them and lose what it holds.
        """
        if isinstance(job, Prepare):
            return asyncio.create_task(self._prepare(job))
        sample = self._width.begin(self._longest_answer(), self._schedule.waiting, job.count, time.monotonic())
        if not job.children:
            return asyncio.create_task(self._ask(job, sink, sample))
        before = await self._working(jobs)
        task = asyncio.create_task(self._ask(job, sink, sample))
        after = await self._working({task: job.lane}, besides=before)
        if not task.done():
            new = {slot for slot, number in after.items() if number != before.get(slot)}
            self._schedule.took(job, new - {job.lane})
        return task

    async def _working(
        self, jobs: Mapping[asyncio.Task[None], int], besides: Mapping[int, int] | None = None
    ) -> dict[int, int]:
        """Wait until the server works on every one of these jobs, or is done with it.

        Args:
            jobs: The jobs, and their lanes.
            besides: Work that a slot had before and that does not count.

        Returns:
            By slot at work: the number of what it works on.
        """
        while True:
            working = await self._server.working()
            old = besides or {}
            idle = {
                task
                for task, lane in jobs.items()
                if not task.done() and (lane not in working or working[lane] == old.get(lane))
            }
            if not idle:
                return working
            await asyncio.wait(idle, timeout=_LOOK_SECONDS)

    async def _prepare(self, job: Prepare) -> None:
        assert isinstance(self._schedule, CopyingSchedule)
        saved = failed = False
        self._width.disturbed()
        try:
            reuse = await self._restore(job.lane, job.restore, job.reuse)
            tokens = unpacked(job.tokens)
            kept, evaluated = await self._server.evaluate(job.lane, tokens)
            self._count(len(tokens) - reuse, evaluated)
            self._watch.note(reuse, kept)
            name = self._free_names.pop() if self._free_names else f"{self._names}-{job.trunk}.bin"
            count, size = await self._server.save(job.lane, name)
            self._saved[job.trunk], saved = name, count == len(tokens)
            self.facts.saved_bytes = max(self.facts.saved_bytes, size)
            self.facts.trunks += saved
        except RequestRefused:
            failed = True  # a disk that is full, for example: each lane then evaluates this trunk for itself
        finally:
            self._width.disturbed()
            self._schedule.prepared(job, saved=saved, failed=failed)

    async def _restore(self, lane: int, trunk: int | None, reuse: int) -> int:
        """Put a trunk into a lane; returns how much of the prompt is there then."""
        if trunk is None:
            return reuse
        try:
            await self._server.restore(lane, self._saved[trunk])
        except RequestRefused:
            return 0
        self.facts.copies += 1
        return reuse

    def _count(self, expected: int, evaluated: int) -> None:
        self.facts.expected += expected
        self.facts.evaluated += evaluated

    async def _ask(self, job: Ask, sink: BatchSink, sample: Sample | None) -> None:
        question = self._questions[job.question]
        answers = range(job.first, job.first + job.count)
        sink.begin(question, answers)
        failed, tokens = True, None
        try:
            reuse = await self._restore(job.lane, job.restore, job.reuse)
            busy = self._schedule.busy
            completions = await self._completions(question, job)
            tokens = self._note(question, completions, reuse, busy)
        except (asyncio.CancelledError, CannotShare):
            sink.undone(question, answers, None)
            raise
        except LOST as error:
            sink.undone(question, answers, error)
            raise
        except Exception as error:
            sink.undone(question, answers, error)
        else:
            failed = False
            for answer, completion in zip(answers, completions, strict=True):
                sink.answered(question, answer, completion)
        finally:
            self._width.end(sample, time.monotonic(), tokens)
            self.facts.lanes, self.facts.paces = self._width.best or self._what.slots, self._width.paces
            self._schedule.asked(job, failed=failed)
            self._forget(job)

    async def _completions(self, question: BatchQuestion, job: Ask) -> list[Completion]:
        seed = question.seeds[job.first]
        body = self._body(question.tokens, question.config, seed or 0)
        body |= {"cache_prompt": True, "id_slot": job.lane}
        if job.count > 1:
            body["n"] = job.count
        responses = await self._server.ask(body)
        if len(responses) != job.count:
            raise RequestRefused(
                f"The server gave {len(responses)} answers where {job.count} were asked for.",
                fix="Use a llama-server of 2026 or later.",
                url=self._server.url,
                status=200,
            )
        # Short answers can be over before anybody has looked which lanes take them.
        self._schedule.answered_by(job, {each.id_slot for each in responses if each.id_slot >= 0})
        check_echo(body, responses[0].raw.get("generation_settings") or {}, self._server.url)
        kept = {**body, "prompt": question.text}  # which people can read; it stands for the same tokens
        found = [self._finish(each, kept, None if seed is None else seed + n) for n, each in enumerate(responses)]
        # A child repeats its parent's count of evaluated tokens; it was given them all.
        return found[:1] + [dataclasses.replace(one, cached_tokens=one.prompt_tokens) for one in found[1:]]

    def _note(self, question: BatchQuestion, completions: list[Completion], reuse: int, busy: int) -> int:
        """Learn from a question's answers; returns the tokens evaluated and generated for them."""
        first = completions[0]
        evaluated = first.prompt_tokens - first.cached_tokens
        generated = sum(completion.completion_tokens for completion in completions)
        self._count(len(question.tokens) - reuse, evaluated)
        self.facts.generated += generated
        self._longest = max(self._longest, *(completion.completion_tokens for completion in completions))
        self.speeds.note(first, evaluated, busy)
        self._watch.note(reuse, first.cached_tokens, answers=len(completions))
        return evaluated + generated

    def _forget(self, job: Ask) -> None:
        """Let go of what is not needed any more after this job."""
        self._missing[job.question] -= job.count
        if not self._missing[job.question]:
            del self._missing[job.question], self._questions[job.question]
        if isinstance(self._schedule, CopyingSchedule):
            while self._schedule.unneeded:
                # The file is written over by the next trunk; the folder ends with the server.
                self._free_names.append(self._saved.pop(self._schedule.unneeded.pop()))


async def _next(windows: Windows) -> Sequence[BatchQuestion] | None:
    return await anext(windows, None)


async def _end(jobs: Collection[asyncio.Task[None]], coming: asyncio.Task[Any] | None) -> None:
    rest = {*jobs, *([coming] if coming is not None else [])}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
