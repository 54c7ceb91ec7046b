"""From the model's replies to a digest: every reply is checked, and what cannot be used gives way to the repository's own words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from noa_lab.agents._components import Part
from noa_lab.agents._digest import Component, Omitted, RepositoryDigest, TokenUse
from noa_lab.agents._outline import Level
from noa_lab.agents._parse import parse_digest, sentence_of
from noa_lab.agents._plan import Plan, Question
from noa_lab.agents._reply import MAX_PURPOSE_CHARS
from noa_lab.errors import DigestInvalid, NoaLabError
from noa_lab.inference import Completion

__all__ = ["Reply", "assemble"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for a question: an answer, or why there is none."""

    question: Question
    answer: Completion | NoaLabError

    @property
    def finished(self) -> bool:
        """Whether the model ended its answer itself."""
        return isinstance(self.answer, Completion) and self.answer.finish_reason != "length"


def assemble(plan: Plan, replies: Sequence[Reply], model: str) -> RepositoryDigest:
    """The digest that a plan and its replies give."""
    warnings = list(plan.warnings)
    whole = next((reply for reply in replies if reply.question.part is None), None)
    read = _read_whole(plan, whole, warnings)
    components, missing = _components(plan, read, replies)
    if missing and replies:
        warnings.append(f"The model gave no usable role for {missing} of {len(components)} components.")
    purpose, by = (read.purpose, read.purpose_by) if read.purpose else _own_words(plan)
    return RepositoryDigest(
        facts=plan.facts,
        purpose=purpose,
        purpose_by=by,
        components=tuple(components),
        omitted=_omitted(plan),
        status="complete" if read.purpose and not missing else "partial",
        reply_form=read.reply_form,
        dropped_citations=read.dropped_citations,
        redacted_secrets=plan.redacted,
        prompt_name=plan.prompt.name,
        model=model,
        tokens=_tokens(plan, replies),
        warnings=tuple(warnings),
    )


def _read_whole(plan: Plan, whole: Reply | None, warnings: list[str]) -> RepositoryDigest:
    """What the model said about the whole; empty, with a warning, when that cannot be used."""
    nothing = RepositoryDigest(facts=plan.facts)
    if whole is None:
        return nothing
    if not isinstance(whole.answer, Completion):
        warnings.append(f"The model gave no answer about the purpose: {whole.answer.message}")
        return nothing
    content = whole.question.packed.text
    try:
        read = parse_digest(
            whole.answer.text,
            paths=[file.path for file in plan.found.files] if plan.found is not None else None,
            content=content,
            facts=plan.facts,
            instructions=plan.prompt.instructions,
        )
    except DigestInvalid as error:
        warnings.append(error.message)
        dropped = error.fields.get("dropped_citations")
        return nothing.model_copy(update={"dropped_citations": dropped if isinstance(dropped, int) else 0})
    if plan.prompt.part is None:
        return read
    purpose = sentence_of(read.purpose, finished=whole.finished, limit=MAX_PURPOSE_CHARS)
    if not purpose:
        warnings.append("The model's sentence about the purpose did not come to an end.")
    # A short question asks for the purpose alone: parts named in passing are not taken.
    return read.model_copy(update={"purpose": purpose, "components": ()})


def _components(plan: Plan, read: RepositoryDigest, replies: Sequence[Reply]) -> tuple[list[Component], int]:
    """The parts with their roles, those that the model added first, and how many parts it was asked about in vain."""
    named = {component.path: component for component in read.components if component.role}
    roles = {part.path: said for reply in replies if (part := reply.question.part) and (said := _role(plan, reply))}
    components = [component for component in named.values() if component.path not in {part.path for part in plan.parts}]
    missing = 0
    for part in plan.parts:
        role = named[part.path].role if part.path in named else roles.get(part.path, "")
        missing += plan.prompt.part is not None and not role
        components.append(Component(path=part.path, role=role, own_words=part.said) if role else _documented(part))
    return components, missing


def _role(plan: Plan, reply: Reply) -> str:
    if not isinstance(reply.answer, Completion):
        return ""
    content = reply.question.packed.text
    return sentence_of(
        reply.answer.text, instructions=plan.prompt.instructions, content=content, finished=reply.finished
    )


def _documented(part: Part) -> Component:
    return Component(
        path=part.path, role=part.said or part.counted, by="docs" if part.said else "code", own_words=part.said
    )


def _own_words(plan: Plan) -> tuple[str, Literal["docs", "nobody"]]:
    said = plan.facts.description
    return (said, "docs") if said else ("", "nobody")


def _omitted(plan: Plan) -> tuple[Omitted, ...]:
    if plan.found is None:
        return ()
    shown: dict[str, Level] = {}
    for question in plan.questions:
        for path, level in question.packed.levels.items():
            shown[path] = max(level, shown.get(path, Level.OUT))
    reasons = dict(plan.found.skipped)
    for file in plan.found.files:
        if file.left_out:
            reasons[file.path] = file.left_out
        elif not file.text or not file.text.strip():
            reasons[file.path] = "empty"
        elif shown.get(file.path, Level.OUT) == Level.OUT:
            reasons[file.path] = "no room in the prompts" if plan.questions else "the model was not asked"
        elif shown[file.path] == Level.NAME:
            reasons[file.path] = "only its name was shown"
    return tuple(Omitted(path=path, reason=reason) for path, reason in sorted(reasons.items()))


def _tokens(plan: Plan, replies: Sequence[Reply]) -> TokenUse:
    answers = [reply.answer for reply in replies if isinstance(reply.answer, Completion)]
    return TokenUse(
        questions=len(replies),
        prompt=sum(answer.prompt_tokens for answer in answers),
        completion=sum(answer.completion_tokens for answer in answers),
        largest_prompt=max((question.packed.prompt_tokens for question in plan.questions), default=0),
        answer=max((question.packed.answer_tokens for question in plan.questions), default=0),
        context=plan.context,
    )
