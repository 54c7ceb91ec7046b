"""The form of the ServerPanel: how a server is to be run, as fields, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from noa_lab.errors import BadInput
from noa_lab.widgets._form import Form, ticked, whole, words
from noa_lab.widgets._view import Block, field, section

__all__ = ["first_form", "serve_arguments", "settings_fields"]

_NUMBERS = {
    "context_size": ("Context", "tokens; default 4096"),
    "slots": ("Slots", "requests; default: tuned, else 2"),
    "threads": ("Threads", "default: tuned or measured"),
    "threads_batch": ("Threads for prompts", "default: as Threads"),
    "batch_size": ("Batch", "tokens; default 2048, on the CPU as Micro-batch"),
    "ubatch_size": ("Micro-batch", "tokens; default 512"),
    "gpu_layers": ("GPU layers", "-1 all; default 0"),
    "port": ("Port", "default: a free one"),
}
_CHOICES = {
    "cache_type_k": "KV cache, keys",
    "cache_type_v": "KV cache, values",
    "flash_attention": "Flash attention",
    "load_mode": "Loading",
}
_ALWAYS = ("context_size", "slots", "threads")


def first_form(model: str, settings: Mapping[str, Any], *, keep: bool) -> dict[str, str | bool]:
    """What the fields hold at first.

    Args:
        model: The chosen model; "" for the default one.
        settings: Fields of `ServerSettings`; None leaves one open.
        keep: Whether the server is to stay.

    Raises:
        BadInput: When a setting is wrong, or has no field in the panel.
    """
    from noa_lab.server import ServerSettings

    settings = {name: value for name, value in settings.items() if value is not None}
    ServerSettings(**settings)
    without = [name for name in settings if name not in (*_NUMBERS, *_CHOICES, "embeddings")]
    if without:
        raise BadInput(
            f"The panel has no field for {without[0]}.",
            fix=f"Call lab.serve(..., {without[0]}=...) instead.",
            field=without[0],
            value=settings[without[0]],
        )
    form: dict[str, str | bool] = {"model": model, "keep": keep, "embeddings": bool(settings.get("embeddings", False))}
    given = {name: settings.get(name) for name in (*_NUMBERS, *_CHOICES)}
    return form | {name: "" if value is None else str(value) for name, value in given.items()}


def serve_arguments(form: Form) -> dict[str, object]:
    """What is given to `lab.serve`, checked; the model under "0".

    Raises:
        BadInput: When a field holds something that cannot be used.
    """
    from noa_lab.server import ServerSettings

    settings: dict[str, Any] = {name: number for name in _NUMBERS if (number := whole(form, name)) is not None}
    settings |= {name: chosen for name in _CHOICES if (chosen := words(form, name))}
    settings |= {"embeddings": True} if ticked(form, "embeddings") else {}
    ServerSettings(**settings)
    ref = words(form, "model")
    return {**({"0": ref} if ref else {}), **settings, **({"keep": True} if ticked(form, "keep") else {})}


def settings_fields(
    form: Form, models: Iterable[tuple[str, str]], default: str, mistakes: Mapping[str, str], *, enabled: bool
) -> list[Block]:
    """The fields: what most people set in a row, the rest folded away.

    Args:
        form: What the fields hold.
        models: Value and label of each model.
        default: Name of the default model; "" while it is not known.
        mistakes: What is wrong, by field.
        enabled: Whether the fields can be changed now.
    """
    model = str(form["model"])
    options = [("", f"default ({default})" if default else "default"), *models]
    if model not in {value for value, _ in options}:
        options.append((model, model))

    def one(name: str, label: str, **more: Any) -> Block:
        return field(name, label, form[name], error=mistakes.get(name, ""), enabled=enabled, **more)

    def number(name: str) -> Block:
        label, help_text = _NUMBERS[name]
        return one(name, label, kind="number", help=help_text)

    first = [one("model", "Model", kind="select", options=options), *map(number, _ALWAYS)]
    first.append(one("keep", "Keep it after this kernel", kind="checkbox"))
    more = [number(name) for name in _NUMBERS if name not in _ALWAYS]
    more += [one(name, label, kind="select", options=_options(name)) for name, label in _CHOICES.items()]
    more.append(one("embeddings", "Embeddings too", kind="checkbox"))
    folded = not any(form[name] for name in (*_NUMBERS, *_CHOICES, "embeddings") if name not in _ALWAYS)
    return [
        section("settings", "", first, layout="row"),
        section("more-settings", "More settings", [section("more", "", more, layout="row")], folded=folded),
    ]


def _options(name: str) -> list[tuple[str, str]]:
    """The values that a setting may have, the default first."""
    from noa_lab.server import ServerSettings

    known = ServerSettings.model_fields[name]
    return [("", f"default ({known.default})"), *((value, value) for value in get_args(known.annotation))]
