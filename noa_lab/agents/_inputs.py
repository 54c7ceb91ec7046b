"""Folders as inputs of a comparison, so that two digest prompts can be compared like any other two prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from noa_lab.agents._budget import Piece, fit, pack
from noa_lab.agents._facts import gather_facts
from noa_lab.agents._material import facts_head, ranked
from noa_lab.agents._outline import Level
from noa_lab.agents._prompt import DigestPrompt, neutral
from noa_lab.agents._survey import survey
from noa_lab.errors import BadInput
from noa_lab.inference import InferenceEngine

__all__ = ["digest_inputs"]

# Without a tokenizer: fewer characters than almost any tokenizer puts into one token of source text.
_CHARACTERS_PER_TOKEN = 2


def digest_inputs(
    folders: Mapping[str | Path, str] | Mapping[Path, str] | Mapping[str, str] | Iterable[str | Path],
    engine: InferenceEngine | None = None,
    *,
    prompt: DigestPrompt | None = None,
    max_prompt_tokens: int = 512,
    max_tokens: int = 64,
) -> list[dict[str, Any]]:
    """The rendered content of folders, as the `inputs` of a `Grid`.

    The text is what `DigestAgent` would show the model about the whole folder. Prompts for it come from
    `DigestPrompt.as_templates()`.

    Args:
        folders: Folders with what a good answer mentions ("chess", "weather"); or folders alone: the main language is expected.
        engine: Counts tokens with the model's tokenizer; without one, two characters are taken for a token.
        prompt: The prompt that must fit around the text, and how much detail is shown; default `DigestPrompt.questions()`.
        max_prompt_tokens: Most tokens of the whole prompt.
        max_tokens: Tokens that the answer may have.

    Returns:
        One dict a folder: `id` (the folder's name, numbered where two are equal), `text`, `name`, `expected`, `language`, `files`.

    Raises:
        BadInput: A folder cannot be read, or there is none.
        ContextOverflow: The prompt without content does not fit the model's context.
    """
    prompt = prompt or DigestPrompt.questions()
    expected = {Path(path): keyword for path, keyword in folders.items()} if isinstance(folders, Mapping) else {}
    listed = [Path(path) for path in folders]
    if not listed:
        raise BadInput(
            "There are no folders to make inputs of.", fix="Give at least one folder.", field="folders", value=folders
        )
    inputs: list[dict[str, Any]] = []
    taken: set[str] = set()
    for path in listed:
        found = survey(path)
        facts, _ = gather_facts(found)
        text = _text(facts_head(facts, found.files), [Piece(file) for file in ranked(found.files)], engine, prompt, facts.name,
                     max_prompt_tokens, max_tokens)  # fmt: skip
        inputs.append(
            {
                "id": _free(found.name, taken),
                "text": neutral(text),
                "name": facts.name,
                "expected": expected.get(path, facts.main_language),
                "language": facts.main_language,
                "files": facts.files,
            }
        )
    return inputs


def _text(
    head: str,
    pieces: list[Piece],
    engine: InferenceEngine | None,
    prompt: DigestPrompt,
    name: str,
    most: int,
    answer: int,
) -> str:
    top = Level[prompt.detail.upper()]
    if engine is None:
        return pack(head, pieces, most * _CHARACTERS_PER_TOKEN, top).text
    build = lambda text: prompt.conversation(text, name=name)  # noqa: E731 - one expression, used once
    return fit(head, pieces, build, engine, answer=answer, most=most, top=top).text


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free
