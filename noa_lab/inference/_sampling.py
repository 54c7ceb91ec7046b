"""From an `InferenceConfig` to every sampler value there is: an engine's own defaults never decide."""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Mapping
from typing import Any

from noa_lab.errors import RequestRefused
from noa_lab.inference._types import InferenceConfig
from noa_lab.inference.schema import schema_grammar

__all__ = ["REPEAT_LAST_N", "check_echo", "choose_seed", "constraint", "explicit"]

REPEAT_LAST_N = 64
"""Tokens that `repeat_penalty` looks back on, prompt tokens included; llama-server's default."""

_ORDER = ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
"""llama-server's own order (`common/common.h`, b11312)."""

_NEUTRAL: dict[str, Any] = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "typical_p": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "dry_multiplier": 0.0,
    "mirostat": 0,
    "adaptive_target": -1.0,
    "min_keep": 0,
    "logit_bias": [],
    "ignore_eos": False,
    "backend_sampling": False,
}
"""What `InferenceConfig` has no field for, at the value that changes nothing."""

_ECHOED = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed")


def choose_seed(config: InferenceConfig) -> int:
    """The config's seed, or a random one: llama-server does not report a seed that it draws itself."""
    return config.seed if config.seed is not None else secrets.randbelow(2**32 - 1)


def explicit(config: InferenceConfig, seed: int) -> dict[str, Any]:
    """All sampling fields of a `/completion` request.

    Args:
        config: What the caller wants.
        seed: The seed to use.
    """
    return {
        "temperature": config.temperature,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "min_p": config.min_p,
        "repeat_penalty": config.repeat_penalty,
        "repeat_last_n": REPEAT_LAST_N,
        "seed": seed,
        "n_probs": config.n_probs,
        "samplers": _ORDER,
        **_NEUTRAL,
    }


def constraint(config: InferenceConfig) -> str | None:
    """The grammar that an answer is held to: the config's own, or that of its JSON schema.

    Raises:
        SchemaUnsupported: For a schema that cannot be held to, before anything is sent.
    """
    if config.json_schema is None:
        return config.grammar
    try:
        written = json.dumps(config.json_schema)
    except (TypeError, ValueError):
        return schema_grammar(config.json_schema)  # says what is wrong with it
    return _grammar(written)


@functools.lru_cache(maxsize=32)
def _grammar(schema: str) -> str:
    """A comparison asks thousands of times by one schema."""
    return schema_grammar(json.loads(schema))


def check_echo(asked: Mapping[str, Any], settings: Mapping[str, Any], url: str) -> None:
    """Compare what was asked for with what the server says it used.

    llama-server clamps some values without a word, and some of its versions leave out a grammar that they cannot read.

    Raises:
        RequestRefused: Naming the first field that differs.
    """
    if asked.get("grammar") and settings.get("grammar", asked["grammar"]) != asked["grammar"]:
        raise _changed("grammar", "another one", url)
    for name in _ECHOED:
        used = settings.get(name)
        if used is not None and abs(float(used) - float(asked[name])) > 1e-5 * max(1.0, abs(float(asked[name]))):
            raise _changed(name, f"{used} where {asked[name]} was asked for", url)


def _changed(name: str, found: str, url: str) -> RequestRefused:
    return RequestRefused(
        f"The server used {name} = {found}.",
        fix=f"Choose another {name}, which this server does not change, or install another llama.cpp.",
        url=url,
        field=name,
        status=200,
        type="setting_changed",
    )
