"""What a digest will ask the model: every question with its prompt, packed and counted, before the first is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from noa_lab.agents._budget import Packed, Piece, fit
from noa_lab.agents._components import Part, find_parts
from noa_lab.agents._digest import RepositoryFacts
from noa_lab.agents._facts import gather_facts
from noa_lab.agents._material import facts_head, part_head, ranked
from noa_lab.agents._outline import Level
from noa_lab.agents._prompt import DigestPrompt
from noa_lab.agents._secrets import redact
from noa_lab.agents._survey import Survey, SurveyedFile, survey
from noa_lab.errors import ContextOverflow, InferenceError, ServerError
from noa_lab.events import CancelToken, Report
from noa_lab.inference import InferenceConfig, InferenceEngine

__all__ = ["STEP", "Plan", "Planner", "Question"]

STEP = "Ask the model"
_PURPOSE_TOKENS = 96
_ROLE_TOKENS = 64
_PART_PROMPT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Question:
    """One request: about the whole (`part` is None) or about one part."""

    packed: Packed
    config: InferenceConfig
    part: Part | None = None


@dataclass(slots=True)
class Plan:
    """Everything that is known before the model is asked.

    Attributes:
        facts: What code established.
        prompt: How the model is asked.
        parts: The main parts, by code.
        questions: What will be sent; empty when there is nothing to read, or the model could not even be asked for its context.
        found: The files; None when only a text was given.
        text: The text, when only that was given.
        redacted: Secrets taken out.
        warnings: What a reader should know.
        context: Tokens that the model's context holds; 0 when unknown.
    """

    facts: RepositoryFacts
    prompt: DigestPrompt
    parts: list[Part] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    found: Survey | None = None
    text: str = ""
    redacted: int = 0
    warnings: list[str] = field(default_factory=list)
    context: int = 0


@dataclass(frozen=True, slots=True)
class Planner:
    """Makes plans for one engine under fixed limits (see `DigestAgent`)."""

    engine: InferenceEngine
    config: InferenceConfig
    max_prompt_tokens: int
    max_components: int

    def repository(self, path: Path, prompt: DigestPrompt, report: Report, cancel: CancelToken) -> Plan:
        """The plan for a folder."""
        found = survey(path, report=report, cancel=cancel)
        facts, warnings = gather_facts(found)
        plan = Plan(
            facts,
            prompt,
            find_parts(found.files, self.max_components),
            found=found,
            redacted=found.redacted,
            warnings=[*found.warnings, *warnings],
        )
        if not any(file.text and file.text.strip() for file in found.files):
            # Without anything to read, whatever a model says is made up.
            plan.warnings.append("There is no text to read, so the model was not asked.")
            return plan
        head = facts_head(facts, found.files)
        try:
            plan.context = self.engine.capabilities.context_size
            plan.questions.append(self._question(plan, head, found.files, self.max_prompt_tokens))
            for part in plan.parts if prompt.part is not None else ():
                cancel.check(STEP)
                self._ask_about(plan, part)
        except (InferenceError, ServerError) as error:
            plan.questions.clear()
            plan.warnings.append(f"The model could not be asked: {error.message}")
        return plan

    def text(self, text: str, prompt: DigestPrompt) -> Plan:
        """The plan for a text: one question."""
        cleared, secrets = redact(text.strip())
        plan = Plan(RepositoryFacts(name=""), prompt, text=cleared, redacted=secrets)
        try:
            plan.context = self.engine.capabilities.context_size
            plan.questions.append(self._question(plan, cleared, (), self.max_prompt_tokens))
        except (InferenceError, ServerError) as error:
            plan.warnings.append(f"The model could not be asked: {error.message}")
            return plan
        shown = len(plan.questions[0].packed.text)
        if shown < len(cleared):
            plan.warnings.append(f"Only the first {shown} of {len(cleared)} characters fit the prompt.")
        return plan

    def _ask_about(self, plan: Plan, part: Part) -> None:
        most = min(self.max_prompt_tokens, _PART_PROMPT_TOKENS)
        try:
            plan.questions.append(self._question(plan, part_head(part, plan.facts), part.files, most, part))
        except ContextOverflow:
            plan.warnings.append(f"The question about {part.path} does not fit the model's context.")

    def _question(
        self, plan: Plan, head: str, files: Sequence[SurveyedFile], most: int, part: Part | None = None
    ) -> Question:
        prompt = plan.prompt
        wished = self.config.max_tokens
        if prompt.part is not None:
            wished = min(wished, _ROLE_TOKENS if part else _PURPOSE_TOKENS)
        packed = fit(
            head,
            [Piece(file) for file in ranked(files)],
            lambda text: prompt.conversation(text, name=plan.facts.name, path=part.path if part else None),
            self.engine,
            answer=wished,
            most=most,
            top=Level[prompt.detail.upper()],
        )
        return Question(packed, self.config.model_copy(update={"max_tokens": packed.answer_tokens}), part)
