"""Fitting a repository into a prompt: levels of detail under a budget counted by the serving model's own tokenizer.

The invariant: what `fit` returns was rendered by the model's chat template and counted, and its tokens plus the answer's are at
most the context. Lengths in characters only steer the search; they never decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from noa_lab.agents._outline import Level, full, headline, skeleton
from noa_lab.agents._survey import SurveyedFile
from noa_lab.errors import ContextOverflow
from noa_lab.inference import ChatMessage, InferenceEngine

__all__ = ["Packed", "Piece", "fit", "pack"]

# After this many files in a row that do not fit at a level, the rest is not tried: they would have to be read for nothing.
_PATIENCE = 12
_ROUNDS = 6
_GOOD_ENOUGH = 0.85
_SHARE_OF_CONTEXT = 4

Build = Callable[[str], Sequence[ChatMessage]]
"""Makes the conversation around a text."""


@dataclass
class Piece:
    """A file on its way into a prompt; its forms are made when first asked for."""

    file: SurveyedFile

    @cached_property
    def _line(self) -> str:
        said = headline(self.file.text or "", self.file.language)
        return f"{self.file.path}: {said}" if said else ""

    @cached_property
    def _skeleton(self) -> str:
        body = skeleton(self.file.text or "", self.file.language)
        return f"## {self.file.path}\n{body}" if body else ""

    @cached_property
    def _full(self) -> str:
        body = full(self.file.text or "")
        return f"## {self.file.path}\n{body}" if body else ""

    def at(self, level: Level) -> str:
        """Its form at a level; a form that the file does not have is the next lower one."""
        forms = {Level.FULL: lambda: self._full, Level.SKELETON: lambda: self._skeleton, Level.LINE: lambda: self._line}
        return forms[reached]() if (reached := self.reached(level)) in forms else self.file.path if reached else ""

    def reached(self, level: Level) -> Level:
        """The level that its form at `level` really has: a file that says nothing about itself shows only its name."""
        if level >= Level.FULL and self._full:
            return Level.FULL
        if level >= Level.SKELETON and self._skeleton:
            return Level.SKELETON
        if level >= Level.LINE and self._line:
            return Level.LINE
        return min(level, Level.NAME)


@dataclass(slots=True)
class Packed:
    """A text that fits.

    Attributes:
        text: What goes into the prompt.
        levels: For each path, how much of it the text shows.
        messages: The conversation around the text.
        prompt_tokens: Its tokens, counted.
        answer_tokens: Tokens that the answer may have.
    """

    text: str
    levels: dict[str, Level] = field(default_factory=dict)
    messages: Sequence[ChatMessage] = ()
    prompt_tokens: int = 0
    answer_tokens: int = 0


def pack(head: str, pieces: Sequence[Piece], characters: int, top: Level) -> Packed:
    """`head` and as much of the pieces as a number of characters allows.

    Every file's name first, in the order given, then one line for each, then skeletons, then everything: breadth before depth.

    Args:
        head: What stands above the files; cut, at a line if possible, when it alone is too long.
        pieces: Files, the most telling first.
        characters: The most that the text may have.
        top: The highest level.
    """
    head = _cut(head, characters)
    room = characters - len(head)
    levels = [Level.OUT] * len(pieces)
    for level in (Level.NAME, Level.LINE, Level.SKELETON, Level.FULL):
        if level > top:
            break
        misses = 0
        for number, piece in enumerate(pieces):
            if levels[number] != level - 1:
                continue
            before = piece.at(levels[number])
            cost = len(piece.at(level)) - len(before) + (0 if before else 1)
            if cost > room:
                misses += 1
                if misses >= _PATIENCE:
                    break
                continue
            room -= cost
            levels[number] = level
    shown = {piece.file.path: piece.reached(level) for piece, level in zip(pieces, levels, strict=True)}
    return Packed(_joined(head, pieces, levels), shown)


def fit(
    head: str, pieces: Sequence[Piece], build: Build, engine: InferenceEngine, *, answer: int, most: int, top: Level
) -> Packed:
    """The fullest text whose conversation, with the answer, fits the model's context.

    Few tokenizer calls: the empty prompt, then at most six tries with a better guess each time, then halving.

    Args:
        head: What stands above the files.
        pieces: Files, the most telling first.
        build: Makes the conversation around a text.
        engine: Counts.
        answer: Tokens wished for the answer; a quarter of the context at most is given.
        most: Most prompt tokens, whatever the context allows.
        top: The highest level of detail.

    Raises:
        ContextOverflow: Not even the prompt around an empty text fits.
    """
    context = engine.capabilities.context_size
    answer = max(1, min(answer, context // _SHARE_OF_CONTEXT))
    limit = min(most, context - answer)
    best = Packed("", messages=build(""), answer_tokens=answer)
    fixed = best.prompt_tokens = engine.count_tokens(best.messages)
    if fixed > context - answer:
        raise ContextOverflow(
            f"The prompt without any repository content has {fixed} tokens; with {answer} for the answer it does not fit the"
            f" model's context of {context}.",
            fix="Serve the model with a larger context_size, or shorten the prompt.",
            prompt_tokens=fixed,
            max_tokens=answer,
            context_size=context,
        )
    best.levels = {piece.file.path: Level.OUT for piece in pieces}
    characters, rounds = 3.0 * (limit - fixed), 0
    while characters >= 1 and rounds < _ROUNDS + 40:
        rounds += 1
        tried = pack(head, pieces, int(characters), top)
        tried.messages, tried.answer_tokens = build(tried.text), answer
        tried.prompt_tokens = engine.count_tokens(tried.messages)
        used = tried.prompt_tokens - fixed
        if tried.prompt_tokens <= limit:
            grew = len(tried.text) > len(best.text)
            best = tried if grew else best
            complete = len(tried.text) < characters * _GOOD_ENOUGH
            if complete or used >= (limit - fixed) * _GOOD_ENOUGH or rounds >= _ROUNDS or not grew:
                break
            characters *= min(4.0, (limit - fixed) / max(used, 1)) * 0.97
        elif best.text:
            break
        else:
            characters = min(
                characters * 0.95 * (limit - fixed) / used, characters / 2 if rounds >= _ROUNDS else characters * 0.95
            )
    return best


def _cut(text: str, characters: int) -> str:
    """The beginning of a text, up to the last line or word that fits unless that would lose more than half."""
    if len(text) <= characters:
        return text
    cut = text[:characters]
    end = next((place for mark in "\n " if (place := cut.rfind(mark)) >= characters / 2), characters)
    return cut[:end]


def _joined(head: str, pieces: Sequence[Piece], levels: Sequence[Level]) -> str:
    """The head, then the short forms as one list, then the long ones."""
    short: list[str] = []
    long: list[str] = []
    for piece, level in zip(pieces, levels, strict=True):
        said = piece.at(level)
        if said:
            (long if said.startswith("## ") else short).append(said)
    return "\n".join(part for part in (head, "\n".join(short), "\n".join(long)) if part)
