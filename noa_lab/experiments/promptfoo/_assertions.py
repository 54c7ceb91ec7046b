"""promptfoo's assertions as scorers of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noa_lab.experiments.promptfoo._notes import Notes

__all__ = ["Piece", "mapped", "supported"]

Assertion = Mapping[str, Any]


@dataclass(slots=True)
class Piece:
    """One scorer that an assertion became.

    Attributes:
        kind: Our kind of scorer.
        argument: What stands under it: a text (a template of promptfoo's), a list of texts, or anything else.
        options: Further arguments.
        negate: Whether it is turned round.
        weight: How much it counts.
        metric: What promptfoo calls it; may be empty.
        note: Why it is only nearly the same; empty where it is the same.
    """

    kind: str
    argument: Any = True
    options: dict[str, Any] = field(default_factory=dict)
    negate: bool = False
    weight: float = 1.0
    metric: str = ""
    note: str = ""

    @property
    def has_text(self) -> bool:
        """Whether its argument is a text, or several, that may differ from input to input."""
        if self.kind == "finish_reason":
            return False  # it takes no template, so that no field of the inputs can say it
        several = isinstance(self.argument, list) and all(isinstance(each, str) for each in self.argument)
        return isinstance(self.argument, str) or several


_GRADED = "It is graded in noa_lab's words, by the model that is named there."
_FACT = ("The answer agrees with this fact: {}", "It is a question of yes or no, instead of five kinds of agreement.")


class _Unfit(Exception):
    """The assertion cannot be mapped; its text says why."""


def _text(assertion: Assertion) -> str:
    value = assertion.get("value")
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise _Unfit("It has no text to compare with.")
    return str(value)


def _texts(assertion: Assertion) -> list[str]:
    value = assertion.get("value")
    listed = value if isinstance(value, list) else str(value or "").split(",")
    texts = [str(each).strip() for each in listed if str(each).strip()]
    if not texts:
        raise _Unfit("It has no texts to compare with.")
    return texts


def _threshold(assertion: Assertion, default: float) -> float:
    value = assertion.get("threshold", default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Unfit(f"Its threshold {value!r} is no number.")
    return float(value)


def _equals(assertion: Assertion) -> Piece:
    value = assertion.get("value")
    return (
        Piece("json_schema", {"const": value}) if isinstance(value, dict | list) else Piece("equals", _text(assertion))
    )


def _with_text(kind: str, **options: Any) -> Callable[[Assertion], Piece]:
    return lambda assertion: Piece(kind, _text(assertion), dict(options))


def _with_texts(kind: str, **options: Any) -> Callable[[Assertion], Piece]:
    return lambda assertion: Piece(kind, _texts(assertion), dict(options))


def _flag(kind: str) -> Callable[[Assertion], Piece]:
    return lambda _: Piece(kind)


def _json(kind: str) -> Callable[[Assertion], Piece]:
    def make(assertion: Assertion) -> Piece:
        schema = assertion.get("value")
        if schema is None or schema == "":
            return Piece(kind)
        if not isinstance(schema, Mapping):
            raise _Unfit("Its value is no JSON Schema.")
        return (
            Piece("json_schema", dict(schema)) if kind == "json_valid" else Piece(kind, True, {"schema": dict(schema)})
        )

    return make


def _xml(kind: str) -> Callable[[Assertion], Piece]:
    def make(assertion: Assertion) -> Piece:
        value = assertion.get("value")
        names = value.get("requiredElements") if isinstance(value, Mapping) else value
        listed = names.split(",") if isinstance(names, str) else names or []
        required = [str(each).strip().replace(".", "/") for each in listed]
        return Piece(kind, True, {"required": required} if required else {})

    return make


def _at_least(kind: str, default: float, **options: Any) -> Callable[[Assertion], Piece]:
    def make(assertion: Assertion) -> Piece:
        value = assertion.get("value")
        texts = [str(each) for each in value] if isinstance(value, list) and value else _text(assertion)
        return Piece(kind, texts, {**options, "at_least": _threshold(assertion, default)})

    return make


def _levenshtein(assertion: Assertion) -> Piece:
    return Piece("levenshtein", _text(assertion), {"at_most": int(_threshold(assertion, 5))})


def _perplexity(assertion: Assertion) -> Piece:
    limit = max(_threshold(assertion, 10.0), 1.0)
    return Piece("perplexity", True, {"at_most": limit})


def _perplexity_score(assertion: Assertion) -> Piece:
    share = min(max(_threshold(assertion, 0.5), 1e-9), 0.5)
    return Piece("perplexity", True, {"at_most": max(1 / share - 1, 1.0)})


def _word_count(assertion: Assertion) -> Piece:
    value = assertion.get("value")
    if isinstance(value, Mapping):
        parts = [{f"{bound}_words": int(value[bound])} for bound in ("min", "max") if bound in value]
        if not parts:
            raise _Unfit("It has neither min nor max.")
    else:
        count = int(_text(assertion))
        parts = [{"min_words": count}, {"max_words": count}]
    return Piece("all_of", parts) if len(parts) > 1 else Piece(*next(iter(parts[0].items())))


def _finish_reason(assertion: Assertion) -> Piece:
    reason = _text(assertion)
    if reason not in {"stop", "length"}:
        raise _Unfit('Answers here end by "stop", "stop_sequence" or "length".')
    return Piece("finish_reason", reason)


def _rubric(default: float, sentence: str = "{}", note: str = "", **options: Any) -> Callable[[Assertion], Piece]:
    def make(assertion: Assertion) -> Piece:
        value = assertion.get("value", "")
        criteria = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
        if "{}" in sentence and not criteria.strip():
            raise _Unfit("It has no criterion.")
        chosen = {**options, "at_least": _threshold(assertion, default)}
        text = sentence.replace("{}", criteria)
        return Piece("rubric", text, chosen, note=note or _GRADED)

    return make


def _select_best(assertion: Assertion) -> Piece:
    note = "Every prompt is compared with the first, in both orders, instead of all at once."
    return Piece("judge", _text(assertion), note=note)


_TYPES: dict[str, Callable[[Assertion], Piece]] = {
    "equals": _equals,
    "contains": _with_text("contains"),
    "icontains": _with_text("contains", ignore_case=True),
    "contains-any": _with_texts("contains_any"),
    "contains-all": _with_texts("contains_all"),
    "icontains-any": _with_texts("contains_any", ignore_case=True),
    "icontains-all": _with_texts("contains_all", ignore_case=True),
    "starts-with": _with_text("starts_with"),
    "regex": _with_text("regex"),
    "is-json": _json("json_valid"),
    "contains-json": _json("contains_json"),
    "is-xml": _xml("xml_valid"),
    "contains-xml": _xml("contains_xml"),
    "is-html": _flag("html_valid"),
    "contains-html": _flag("contains_html"),
    "is-refusal": _flag("refusal"),
    "levenshtein": _levenshtein,
    "rouge-n": _at_least("rouge", 0.75),
    "bleu": _at_least("bleu", 0.5),
    "gleu": _at_least("gleu", 0.5),
    "word-count": _word_count,
    "finish-reason": _finish_reason,
    "perplexity": _perplexity,
    "perplexity-score": _perplexity_score,
    "similar": _at_least("similar", 0.75),
    "similar:cosine": _at_least("similar", 0.75),
    "llm-rubric": _rubric(0.5),
    "model-graded-closedqa": _rubric(0.5),
    "g-eval": _rubric(0.7, levels=5, reasoning=200),
    "factuality": _rubric(0.5, *_FACT),
    "model-graded-factuality": _rubric(0.5, *_FACT),
    "answer-relevance": _rubric(
        0.5, "The answer is relevant to the task.", "A model is asked, instead of comparing embeddings."
    ),
    "select-best": _select_best,
}

_REASONS = {
    "javascript": "noa_lab runs no JavaScript; write it as a Python function: score.function(...).",
    "ruby": "noa_lab runs no Ruby; write it as a Python function: score.function(...).",
    "webhook": "No service is asked; write a Python function that does: score.function(...).",
    "latency": "Latency is compared between prompts in a latency pass, never as a limit on a machine that does other things.",
    "cost": "Answers of local models have no price.",
    "meteor": "It needs word lists that noa_lab does not bring; chrf and rouge are near.",
    "is-sql": "noa_lab has no SQL parser; write a Python function: score.function(...).",
    "contains-sql": "noa_lab has no SQL parser; write a Python function: score.function(...).",
    "classifier": "It needs a classifier model; a rubric asks a language model instead.",
    "moderation": "It asks a service; a rubric asks a local model instead.",
    "max-score": "Verdicts say which prompt is better.",
    "python": "It is code: imported with --trust only, and then not written to a file.",
}


def supported() -> list[str]:
    """The types that are mapped, without `not-`."""
    return sorted([*_TYPES, "assert-set", "python"])


def mapped(assertion: Assertion, where: str, notes: Notes) -> list[Piece]:
    """The scorer that an assertion stands for; none, with a note, where there is no such scorer.

    Args:
        assertion: The assertion; `python` ones are not for here.
        where: Its place.
        notes: Takes what cannot be mapped.
    """
    written = str(assertion.get("type", ""))
    negate = written.startswith("not-")
    kind = written.removeprefix("not-")
    if kind == "assert-set":
        return _set(assertion, where, notes)
    if "transform" in assertion or "contextTransform" in assertion:
        notes.take("left out", where, f"{written} with a transform", "Answers are scored as they are.")
        return []
    make = _TYPES.get(kind)
    if make is None:
        what = "python" if kind == "python" else written or "an assertion without a type"
        why = _REASONS.get(kind, "noa_lab has no such scorer.")
        notes.take("not trusted" if kind == "python" else "left out", where, what, why)
        return []
    try:
        piece = make(assertion)
        piece.weight = _weight(assertion)
    except (_Unfit, ValueError, TypeError) as error:
        notes.take("left out", where, written, str(error))
        return []
    for key in assertion.keys() & {"provider", "rubricPrompt", "config"}:
        notes.take("left out", where, f"{key} of {written}", "Graders are named in the comparison file: model: ...")
    piece.negate, piece.metric = negate, str(assertion.get("metric") or "")
    if piece.note:
        notes.take("approximated", where, written, piece.note)
    return [piece]


def _weight(assertion: Assertion) -> float:
    value = assertion.get("weight", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise _Unfit(f"Its weight {value!r} is no number of 0 or more.")
    return float(value)


def _set(assertion: Assertion, where: str, notes: Notes) -> list[Piece]:
    """An assert-set: all of its parts, or with a threshold their weighted mean."""
    inner = [each for each in assertion.get("assert") or [] if isinstance(each, Mapping)]
    parts = [piece for number, each in enumerate(inner) for piece in mapped(each, f"{where}.assert[{number}]", notes)]
    if not parts:
        return []
    kind, options = "all_of", {}
    if isinstance(assertion.get("threshold"), int | float):
        kind, options = "weighted", {"at_least": min(max(float(assertion["threshold"]), 0.0), 1.0)}
    return [Piece(kind, parts, options, weight=_weight(assertion), metric=str(assertion.get("metric") or ""))]
