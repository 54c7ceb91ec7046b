"""Jinja2 for texts that people share with each other: sandboxed, strict about missing variables, bounded in time and size.

Jinja's own sandbox keeps templates away from Python's internals, but not from using all memory or running for ever. So: no macros,
includes or recursion; the filters listed here; loops draw on one budget of turns and seconds; whatever grows a text is measured
before it is made.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from noa_lab.errors import TemplateInvalid

__all__ = ["MAX_RENDERED", "Template"]

MAX_RENDERED = 2_000_000
"""Most characters a rendered text may have."""

_MAX_SOURCE = 2_000_000
_MAX_TURNS = 100_000
_MAX_SECONDS = 2.0
_MAX_BITS = 1024
_BUDGET = "__budget__"

_REFUSED_NODES: dict[type[nodes.Node], str] = {
    nodes.Macro: "macros",
    nodes.CallBlock: "call blocks",
    nodes.Include: "includes",
    nodes.Import: "imports",
    nodes.FromImport: "imports",
    nodes.Extends: "inheritance",
    nodes.Block: "blocks",
    nodes.FilterBlock: "filter blocks",
    nodes.Pow: "powers",
}

_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items", "last", "length",
    "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr", "sort", "string",
    "striptags", "sum", "title", "trim", "truncate", "unique", "upper", "wordcount",
)  # fmt: skip

_METHODS = (
    "capitalize", "casefold", "count", "endswith", "find", "get", "index", "isdigit", "items", "keys", "lower", "lstrip",
    "removeprefix", "removesuffix", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper", "values",
)  # fmt: skip


class _TooMuch(Exception):
    """The template uses more time or space than it may."""


class _Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self._turns = _MAX_TURNS
        self._deadline = time.monotonic() + _MAX_SECONDS

    def spend(self) -> None:
        self._turns -= 1
        if self._turns < 0:
            raise _TooMuch(f"its loops take more than {_MAX_TURNS:,} turns")
        if time.monotonic() > self._deadline:
            raise _TooMuch(f"it takes more than {_MAX_SECONDS:g} seconds")


def _measured(size: int) -> None:
    if size > MAX_RENDERED:
        raise _TooMuch(f"it makes a text of more than {MAX_RENDERED:,} characters")


def _weigh(value: object) -> int:
    """Characters that `value` has as a text, about; stops at the limit, so that a list of the same long list is refused quickly."""
    size = 0
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting.extend([*part.keys(), *part.values()])
        elif isinstance(part, list | tuple | set | frozenset):
            waiting.extend(part)
        size += len(part) if isinstance(part, str | bytes) else 2
        _measured(size)
    return size


def _weighed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that looks at the size of what it is given before it begins."""

    @functools.wraps(function)
    def filter_(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, str | bytes | list | tuple | dict):
                _weigh(value)
        return function(*args, **kwargs)

    return filter_


