"""How far answers at temperature 0 part from those of a strict llama-server, by executor.

    python benchmarks/parity.py

A strict server has one slot and reuses nothing. With the executors that share work, llama.cpp adds up the same numbers in another order,
so that now and then another token comes first. At the first token that differs, the strict server is asked for its log-probabilities,
with the prompt and its own answer up to there as a prompt (teacher forcing). The gap is how much likelier its likeliest token is than the
executor's: 0 where it prefers the executor's token itself. Writes parity.md; takes about four minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from comparison_arms import version_of
from comparison_grids import GRIDS, BenchGrid, as_grid, document
from comparison_servers import endless_model, home_beside, small_model
from comparison_table import machine

from noa_lab import runtime, server
from noa_lab.experiments import EngineWish
from noa_lab.inference import ChatMessage, Completion, InferenceConfig, InferenceEngine
from noa_lab.paths import Home
from noa_lab.workbench import Lab

TABLE = Path(__file__).with_name("parity.md")
_EXECUTORS = ("lanes", "tree")
_NEAR_TIE = 0.1
_MOST_PROBABILITIES = 100
_CONTEXT = 2048


@dataclass(frozen=True)
class Parting:
    """Where an answer parts from the strict server's.

    Attributes:
        gap: Log-probability of the strict server's likeliest token over that of the executor's, natural logarithm.
        own_gap: The same for the token that the strict server took itself when it generated.
    """

    gap: float
    own_gap: float


def _grids() -> list[BenchGrid]:
    long = replace(GRIDS["A"], inputs=[{"id": f"text {n}", "document": document(f"text {n}", 48)} for n in range(2)])
    short = replace(GRIDS["C"], max_tokens=24)
    return [replace(short, name="short prompts"), replace(long, name="long prompts")]


def strict_answers(strict: InferenceEngine, grid: BenchGrid) -> list[tuple[list[int], Completion]]:
    """Tokens of each prompt, and the strict server's answer to it."""
    config = _greedy(grid.max_tokens)
    conversations = [[ChatMessage(**turn) for turn in messages] for messages in grid.conversations()]
    prompts = [strict.tokenize(strict.render(messages)) for messages in conversations]
    return [(prompt, strict.generate(prompt, config)) for prompt in prompts]


def partings(
    strict: InferenceEngine, answers: Sequence[tuple[list[int], Completion]], texts: Sequence[str]
) -> list[Parting]:
    """Where these answers part from the strict server's to the same prompts."""
    ask = _greedy(1).model_copy(update={"n_probs": _MOST_PROBABILITIES})
    found = []
    for (prompt, own), text in zip(answers, texts, strict=True):
        if own.text == text:
            continue
        tokens = strict.tokenize(text)
        place = next(at for at, (one, other) in enumerate(zip(own.token_ids, tokens, strict=False)) if one != other)
        (first,) = strict.generate((*prompt, *own.token_ids[:place]), ask).logprobs
        chances = {each.token: each.logprob for each in first.top}
        likeliest, least = first.top[0].logprob, first.top[-1].logprob
        found.append(Parting(*(likeliest - chances.get(each[place], least) for each in (tokens, own.token_ids))))
    return found


def _greedy(max_tokens: int) -> InferenceConfig:
    return InferenceConfig(temperature=0.0, max_tokens=max_tokens)


def _row(executor: str, answers: int, found: Sequence[Parting]) -> str:
    prefers = sum(each.gap == 0 for each in found)
    ties = sum(each.gap <= _NEAR_TIE for each in found)
    most = f"{max(each.gap for each in found):.3f}" if found else ""
    own = f"{max(each.own_gap for each in found):.3f}" if found else ""
    return f"| {executor} | {answers - len(found)} of {answers} | {ties} of {len(found)} | {prefers} | {most} | {own} |"


def measure(folder: Path) -> list[str]:
    """The lines of the table."""
    own = Home.default()
    path = endless_model(small_model(own).path, folder / "endless.gguf")
    lab = Lab(home_beside(own, folder))
    lines = []
    try:
        lab.models.get(str(path))
        answered = {
            (grid.name, executor): _texts(lab, grid, str(path), executor)
            for grid in _grids()
            for executor in _EXECUTORS
        }
        with lab.engine_for(str(path), EngineWish("strict", 1, _CONTEXT)) as strict:
            for grid in _grids():
                answers = strict_answers(strict, grid)
                longest = max(len(prompt) for prompt, _ in answers)
                rows = []
                for executor in _EXECUTORS:
                    found = partings(strict, answers, answered[grid.name, executor])
                    rows.append(_row(executor, grid.size, found))
                    print(grid.name, rows[-1], flush=True)
                lines += [f"\n## {grid.size} {grid.name} of up to {longest} tokens, {grid.max_tokens} tokens out\n"]
                lines += [_HEAD, *rows]
    finally:
        lab.store.close()
        server.stop_all(lab.home)
    here, llama = machine(), version_of(runtime.current(own).tool("llama-server"))
    about = f"SmolLM2-135M Q4_1 with its end token switched off; llama.cpp {llama}; {here['cpu']}, {here['system']}."
    return [_INTRODUCTION, about, *lines]


_HEAD = (
    "| executor | equal answers | partings at a near tie (0.1) | where the strict server prefers the executor's token | largest gap | "
    "largest gap of the strict server's own token |\n| --- | --- | --- | --- | --- | --- |"
)

_INTRODUCTION = """# Parity: how far answers part from a strict llama-server's

Written by `python benchmarks/parity.py`, which says what is measured. Gaps are differences of log-probabilities, by the strict server when
it reads its own answer up to the parting as a prompt. Its own token can have a gap too: llama.cpp evaluates a prompt by another kernel than
the tokens that it generates, and so does not always agree with itself.
"""


def _texts(lab: Lab, grid: BenchGrid, model: str, executor: str) -> list[str]:
    """Answers in the order of `grid.conversations()`."""
    frame = lab.compare(as_grid(grid, model), executor=executor, fresh=True).result().cells()
    assert set(frame["executor"]) == {executor}
    answers = frame.set_index(["prompt", "input_id"])["answer"]
    return [answers[prompt, each] for prompt, each in grid.places()]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="noa-lab-parity-") as place:
        written = "\n".join(measure(Path(place))) + "\n"
    TABLE.write_text(written)
    print(written)


if __name__ == "__main__":
    main()
