"""`noa-lab generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from noa_lab.cli._terminal import TerminalReport, print_json, say
from noa_lab.workbench import Lab

if TYPE_CHECKING:
    from noa_lab.inference import InferenceConfig

DEFAULT_TOKENS = 200


def _config(max_tokens: int, temperature: float | None, seed: int | None) -> InferenceConfig:
    from noa_lab.inference import InferenceConfig

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
    """Let the model continue PROMPT, and print the text as it comes."""
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


COMMANDS: tuple[click.Command, ...] = (generate,)
