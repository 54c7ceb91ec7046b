"""Scorers by name: `score.contains("{{ expected }}")`, `score.max_words(30, name="short")`, `score.function(mine)`.

Texts may be templates over the input's fields. An input that lacks such a field is not scored (None), which is not the same as failing.
Every scorer takes `name=` (its column is `score.<name>`), `negate=True`, `weight=` (within `score.weighted`) and `when=` (a field that an
input must have to be scored). `logprob`, `perplexity`, `similar`, `rubric` and `judge` ask a model, after the answers are there.
"""

from noa_lab.experiments.score._combined import all_of, any_of, weighted
from noa_lab.experiments.score._contents import choice, number, refusal
from noa_lab.experiments.score._function import function
from noa_lab.experiments.score._json import contains_json, json_schema, json_valid
from noa_lab.experiments.score._judge import judge
from noa_lab.experiments.score._length import (
    finish_reason,
    max_characters,
    max_tokens,
    max_words,
    min_characters,
    min_tokens,
    min_words,
)
from noa_lab.experiments.score._likelihood import logprob, perplexity, similar
from noa_lab.experiments.score._likeness import bleu, chrf, f1, gleu, levenshtein, rouge, similarity
from noa_lab.experiments.score._markup import contains_html, contains_xml, html_valid, xml_valid
from noa_lab.experiments.score._rubric import rubric
from noa_lab.experiments.score._texts import (
    contains,
    contains_all,
    contains_any,
    ends_with,
    equals,
    icontains,
    not_contains,
    regex,
    starts_with,
)

__all__ = [
    "all_of",
    "any_of",
    "bleu",
    "choice",
    "chrf",
    "contains",
    "contains_all",
    "contains_any",
    "contains_html",
    "contains_json",
    "contains_xml",
    "ends_with",
    "equals",
    "f1",
    "finish_reason",
    "function",
    "gleu",
    "html_valid",
    "icontains",
    "json_schema",
    "json_valid",
    "judge",
    "levenshtein",
    "logprob",
    "max_characters",
    "max_tokens",
    "max_words",
    "min_characters",
    "min_tokens",
    "min_words",
    "not_contains",
    "number",
    "perplexity",
    "refusal",
    "regex",
    "rouge",
    "rubric",
    "similar",
    "similarity",
    "starts_with",
    "weighted",
    "xml_valid",
]