@jinja2.pass_context
def _bounded(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    budget: _Budget = context.parent[_BUDGET]
    for value in values:
        budget.spend()
        yield value


def _check_product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | bytes | list | tuple) and isinstance(times, int):
            _measured(_weigh(value) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _MAX_BITS:
        raise _TooMuch("it makes a number of too many digits")


def _join(values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    parts: list[str] = []
    size = 0
    for value in values:
        found = (
            value
            if attribute is None
            else (value[attribute] if isinstance(value, Mapping) else getattr(value, str(attribute)))
        )
        if isinstance(found, jinja2.Undefined):
            str(found)  # StrictUndefined raises here and names the variable
        parts.append(str(found))
        size += len(parts[-1]) + len(d)
        _measured(size)
    return d.join(parts)


def _replace(text: str, old: str, new: str) -> str:
    text = str(text)
    _measured(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _indent(text: str, width: int = 4, first: bool = False) -> str:
    text = str(text)
    _measured(len(text) + (text.count("\n") + 1) * width)
    padded = text.replace("\n", "\n" + " " * width)
    return " " * width + padded if first else padded


def _tojson(value: Any, indent: int | None = None) -> str:
    """JSON as a model should read it: jinja's own escapes letters for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(int(indent), 8))


def _finalize(value: Any) -> Any:
    if isinstance(value, list | tuple | dict):
        _weigh(value)
    return value


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > _MAX_TURNS:
        raise _TooMuch(f"range() gives more than {_MAX_TURNS:,} numbers")
    return numbers


class _Bounding(NodeTransformer):
    """Sends loops and `~` through our filters, and refuses what templates of prompts have no use for."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2's naming
        if node.recursive:
            raise jinja2.TemplateSyntaxError("recursive loops are not allowed here", node.lineno)
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, "__bounded", [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "join", [], [], None, None, lineno=node.lineno)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802
        if node.name.startswith("__"):
            raise jinja2.TemplateSyntaxError("names that start with two underscores are not allowed here", node.lineno)
        return node

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        for kind, name in _REFUSED_NODES.items():
            if isinstance(node, kind):
                raise jinja2.TemplateSyntaxError(f"{name} are not allowed here", node.lineno)
        return super().generic_visit(node, *args, **kwargs)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with the growth of texts measured and calls limited to harmless methods."""

    intercepted_binops = frozenset({"+", "*", "%"})

    def __init__(self) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False, finalize=_finalize
        )
        own = {"join": _join, "replace": _replace, "indent": _indent, "tojson": _tojson}
        self.filters = {
            name: _weighed(function) for name, function in ({n: self.filters[n] for n in _FILTERS} | own).items()
        }
        self.filters["__bounded"] = _bounded
        self.globals = {"range": _range}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Bounding().visit(tree)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str | bytes | list | tuple):
            _measured(_weigh(left) + _weigh(right))
        elif operator == "*":
            _check_product(left, right)
        elif operator == "%" and isinstance(left, str | bytes):
            raise SecurityError("formatting with % is not allowed here")
        return super().call_binop(context, operator, left, right)

    def is_safe_callable(self, obj: Any) -> bool:
        if isinstance(obj, jinja2.Undefined):
            return True  # calling it raises the error that names the variable
        owner = getattr(obj, "__self__", None)
        is_plain = isinstance(owner, str | dict | list | tuple)
        return obj is _range or (is_plain and getattr(obj, "__name__", "") in _METHODS)


@functools.cache
def _environment() -> _Environment:
    return _Environment()


class Template:
    """A text with `{{ variables }}`.

    Args:
        source: Jinja2; a trailing newline is kept.
        prompt: What messages call the thing that it belongs to.

    Raises:
        TemplateInvalid: When it cannot be parsed or uses what is not allowed.
    """

    def __init__(self, source: str, prompt: str = "") -> None:
        self.source = source
        self.prompt = prompt
        if len(source) > _MAX_SOURCE:
            self._refuse(
                f"has {len(source):,} characters, more than {_MAX_SOURCE:,}", "Put long texts into the inputs."
            )
        try:
            environment = _environment()
            self._template = environment.from_string(source)
            self.variables: frozenset[str] = frozenset(meta.find_undeclared_variables(environment.parse(source))) - {
                "range"
            }
        except jinja2.TemplateSyntaxError as error:
            line = source.splitlines()[error.lineno - 1 : error.lineno] or [""]
            self._refuse(
                f"is no valid template in its line {error.lineno} ({line[0].strip()[:80]!r}): {str(error.message).rstrip('.')}"
            )
        except RecursionError:
            self._refuse("is nested too deeply", "Use fewer levels of brackets.")

    def _refuse(self, reason: str, fix: str = "Correct the template.", variable: str = "") -> NoReturn:
        named = f"The prompt {self.prompt!r}" if self.prompt else "A template"
        raise TemplateInvalid(f"{named} {reason}.", fix=fix, prompt=self.prompt, variable=variable) from None

    def named(self, prompt: str) -> Template:
        """The same template, under another name in its messages."""
        return self if prompt == self.prompt else Template(self.source, prompt)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text with the variables filled in.

        Raises:
            TemplateInvalid: When a variable is missing (`fields["variable"]`), an operation fails, or a limit is passed.
        """
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate({**variables, _BUDGET: _Budget()}):
                size += len(piece)
                _measured(size)
                pieces.append(piece)
        except jinja2.UndefinedError as error:
            missing = sorted(self.variables - set(variables))
            name = next((each for each in missing if repr(each) in str(error)), "")
            self._refuse(f"cannot be filled in: {error}", "Give each input what the template uses.", name)
        except _TooMuch as error:
            self._refuse(f"is refused: {error}", "Make the template simpler.")
        except SecurityError as error:
            reason = "it calls what templates may not call" if "callable" in str(error) else str(error).rstrip(".")
            self._refuse(f"is refused: {reason}", "Templates may only use the inputs' own values.")
        except RecursionError:
            self._refuse("is nested too deeply", "Use fewer levels of brackets.")
        except Exception as error:
            # Any operation on the inputs' values may fail in its own way; all of them mean that this template cannot be rendered.
            self._refuse(f"cannot be filled in: {type(error).__name__}: {error}")
        return "".join(pieces)
