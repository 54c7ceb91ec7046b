"""DigestAgent: an account of a repository in which code establishes the facts and the model says what they are for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from noa_lab.agents._assemble import Reply, assemble
from noa_lab.agents._digest import RepositoryDigest
from noa_lab.agents._plan import STEP, Plan, Planner, Question
from noa_lab.agents._prompt import DigestPrompt
from noa_lab.errors import BadInput, ContextOverflow, InferenceError, ServerError
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.inference import InferenceConfig, InferenceEngine

__all__ = ["DigestAgent"]

_GREEDY = InferenceConfig(temperature=0.0, max_tokens=256)
_MODEL_FAILED = (InferenceError, ServerError, ContextOverflow)


class DigestAgent:
    """Writes digests of repositories with the help of a model.

    Files are listed as git sees them, in a way in which nothing in the repository can run; facts (languages, sizes, dependencies,
    entry points) come from code; the model is asked only for the purpose and for the roles of the main parts. Every prompt is
    counted by the model's own tokenizer before it is sent and fits its context. When an answer cannot be used, the digest is
    "partial" and falls back on the repository's own words; that is no error.

    Answers are greedy (temperature 0) unless `config` says otherwise: a digest should not change from one call to the next.

    Args:
        engine: The model.
        prompt: How it is asked; default: `DigestPrompt.questions()` for repositories, `DigestPrompt.seed()` for texts.
        config: Sampling; only the fields that were set count. `max_tokens` is per request: default 256, at most 96 for
            the purpose and 64 for a role where one sentence is asked for, and at most a quarter of the context.
        max_prompt_tokens: Most tokens of one prompt, also where the context would hold more: small models lose the thread, and
            a CPU needs seconds for a thousand tokens.
        max_components: Most parts that the model is asked about.

    Raises:
        BadInput: A limit that is too small.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        prompt: DigestPrompt | None = None,
        config: InferenceConfig | None = None,
        *,
        max_prompt_tokens: int = 1024,
        max_components: int = 12,
    ) -> None:
        for name, value, least in (("max_prompt_tokens", max_prompt_tokens, 1), ("max_components", max_components, 0)):
            if value < least:
                message = f"DigestAgent: {name} = {value} is not allowed."
                raise BadInput(message, fix=f"Give at least {least}.", field=name, value=value)
        self._engine = engine
        self._prompt = prompt
        self._planner = Planner(
            engine, config.over(_GREEDY) if config is not None else _GREEDY, max_prompt_tokens, max_components
        )

    def analyze_repository(
        self, path: str | Path, *, report: Report = silent, cancel: CancelToken | None = None
    ) -> RepositoryDigest:
        """A digest of the folder at `path`.

        Args:
            path: A folder, in a git repository or not.
            report: Told how far it is: "Read the files", then "Ask the model".
            cancel: Asked before every file and every request.

        Returns:
            The digest; `status` is "partial" when an answer of the model could not be used or the model could not be reached.

        Raises:
            BadInput: `path` is no folder that can be read.
            ContextOverflow: Not even the prompt without content fits the model's context.
            Cancelled: `cancel` was called.
        """
        cancel = cancel or CancelToken()
        plan = self._planner.repository(Path(path), self._prompt or DigestPrompt.questions(), report, cancel)
        return self._answered(plan, report, cancel)

    async def aanalyze_repository(
        self, path: str | Path, *, report: Report = silent, cancel: CancelToken | None = None
    ) -> RepositoryDigest:
        """Async twin of `analyze_repository`; cancelling the task cancels the request that is going on."""
        cancel = cancel or CancelToken()
        prompt = self._prompt or DigestPrompt.questions()
        try:
            plan = await asyncio.to_thread(self._planner.repository, Path(path), prompt, report, cancel)
        except asyncio.CancelledError:
            cancel.cancel()  # the thread that still reads files stops at the next one
            raise
        return await self._aanswered(plan, report, cancel)

    def analyze_content(self, text: str) -> RepositoryDigest:
        """A digest of a text, in one request: the seed document's form.

        A text that does not fit is cut at a line; `warnings` says so. A path that the model names counts when it occurs in the
        text. Facts are empty: code knows nothing about a bare text.

        Raises:
            BadInput: The text is empty.
            ContextOverflow: Not even the prompt without content fits the model's context.
        """
        return self._answered(self._text_plan(text), silent, CancelToken())

    async def aanalyze_content(self, text: str) -> RepositoryDigest:
        """Async twin of `analyze_content`."""
        plan = await asyncio.to_thread(self._text_plan, text)
        return await self._aanswered(plan, silent, CancelToken())

    def _text_plan(self, text: str) -> Plan:
        if not text.strip():
            raise BadInput(
                "There is no text to analyse.", fix="Give the repository's content as text.", field="text", value=text
            )
        return self._planner.text(text, self._prompt or DigestPrompt.seed())

    def _answered(self, plan: Plan, report: Report, cancel: CancelToken) -> RepositoryDigest:
        replies = []
        for question in _one_by_one(plan, report, cancel):
            try:
                replies.append(Reply(question, self._engine.chat(question.packed.messages, question.config)))
            except _MODEL_FAILED as error:
                replies.append(Reply(question, error))
        return assemble(plan, replies, self._engine.model_name)

    async def _aanswered(self, plan: Plan, report: Report, cancel: CancelToken) -> RepositoryDigest:
        replies = []
        for question in _one_by_one(plan, report, cancel):
            try:
                replies.append(Reply(question, await self._engine.achat(question.packed.messages, question.config)))
            except _MODEL_FAILED as error:
                replies.append(Reply(question, error))
        return assemble(plan, replies, self._engine.model_name)


def _one_by_one(plan: Plan, report: Report, cancel: CancelToken) -> Iterator[Question]:
    """The questions, with progress before each."""
    total = len(plan.questions)
    for number, question in enumerate(plan.questions):
        cancel.check("The digest")
        about = question.part.path if question.part is not None else "the whole"
        report(Progress(STEP, f"about {about}", done=number, total=total, unit="questions"))
        yield question
    report(Progress(STEP, done=total, total=total, unit="questions", finished=True))
