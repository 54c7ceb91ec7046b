"""`noa-lab generate | chat`."""

from __future__ import annotations

from typing import Any

import click

from noa_lab.cli._terminal import TerminalReport, print_error, print_json, say
from noa_lab.errors import ContextOverflow, InferenceError
from noa_lab.inference import ChatMessage, InferenceConfig, InferenceEngine
from noa_lab.workbench import Lab

DEFAULT_TOKENS = 200
QUIT = {"/quit", "/exit", "/bye"}


def _config(max_tokens: int, temperature: float | None, seed: int | None) -> InferenceConfig:
    given: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    return InferenceConfig(**{name: value for name, value in given.items() if value is not None})


@click.command()
@click.argument("prompt")
@click.option("--model", help="Catalogue name, reference or path (default: the default model).")
@click.option("--max-tokens", default=DEFAULT_TOKENS, show_default=True, type=int, help="Most tokens to generate.")
@click.option("--temperature", type=float, help="0 is greedy (default: 0.7).")
@click.option("--seed", type=int, help="Seed of the sampler (default: drawn, and reported).")
@click.option("--json", "as_json", is_flag=True, help="Print the whole completion as JSON.")
def generate(
    prompt: str, model: str | None, max_tokens: int, temperature: float | None, seed: int | None, as_json: bool
) -> None:
    """Continue PROMPT, as raw text, and print it as it comes."""
    config = _config(max_tokens, temperature, seed)
    with Lab().serve(model, report=TerminalReport()) as server, server.engine() as engine:
        stream = engine.stream(prompt, config)
        for piece in stream:
            if not as_json:
                say(piece, end="")
        if not as_json:
            say("")
            return
        result = stream.result
    print_json(
        {
            "text": result.text,
            "model": result.model,
            "finish_reason": result.finish_reason,
            "prompt_tokens": result.prompt_tokens,
            "cached_tokens": result.cached_tokens,
            "completion_tokens": result.completion_tokens,
            "truncated": result.truncated,
            "seed": result.seed,
            "ttft_ms": result.timings.ttft_ms,
            "total_ms": result.timings.total_ms,
        }
    )


@click.command()
@click.option("--model", help="Catalogue name, reference or path (default: the default model).")
@click.option("--system", default="", help="An instruction that stands over the conversation.")
@click.option("--max-tokens", default=DEFAULT_TOKENS, show_default=True, type=int, help="Most tokens for one answer.")
@click.option("--temperature", type=float, help="0 is greedy (default: 0.7).")
@click.option("--seed", type=int, help="Seed of the sampler.")
def chat(model: str | None, system: str, max_tokens: int, temperature: float | None, seed: int | None) -> None:
    """Talk to a model in the terminal; /clear forgets, /quit or Ctrl-D ends it, Ctrl-C stops an answer."""
    config = _config(max_tokens, temperature, seed)
    first = [ChatMessage.system(system)] if system else []
    messages = list(first)
    with Lab().serve(model, report=TerminalReport()) as server, server.engine() as engine:
        say(f"{engine.model_name} · /clear forgets, /quit ends")
        while (said := _ask()) is not None:
            if said == "/clear":
                messages = list(first)
                continue
            turn = [*messages, ChatMessage.user(said)]
            try:
                messages = [*turn, ChatMessage.assistant(_answer(engine, turn, config))]
            except ContextOverflow as error:
                print_error(error)
                say("This turn was dropped. /clear starts a new conversation.")
            except InferenceError as error:
                print_error(error)
                say("This turn was dropped.")


def _ask() -> str | None:
    """What the user says; None at the end of the conversation."""
    try:
        said = str(click.prompt("you", prompt_suffix="> ")).strip()
    except click.Abort:
        return None
    return None if said in QUIT else said


def _answer(engine: InferenceEngine, turn: list[ChatMessage], config: InferenceConfig) -> str:
    """Print an answer as it comes; Ctrl-C stops it, and what came counts."""
    answer = ""
    stream = engine.stream(turn, config)
    try:
        for piece in stream:
            answer += piece
            say(piece, end="")
    except KeyboardInterrupt:
        stream.close()
        say(" [stopped]", end="")
    say("")
    return answer


COMMANDS: tuple[click.Command, ...] = (generate, chat)
