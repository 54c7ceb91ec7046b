"""Python assertions of a configuration that is trusted: its code runs in this process."""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from noa_lab.errors import ExperimentError
from noa_lab.experiments.promptfoo._source import Source, is_file_reference

__all__ = ["python_check"]

Check = Callable[[str, Mapping[str, Any]], float | bool | None]


def python_check(assertion: Mapping[str, Any], where: str, source: Source) -> Check | None:
    """The assertion as a scoring function; None, with a note, where it cannot be one.

    Args:
        assertion: The assertion, of type "python".
        where: Its place.
        source: The configuration, which must be trusted.
    """
    assert source.trust
    value, threshold = str(assertion.get("value") or ""), assertion.get("threshold")
    config = assertion.get("config") or {}
    try:
        in_file = is_file_reference(value)
        check = _from_file(source.folder / value.removeprefix("file://")) if in_file else _inline(value)
    except Exception as error:  # the configuration's code may fail in any way
        source.notes.take("left out", where, "python", f"Its code cannot be used: {type(error).__name__}: {error}")
        return None

    def score(answer: str, row: Mapping[str, Any]) -> float | bool | None:
        found = _grade(check(answer, {"vars": dict(row), "config": config}))
        return found >= threshold if isinstance(threshold, int | float) and found is not None else found

    return score


def _from_file(reference: Path) -> Callable[..., Any]:
    name, _, function = reference.name.partition(":")
    path = reference.with_name(name)
    spec = importlib.util.spec_from_file_location(f"promptfoo_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ExperimentError(f"{path} is no Python file.", fix="Name a .py file.", path=str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Any] = getattr(module, function or "get_assert")
    return found


def _inline(code: str) -> Callable[..., Any]:
    """An expression, or the body of a function that returns something."""
    body = code if "\n" in code.strip() or code.strip().startswith("return") else f"return ({code.strip()})"
    space: dict[str, Any] = {}
    exec(compile(f"def check(output, context):\n{textwrap.indent(body, '    ')}", "<assertion>", "exec"), space)  # noqa: S102 - only where it is trusted
    found: Callable[..., Any] = space["check"]
    return found


def _grade(result: Any) -> float | bool | None:
    if isinstance(result, Mapping):
        result = result.get("score", result.get("pass", result.get("pass_")))
    return result if result is None or isinstance(result, bool | int | float) else float(result)
