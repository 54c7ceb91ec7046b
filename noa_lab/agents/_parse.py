"""`parse_digest`: from a model's reply to a digest in which every cited path exists."""

from __future__ import annotations

import re
from collections.abc import Collection

from noa_lab.agents._digest import Component, RepositoryDigest, RepositoryFacts
from noa_lab.agents._outline import shortened
from noa_lab.agents._reply import MAX_PURPOSE_CHARS, MAX_ROLE_CHARS, Reading, plain_sentences, read_reply
from noa_lab.errors import DigestInvalid

__all__ = ["parse_digest", "sentence_of"]

_MAX_COMPONENTS = 40
_ECHO_WORDS = 3
_LABEL = re.compile(r"^(?:Project|Part|Answer|About):\s+")
"""The labels of the head that a prompt shows; small models like to begin with them."""
_WORD = re.compile(r"[a-z0-9_]+")


def parse_digest(
    text: str,
    *,
    paths: Collection[str] | None = None,
    content: str = "",
    facts: RepositoryFacts | None = None,
    instructions: str = "",
) -> RepositoryDigest:
    """Read a model's reply as a digest.

    Accepted: a JSON object (bare, fenced, inside prose, or slightly broken), labelled lines ("Purpose: ...", "Component: path -
    role"), headings with lists or tables, and plain prose, which becomes the purpose. Key names and their many synonyms are in
    `_reply.py`. Sentences that only repeat the instructions are dropped, and so is what a model says while going round in circles.

    Args:
        text: The reply.
        paths: The files that exist; folders that hold them count too. None when no list is known: then a path counts when it
            occurs in `content`.
        content: What the model was shown.
        facts: The facts to carry; none gives empty ones.
        instructions: The prompt's own words.

    Returns:
        A digest with `purpose_by="model"` where the reply gave a purpose. `dropped_citations` counts the paths that do not exist.

    Raises:
        DigestInvalid: The reply holds neither a purpose nor a part that exists.
    """
    reading = read_reply(text)
    purpose = _without_echo(reading.purpose, instructions, content)
    components, dropped = _existing(reading, paths, content)
    if not purpose and not components:
        raise DigestInvalid(
            "The model's reply holds neither a purpose nor a part of the repository that exists.",
            fix="Try another prompt or a larger model; the facts do not depend on it.",
            reply=text[:2000],
            reason="empty" if not text.strip() else "echo" if reading.purpose else "nothing usable",
            dropped_citations=dropped,
        )
    return RepositoryDigest(
        facts=facts or RepositoryFacts(name=""),
        purpose=shortened(purpose, MAX_PURPOSE_CHARS),
        purpose_by="model" if purpose else "nobody",
        components=tuple(components),
        status="complete" if purpose else "partial",
        reply_form=reading.form,
        dropped_citations=dropped,
    )


def sentence_of(
    text: str, *, instructions: str = "", content: str = "", finished: bool = True, limit: int = MAX_ROLE_CHARS
) -> str:
    """The one sentence that answers a short question; empty when the reply has none.

    Args:
        text: The reply.
        instructions: The prompt's own words; a reply that repeats them is none.
        content: What the model was shown.
        finished: Whether the model ended its answer itself; otherwise a sentence without an end is not taken.
        limit: Most characters; what is longer is cut at a word.
    """
    reading = read_reply(text)
    sentences = plain_sentences(reading.purpose)[:1]
    if not sentences or (not finished and not sentences[0].rstrip("\"')]").endswith((".", "!", "?"))):
        return ""
    sentence = _LABEL.sub("", sentences[0])
    return shortened(_without_echo(sentence, instructions, content), limit)


def _existing(reading: Reading, paths: Collection[str] | None, content: str) -> tuple[list[Component], int]:
    known = None if paths is None else {*paths, *(parent for path in paths for parent in _parents(path))}
    found: dict[str, Component] = {}
    dropped = 0
    for written, role in reading.parts[: 5 * _MAX_COMPONENTS]:
        path = _as_path(written)
        exists = bool(path) and (path in known if known is not None else _occurs(path, content))
        if not exists:
            dropped += 1
        elif path not in found and len(found) < _MAX_COMPONENTS:
            found[path] = Component(path=path, role=shortened(" ".join(plain_sentences(role)[:1]), MAX_ROLE_CHARS))
    return list(found.values()), dropped


def _occurs(path: str, content: str) -> bool:
    return re.search(rf"(?<![\w/.-]){re.escape(path)}(?![\w-])", content) is not None


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _as_path(written: str) -> str:
    path = written.strip().strip("`*\"'[]()<> ").rstrip(":,")
    return path.removeprefix("./").rstrip("/")


def _without_echo(purpose: str, instructions: str, content: str) -> str:
    """`purpose` without the sentences that share three words in a row with the instructions and not with the content."""
    if not instructions:
        return purpose
    asked = _runs(instructions) - _runs(content)
    return " ".join(sentence for sentence in plain_sentences(purpose) if not _runs(sentence) & asked)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return {tuple(words[start : start + _ECHO_WORDS]) for start in range(len(words) - _ECHO_WORDS + 1)}
