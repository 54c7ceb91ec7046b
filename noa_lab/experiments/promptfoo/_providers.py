"""promptfoo's providers: models of ours where the names say so, and how answers are sampled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from noa_lab.errors import BadInput
from noa_lab.experiments.promptfoo._source import Source, is_file_reference
from noa_lab.inference import InferenceConfig

__all__ = ["read_providers"]

_NAMES = {
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "maxTokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "maxOutputTokens": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "top_p": "top_p",
    "topP": "top_p",
    "top_k": "top_k",
    "topK": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repeat_penalty",
    "repetition_penalty": "repeat_penalty",
    "seed": "seed",
    "stop": "stop_sequences",
    "stop_sequences": "stop_sequences",
    "stopSequences": "stop_sequences",
}
_CODE = ("exec:", "python:", "javascript:", "ruby:", "golang:", "webhook:", "package:", "mcp:")


def read_providers(source: Source, known: Iterable[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Models, as far as the names are ours, and the samplings.

    Args:
        source: The configuration.
        known: Names of the catalogue.
    """
    names = {name.lower(): name for name in known}
    given = source.data.get("providers", source.data.get("targets", []))
    found = [each for each in _listed(given, source) if not _is_program(each[0], each[2], source)]
    ours = [(name, config, where) for name, config, where in found if _model(name, names)]
    for name, _, where in found:
        if not _model(name, names):
            why = "it is left out" if ours else "the lab's default model answers in its place (or name one)"
            source.notes.take(
                "left out" if ours else "approximated", where, name, f"There is no such model here; {why}."
            )
    models = list(dict.fromkeys(str(_model(name, names)) for name, _, _ in ours))
    samplings: list[dict[str, Any]] = []
    for _, config, where in ours or found:
        sampling = _sampling(config, where, source)
        if sampling not in samplings:
            samplings.append(sampling)
    if len(samplings) > 1 and len(models) > 1:
        source.notes.take(
            "approximated", "providers", "samplings of single providers", "Every model is asked with every sampling."
        )
    return models, [each for each in samplings if each] if len(samplings) < 2 else samplings


def _is_program(name: str, where: str, source: Source) -> bool:
    if not name.startswith(_CODE):
        return False
    source.notes.take("left out", where, name, "Providers that are programs or services are not run.")
    return True


def _model(name: str, names: Mapping[str, str]) -> str | None:
    """The model of ours that a provider's name holds, or None."""
    return next((names[part] for part in _parts(name) if part in names), None)


def _parts(name: str) -> list[str]:
    """What in a provider's name could be a model: `ollama:chat:smollm2-135m` has three such parts."""
    pieces = name.lower().split(":")
    return [*(":".join(pieces[start:]) for start in range(len(pieces))), *pieces, name.lower().rsplit("/", 1)[-1]]


def _listed(given: Any, source: Source, depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Name, settings and place of each provider."""
    source.check_depth(depth, "providers")
    for number, each in enumerate(given if isinstance(given, list) else [given]):
        where = f"providers[{number}]"
        if is_file_reference(each):
            for path in source.paths(each, where):
                if path.suffix.lower() in {".py", ".js", ".ts", ".mjs", ".cjs"}:
                    source.notes.take("left out", where, each, "Providers that are programs are not run.")
                else:
                    yield from _listed(source.loaded(path, where) or [], source, depth + 1)
        elif isinstance(each, str):
            yield each, {}, where
        elif isinstance(each, Mapping) and "id" in each:
            yield str(each["id"]), each.get("config") or {}, where
            for key in each.keys() & {"prompts", "transform", "delay", "env"}:
                what = f"{key} of a provider"
                source.notes.take(
                    "left out", where, what, "Every prompt is asked of every model; answers are taken as they are."
                )
        elif isinstance(each, Mapping):
            for name, options in each.items():  # {"openai:gpt": {config: ...}}, an older way
                config = options.get("config") if isinstance(options, Mapping) else None
                yield str(name), config or {}, where


def _sampling(config: Mapping[str, Any], where: str, source: Source) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = _NAMES.get(key)
        if name is None:
            schema = _schema(key, value)
            if schema is not None:
                found["json_schema"] = schema
            else:
                # The value is not shown: it may be a key.
                source.notes.take("left out", where, f"config.{key}", "It is no setting of a sampler.")
            continue
        chosen = [value] if name == "stop_sequences" and isinstance(value, str) else value
        try:
            InferenceConfig(**{name: chosen})
        except (BadInput, ValueError):
            source.notes.take("left out", where, f"config.{key}", f"{value!r} is no value for {name}.")
        else:
            found[name] = chosen
    return found


def _schema(key: str, value: Any) -> Any:
    """The JSON Schema of OpenAI's `response_format`; None for anything else."""
    if key != "response_format" or not isinstance(value, Mapping):
        return None
    inner = value.get("json_schema")
    return inner.get("schema") if isinstance(inner, Mapping) else None
