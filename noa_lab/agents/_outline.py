"""What a file says at four levels of detail: its name, one line, a skeleton, all of it.

Python is read by the standard library's parser and never run; other languages by the way their lines begin.
"""

from __future__ import annotations

import ast
import json
import warnings
from enum import IntEnum

from noa_lab.agents._languages import Language
from noa_lab.agents._names import without_controls

__all__ = ["Level", "first_sentence", "full", "headline", "shortened", "skeleton"]

_MAX_PARSED_CHARS = 400_000
_MAX_LINE = 160
_MAX_SKELETON_LINES = 60
_NO_PROSE = ("#", "[!", "![", "<", "```", "~~~", "|", "..", "- ", "* ")
_COMMENT_MARKS = ("///", "//!", "//", "/**", "/*", "<!--", "--", "#!", "#", ";;", ";", "%", '"""', "'''", "*", "rem ")
_DECLARATIONS = (
    "abstract ", "async ", "class ", "const ", "def ", "defmodule ", "enum ", "export ", "extern ", "fn ",
    "func ", "function ", "impl ", "import ", "interface ", "internal ", "message ", "module ", "mod ",
    "namespace ", "object ", "package ", "private ", "program ", "protected ", "protocol ", "pub ", "public ",
    "record ", "require ", "resource ", "service ", "static ", "struct ", "sub ", "subroutine ", "trait ",
    "type ", "typedef ", "union ", "use ", "using ",
)  # fmt: skip


class Level(IntEnum):
    """How much of a file a prompt shows."""

    OUT = 0
    NAME = 1
    LINE = 2
    SKELETON = 3
    FULL = 4


def headline(text: str, language: Language | None) -> str:
    """One line that says what the file is for, in its own words; empty when it does not say.

    Python: the first line of the docstring. Prose: the first paragraph. JSON: its "description". Elsewhere: the comment at the top.
    """
    name = language.name if language else ""
    if name == "Python":
        tree = _parsed(text)
        said = ast.get_docstring(tree) if tree is not None else ""
        return _one_line((said or "").strip().partition("\n")[0])
    if name == "JSON":
        return _one_line(_described(text))
    if language is not None and language.sort == "prose":
        return first_sentence(text)
    return _top_comment(text)


def skeleton(text: str, language: Language | None) -> str:
    """Signatures and first lines of documentation, at most 60 lines; for prose and data, the first lines."""
    if language is not None and language.name == "Python":
        tree = _parsed(text)
        if tree is not None:
            return "\n".join(_python_lines(tree)[:_MAX_SKELETON_LINES])
    lines = without_controls(text[:_MAX_PARSED_CHARS]).splitlines()
    if language is not None and language.sort == "code":
        kept = [line.rstrip()[:_MAX_LINE] for line in lines if line.startswith(_DECLARATIONS)]
        if kept:
            return "\n".join(kept[:_MAX_SKELETON_LINES])
    return "\n".join([line.rstrip()[:_MAX_LINE] for line in lines if line.strip()][:12])


def full(text: str) -> str:
    """All of the text, without control characters."""
    return without_controls(text).strip()


def first_sentence(text: str) -> str:
    """The first paragraph of prose that is no heading, badge, list or rule, as one line."""
    paragraph: list[str] = []
    fenced = False
    for raw in without_controls(text[:20_000]).splitlines():
        line = raw.strip()
        if line.startswith(("```", "~~~")):
            fenced = not fenced
        if line and not fenced and set(line) <= set("=-~^*_ "):  # an underline: what came before was a heading
            paragraph.clear()
        elif fenced or not line or line.startswith(_NO_PROSE):
            if paragraph:
                break
        else:
            paragraph.append(line.lstrip("> "))
    return _one_line(" ".join(paragraph), 300)


def shortened(line: str, limit: int) -> str:
    """A line of at most `limit` characters, cut at a word."""
    return line if len(line) <= limit else line[: limit - 2].rsplit(" ", 1)[0] + " …"


def _one_line(text: str, limit: int = _MAX_LINE) -> str:
    return shortened(" ".join(without_controls(text).split()), limit)


def _described(text: str) -> str:
    if len(text) > _MAX_PARSED_CHARS:
        return ""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    said = data.get("description") if isinstance(data, dict) else ""
    return said if isinstance(said, str) else ""


def _top_comment(text: str) -> str:
    for raw in text[:4000].splitlines()[:15]:
        line = raw.strip()
        if not line or line.startswith(
            ("#!", "<?", "<!doctype", "<!DOCTYPE", "# -*-", "#include", "#pragma", "#define", "#if")
        ):
            continue
        mark = next((mark for mark in _COMMENT_MARKS if line.lower().startswith(mark)), None)
        if mark is None:
            return ""
        said = line[len(mark) :].strip(" */-#=!<>\"'")
        if len(said) > 3 and not said.lower().startswith(("copyright", "spdx", "(c)", "licensed", "vim:", "eslint")):
            return _one_line(said)
    return ""


def _parsed(text: str) -> ast.Module | None:
    if len(text) > _MAX_PARSED_CHARS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the repository's invalid escapes are not ours to report
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _python_lines(tree: ast.Module) -> list[str]:
    lines = [_one_line(said.partition("\n")[0])] if (said := ast.get_docstring(tree)) else []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(_source(base) for base in node.bases)
            lines.append(f"class {node.name}{f'({bases})' if bases else ''}:{_said(node)}")
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            lines += [f"    {_signature(method)}" for method in methods if not method.name.startswith("_")]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines.append(_signature(node))
    return lines


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    result = f" -> {_source(node.returns)}" if node.returns else ""
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return _one_line(f"{word} {node.name}({_source(node.args)}){result}:") + _said(node)


def _said(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    said = ast.get_docstring(node)
    return f"  # {_one_line(said.partition(chr(10))[0])}" if said else ""


def _source(node: ast.AST) -> str:
    try:
        return _one_line(ast.unparse(node), 100)
    except (RecursionError, ValueError):
        return "..."
