"""The grids of `comparisons.py`: prompts x inputs, and exactly so many tokens for each answer.

The texts are made of sentences that are drawn anew each time from the same seeds: nothing is copied, and everybody measures the same.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from noa_lab.experiments import Grid

__all__ = ["GRIDS", "BenchGrid", "as_grid", "document"]

Message = dict[str, str]


@dataclass(frozen=True)
class BenchGrid:
    """A grid.

    Attributes:
        name: A letter.
        what: In words.
        prompts: Templates by name; `{{ name }}` is a variable of the inputs, for Jinja as for promptfoo's Nunjucks.
        inputs: Variables.
        max_tokens: Length of every answer.
        by_input: Whether cells of one input share more than cells of one prompt: the order that a careful client takes.
        peers: Whether promptfoo and Inspect run it.
    """

    name: str
    what: str
    prompts: dict[str, list[Message]]
    inputs: list[dict[str, str]]
    max_tokens: int
    by_input: bool = False
    peers: bool = True

    @property
    def size(self) -> int:
        return len(self.prompts) * len(self.inputs)

    def conversations(self) -> Iterator[list[Message]]:
        """All of them, filled in, those that share most one after the other."""
        inputs = {one["id"]: one for one in self.inputs}
        for prompt, each in self.places():
            yield [{**turn, "content": _filled(turn["content"], inputs[each])} for turn in self.prompts[prompt]]

    def places(self) -> list[tuple[str, str]]:
        """Name of the prompt and id of the input, in the same order."""
        ids = [one["id"] for one in self.inputs]
        if self.by_input:
            return [(prompt, each) for each in ids for prompt in self.prompts]
        return list(itertools.product(self.prompts, ids))


def as_grid(grid: BenchGrid, model: str) -> Grid:
    """The grid as noa_lab's own, greedy."""
    prompts = {name: {"messages": turns} for name, turns in grid.prompts.items()}
    return Grid(prompts, grid.inputs, [model], [{"temperature": 0.0, "max_tokens": grid.max_tokens}])


def _filled(text: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        text = text.replace("{{ " + name + " }}", value)
    return text


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


_WHO = (
    "The harbour master",
    "A carpenter",
    "The night guard",
    "An old pilot",
    "The baker",
    "A young clerk",
    "The doctor",
)
_DID = ("counted", "carried", "repaired", "painted", "lost", "found", "sold", "weighed")
_WHAT = (
    "crates of apples",
    "brass lamps",
    "coils of rope",
    "sacks of flour",
    "wooden chairs",
    "blue tiles",
    "iron keys",
)
_WHERE = (
    "near the north quay",
    "behind the customs house",
    "in the long shed",
    "at the ferry landing",
    "under the bridge",
)
_WHEN = ("before sunrise", "at noon", "after the storm", "late in the evening", "on market day", "during the fog")


def _sentence(draw: random.Random) -> str:
    number = draw.choice(("three", "seven", "twelve", "twenty", "forty"))
    words = (draw.choice(_WHO), draw.choice(_DID), number, draw.choice(_WHAT), draw.choice(_WHERE), draw.choice(_WHEN))
    return " ".join(words) + "."


def document(seed: str, sentences: int) -> str:
    """So many sentences, the same for the same seed."""
    draw = random.Random(seed)
    return " ".join(_sentence(draw) for _ in range(sentences))


_QUESTIONS = (
    "Who is named first in this text?",
    "Which goods were counted, and how many?",
    "What happened near the north quay?",
    "Summarize the text in one sentence.",
    "List every place that is mentioned.",
    "Who worked late in the evening?",
    "Which trade seems the busiest, and why?",
    "Write a headline for this text.",
)


def _documents() -> BenchGrid:
    return BenchGrid(
        "A",
        "4 documents of about 1,100 tokens x 8 questions at the end, 24 tokens out",
        {f"question {number}": _user("{{ document }}\n\n" + ask) for number, ask in enumerate(_QUESTIONS)},
        [{"id": f"document {number}", "document": document(f"document {number}", 70)} for number in range(4)],
        24,
        by_input=True,
    )


def _few_shot() -> BenchGrid:
    def shots(seed: str) -> str:
        draw = random.Random(seed)
        pairs = ((_sentence(draw), draw.choice(("calm", "busy", "tense", "odd"))) for _ in range(53))
        return "\n".join(f"Text: {text}\nMood: {mood}" for text, mood in pairs)

    ask = "\nText: {{ text }}\nMood:"
    begin = ("Give each text its mood.\n", "You read reports of a small port. Name the mood of each report.\n")
    return BenchGrid(
        "B",
        "2 few-shot prompts of about 1,270 tokens x 24 short inputs, 4 tokens out",
        {f"shots {number}": _user(start + shots(f"shots {number}") + ask) for number, start in enumerate(begin)},
        [{"id": f"text {number}", "text": document(f"text {number}", 1)} for number in range(24)],
        4,
    )


def _short() -> BenchGrid:
    prompts = (
        "Write a short story about {{ topic }}.",
        "Explain {{ topic }} to a child.",
        "Give three facts about {{ topic }}.",
        "You are a poet. Praise {{ topic }} in a few lines.",
    )
    topics = ("rain", "a lighthouse", "bread", "the tides", "bicycles", "winter", "maps", "an old clock")
    return BenchGrid(
        "C",
        "4 short prompts x 8 inputs, 96 tokens out",
        {f"prompt {number}": _user(text) for number, text in enumerate(prompts)},
        [{"id": f"topic {number}", "topic": topic} for number, topic in enumerate(topics)],
        96,
    )


def _nothing_shared() -> BenchGrid:
    """The system message comes first in the model's template: one that differs from cell to cell leaves nothing to share."""

    def prompt(name: str) -> list[Message]:
        return [{"role": "system", "content": "{{ " + name + " }}"}, *_user("Go on with the report.")]

    inputs = [
        {
            "id": f"pair {number}",
            "one": f"{number + 1}. {document(f'one {number}', 12)}",
            "other": f"No. {number + 1}. {document(f'other {number}', 12)}",
        }
        for number in range(10)
    ]
    for row in inputs:  # the first token differs already
        row["one"] = f"{chr(ord('A') + int(row['id'].split()[1]))}{row['one']}"
        row["other"] = f"{chr(ord('a') + int(row['id'].split()[1]))}{row['other']}"
    return BenchGrid(
        "D",
        "20 prompts of about 210 tokens without a shared beginning, 32 tokens out",
        {"one": prompt("one"), "other": prompt("other")},
        inputs,
        32,
        peers=False,
    )


GRIDS = {grid.name: grid for grid in (_documents(), _few_shot(), _short(), _nothing_shared())}
"""By their letters."""
