"""Scorers of how like a reference the answer is, from 0 to 1."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from noa_lab.errors import UnknownName
from noa_lab.experiments.score._base import Graded, PassFail, Scorer, refuse
from noa_lab.experiments.score._texts import TextBased, same_letters

__all__ = ["bleu", "chrf", "f1", "gleu", "levenshtein", "rouge", "similarity"]

Method = Literal["ratio", "levenshtein", "jaro_winkler", "partial", "words"]

_MOST_CHARACTERS = 20_000
"""Of an answer and of a reference, for measures whose time grows with the product of both."""

_MOST_ROUGE = 5
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class _Likeness(Graded, TextBased):
    """The largest likeness to any of several references."""

    several: ClassVar[bool] = True

    def _measure(self, answer: str, row: Mapping[str, Any]) -> float | None:
        texts = self.texts_for(row)
        cut = answer[:_MOST_CHARACTERS]
        return max(self._like(cut, text[:_MOST_CHARACTERS]) for text in texts) if texts else None

    def _like(self, answer: str, text: str) -> float:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class _Similarity(_Likeness):
    kind: ClassVar[str] = "similarity"

    method: Method = "ratio"
    ignore_case: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in _methods():
            raise UnknownName.among("method", str(self.method), _methods(), where="similarity")

    def _like(self, answer: str, text: str) -> float:
        first, second = (same_letters(each.strip(), self.ignore_case) for each in (answer, text))
        return _methods()[self.method](first, second)


def _methods() -> dict[str, Callable[[str, str], float]]:
    from rapidfuzz import fuzz
    from rapidfuzz.distance import Indel, JaroWinkler, Levenshtein

    return {
        "ratio": Indel.normalized_similarity,
        "levenshtein": Levenshtein.normalized_similarity,
        "jaro_winkler": JaroWinkler.normalized_similarity,
        "partial": lambda a, b: fuzz.partial_ratio(a, b) / 100,
        "words": lambda a, b: fuzz.token_set_ratio(a, b) / 100,
    }


@dataclass(frozen=True, kw_only=True)
class _Levenshtein(PassFail, TextBased):
    kind: ClassVar[str] = "levenshtein"
    several: ClassVar[bool] = True

    at_most: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.at_most, bool) or not isinstance(self.at_most, int) or self.at_most < 0:
            refuse("at_most", f"{self.at_most!r} is no number of edits", "Use a whole number, 0 or more.", self.at_most)

    def _passes(self, answer: str, row: Mapping[str, Any]) -> bool | None:
        from rapidfuzz.distance import Levenshtein

        texts = self.texts_for(row)
        if not texts:
            return None
        pairs = ((same_letters(answer.strip()), same_letters(text.strip())) for text in texts)
        return any(Levenshtein.distance(*pair, score_cutoff=self.at_most) <= self.at_most for pair in pairs)


@dataclass(frozen=True, kw_only=True)
class _Bleu(_Likeness):
    """Several references are used together, as BLEU is meant."""

    kind: ClassVar[str] = "bleu"

    def _measure(self, answer: str, row: Mapping[str, Any]) -> float | None:
        import sacrebleu

        texts = [text[:_MOST_CHARACTERS] for text in self.texts_for(row)]
        if not texts:
            return None
        return float(sacrebleu.sentence_bleu(answer[:_MOST_CHARACTERS], texts, use_effective_order=True).score) / 100


@dataclass(frozen=True, kw_only=True)
class _Chrf(_Likeness):
    kind: ClassVar[str] = "chrf"

    def _like(self, answer: str, text: str) -> float:
        import sacrebleu

        return float(sacrebleu.sentence_chrf(answer, [text]).score) / 100


@dataclass(frozen=True, kw_only=True)
class _Gleu(_Likeness):
    kind: ClassVar[str] = "gleu"

    def _like(self, answer: str, text: str) -> float:
        first, second = _words(answer), _words(text)
        found, there, wanted = 0, 0, 0
        for size in range(1, 5):
            ours, theirs = _runs(first, size), _runs(second, size)
            found, there, wanted = found + (ours & theirs).total(), there + ours.total(), wanted + theirs.total()
        return found / max(there, wanted) if max(there, wanted) else 0.0


@dataclass(frozen=True, kw_only=True)
class _Rouge(_Likeness):
    kind: ClassVar[str] = "rouge"

    n: int | str = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = [*range(1, _MOST_ROUGE + 1), "l"]
        if self.n not in allowed or isinstance(self.n, bool):
            refuse("n", f"ROUGE-{self.n} is not known", 'Use n=1 to 5, or n="l" for the longest common part.', self.n)

    def _like(self, answer: str, text: str) -> float:
        first, second = _words(answer), _words(text)
        if not first or not second:
            return 0.0
        if self.n == "l":
            # The package recurses once a word for this one, and ends at Python's limit.
            from rapidfuzz.distance import LCSseq

            return _harmonic(LCSseq.similarity(first, second), len(first), len(second))
        from rouge import Rouge

        name = f"rouge-{self.n}"
        scores = Rouge(metrics=[name], exclusive=False).get_scores(" ".join(first), " ".join(second))
        return float(scores[0][name]["f"])


@dataclass(frozen=True, kw_only=True)
class _F1(_Likeness):
    kind: ClassVar[str] = "f1"

    def _like(self, answer: str, text: str) -> float:
        ours, theirs = Counter(_words(answer)), Counter(_words(text))
        return _harmonic((ours & theirs).total(), ours.total(), theirs.total())


def _harmonic(shared: float, ours: int, theirs: int) -> float:
    return 2 * shared / (ours + theirs) if ours + theirs else 0.0


def _words(text: str) -> list[str]:
    return _WORD.findall(same_letters(text, ignore_case=True))


def _runs(words: list[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(size)), strict=False))


def _references(text: str | Iterable[str]) -> str | tuple[str, ...]:
    return text if isinstance(text, str) or not isinstance(text, Iterable) else tuple(text)


def similarity(
    text: str | Iterable[str],
    *,
    method: Method = "ratio",
    ignore_case: bool = False,
    at_least: float | None = None,
    **common: Any,
) -> Scorer:
    """How like `text` the answer is, letter by letter: 1 is equal, 0 has nothing in common.

    Args:
        text: A reference, or several (the best counts); may be templates.
        method: "ratio" (insertions and deletions), "levenshtein" (replacements too), "jaro_winkler" (beginnings count more), "partial"
            (the best part of the longer text), "words" (order and repeats of words do not matter). All by rapidfuzz.
        ignore_case: Whether capitals and small letters are the same.
        at_least: With a number, the score is whether the likeness is that high.
        common: `name`, `negate`, `weight`, `when`: see `BaseScorer`.
    """
    return _Similarity(text=_references(text), method=method, ignore_case=ignore_case, at_least=at_least, **common)


def levenshtein(text: str | Iterable[str], *, at_most: int = 5, **common: Any) -> Scorer:
    """Whether the answer is at most `at_most` edits (letters inserted, deleted or replaced) away from `text`."""
    return _Levenshtein(text=_references(text), at_most=at_most, **common)


def bleu(text: str | Iterable[str], *, at_least: float | None = None, **common: Any) -> Scorer:
    """BLEU of the answer, from 0 to 1, by sacrebleu (K. Papineni et al., ACL 2002); several references are used together.

    For single sentences it is coarse: `chrf` or `gleu` tell more. Arguments as for `similarity`.
    """
    return _Bleu(text=_references(text), at_least=at_least, **common)


def chrf(text: str | Iterable[str], *, at_least: float | None = None, **common: Any) -> Scorer:
    """ChrF of the answer, from 0 to 1, by sacrebleu (M. Popovic, WMT 2015). Arguments as for `similarity`."""
    return _Chrf(text=_references(text), at_least=at_least, **common)


def gleu(text: str | Iterable[str], *, at_least: float | None = None, **common: Any) -> Scorer:
    """GLEU of the answer: the smaller of precision and recall of its runs of 1 to 4 words (Y. Wu et al., arXiv 1609.08144, section 5.2).

    Words are compared without capitals and punctuation. Arguments as for `similarity`.
    """
    return _Gleu(text=_references(text), at_least=at_least, **common)


def rouge(text: str | Iterable[str], *, n: int | str = 1, at_least: float | None = None, **common: Any) -> Scorer:
    """ROUGE-N or ROUGE-L of the answer: F measure of shared runs of words (C.-Y. Lin, ACL workshop 2004).

    Args:
        text: As for `similarity`.
        n: Words in a run, 1 to 5; or "l" for the longest common subsequence.
        at_least: As for `similarity`.
        common: As for `similarity`.
    """
    return _Rouge(text=_references(text), n=n, at_least=at_least, **common)


def f1(text: str | Iterable[str], *, at_least: float | None = None, **common: Any) -> Scorer:
    """F1 of the answer's words against a short reference, as in SQuAD (P. Rajpurkar et al., EMNLP 2016). Arguments as for `similarity`."""
    return _F1(text=_references(text), at_least=at_least, **common)
