"""Reading a small model's reply: JSON where it wrote JSON, labelled lines where it wrote lines, prose otherwise."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from noa_lab.agents._names import without_controls

__all__ = ["Reading", "plain_sentences", "read_reply"]

MAX_REPLY_CHARS = 100_000
MAX_PURPOSE_CHARS = 400
MAX_ROLE_CHARS = 200

_PURPOSE_KEYS = ("purpose", "summary", "description", "overview", "digest", "about", "goal", "repository_purpose")
_PART_KEYS = (
    "components",
    "component",
    "modules",
    "parts",
    "files",
    "structure",
    "directories",
    "folders",
    "key_components",
)
_PATH_KEYS = ("path", "file", "name", "component", "module", "folder", "directory")
_ROLE_KEYS = ("role", "description", "purpose", "summary", "does", "what")
_WRAPPERS = ("digest", "repository", "result", "repository_digest", "answer")

_PARTS_LABEL = r"components?|modules?|parts?|files?|structure"
_LABEL = re.compile(
    rf"(?i)^[\s>*_#`-]{{0,12}}(?P<label>purpose|summary|overview|description|digest|role|{_PARTS_LABEL})"
    r"[\s*_`]{0,6}:[\s*_`]{0,6}(?P<rest>.*)$"
)
_HEADING = re.compile(
    rf"(?i)^\s{{0,3}}(?:#{{1,6}}|\*\*)\s{{0,3}}(?P<label>purpose|summary|overview|description|{_PARTS_LABEL})[\s:*]{{0,6}}$"
)
_ITEM = re.compile(r"^\s{0,12}(?:[-*+•]|\d{1,3}[.)])\s{1,4}(?P<rest>.+)$")
_PAIR = re.compile(
    r"^[`*\"'\[(]{0,4}(?P<path>[^\s`*\"'|\])(:][^`*\"'|\])(:]{0,200}?)[`*\"'\])]{0,4}\s{0,4}"
    "(?::|\\s[-\u2013\u2014]{1,2}|[\u2013\u2014]|->|=>|\u2192)"
    r"\s{0,4}(?P<role>\S.*)$"
)
_LINK = re.compile(r"\[([^\[\]]{1,200})\]\([^()\s]{0,300}\)")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]?\s+")


@dataclass(slots=True)
class Reading:
    """What a reply was found to say.

    Attributes:
        purpose: The purpose; empty when it says none.
        parts: Path, as written, and role of each part it names.
        form: How it was read.
    """

    purpose: str = ""
    parts: list[tuple[str, str]] = field(default_factory=list)
    form: Literal["json", "repaired json", "lines", "prose", "none"] = "none"


def read_reply(text: str) -> Reading:
    """What a reply says. Never raises; a reply that says nothing gives an empty reading."""
    text = without_controls(text[:MAX_REPLY_CHARS]).strip()
    for value, form in _json_values(text):
        reading = _from_json(value)
        if reading.purpose or reading.parts:
            reading.form = form
            return reading
    reading = _from_lines(text)
    if reading.purpose or reading.parts:
        return reading
    purpose = " ".join(plain_sentences(text)[:3])
    if not purpose or (purpose.isascii() and " " not in purpose):  # one word ("null", "None.") is no purpose
        return Reading()
    return Reading(purpose, form="prose")


def plain_sentences(text: str) -> list[str]:
    """The sentences of prose: without code blocks and marks, each once, cut where the model began to go round in circles."""
    prose = re.sub(r"```.*?(?:```|\Z)", " ", text, flags=re.DOTALL)
    if prose.lstrip().startswith(("{", "[{")):
        return []
    lines = [line.strip().lstrip("#>*-+• ").strip("*_` ") for line in prose.splitlines()]
    words = _until_it_circles(" ".join(line for line in lines if line).split())
    found: dict[str, str] = {}
    for sentence in _SENTENCE_END.split(" ".join(words)):
        said = sentence.strip()
        if sum(char.isalpha() for char in said) >= 3:
            found.setdefault(said.lower(), said)
    return list(found.values())


def _until_it_circles(words: list[str]) -> list[str]:
    """`words` up to the second of three or more repetitions in a row of the same one to twelve words."""
    for start in range(min(len(words), 600)):
        for length in range(1, 13):
            first = words[start : start + length]
            if (
                first == words[start + length : start + 2 * length] == words[start + 2 * length : start + 3 * length]
                and len(first) == length
            ):
                return words[: start + length]
    return words


def _json_values(text: str) -> Iterator[tuple[Any, Literal["json", "repaired json"]]]:
    """JSON objects in a reply, strict ones first, then such as a small repair makes readable."""
    decoder = json.JSONDecoder()
    starts = [match.start() for match in re.finditer(r"[{\[]", text)][:40]
    for start in starts:
        try:
            yield decoder.raw_decode(text, start)[0], "json"
        except (ValueError, RecursionError):
            continue
    for start in starts[:5]:
        end = max(text.rfind("}"), text.rfind("]"))
        body = text[start : end + 1] if end > start else text[start:]
        repaired = _repaired(body)
        if repaired is not None:
            yield repaired, "repaired json"


def _repaired(body: str) -> Any:
    """Trailing commas removed, open brackets closed, Python's quotes accepted; None when that is not enough."""
    body = re.sub(r",(\s*[}\]])", r"\1", body[:20_000])
    closers: list[str] = []
    quoted = escaped = False
    for char in body:
        if escaped or (quoted and char == "\\"):
            escaped = not escaped
        elif char == '"':
            quoted = not quoted
        elif not quoted and char in "{[":
            closers.append("}" if char == "{" else "]")
        elif not quoted and char in "}]" and closers:
            closers.pop()
    closed = re.sub(r"[,:\s]+$", "", body + ('"' if quoted else "")) + "".join(reversed(closers))
    try:
        return json.loads(closed)
    except (ValueError, RecursionError):
        pass
    if len(body) > 5000 or len(closers) > 20:
        return None
    try:
        return ast.literal_eval(closed)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _from_json(value: Any) -> Reading:
    if isinstance(value, list):
        return Reading(parts=_parts(value))
    if not isinstance(value, Mapping):
        return Reading()
    data = {str(key).lower().replace(" ", "_").replace("-", "_"): content for key, content in value.items()}
    for wrapper in _WRAPPERS:
        if isinstance(data.get(wrapper), Mapping):
            inner = _from_json(data[wrapper])
            if inner.purpose or inner.parts:
                return inner
    purpose = next((said for key in _PURPOSE_KEYS if (said := _text(data.get(key)))), "")
    parts = next((found for key in _PART_KEYS if (found := _parts(data.get(key)))), [])
    return Reading(" ".join(plain_sentences(purpose)[:3]), parts)


def _parts(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [(str(path), _text(role) or _text(_first(role, _ROLE_KEYS))) for path, role in value.items()]
    found = []
    for entry in value if isinstance(value, list) else []:
        if isinstance(entry, Mapping):
            path = _text(_first(entry, _PATH_KEYS))
            if path:
                found.append((path, _text(_first(entry, _ROLE_KEYS))))
        elif isinstance(entry, str):
            pair = _PAIR.match(entry.strip())
            found.append((pair["path"].strip(), pair["role"]) if pair else (entry.strip(), ""))
    return found


def _first(value: Any, keys: tuple[str, ...]) -> Any:
    return next((value[key] for key in keys if key in value), None) if isinstance(value, Mapping) else None


def _text(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _from_lines(text: str) -> Reading:
    """Labelled lines, headings with what stands under them, lists and tables of paths."""
    purpose: list[str] = []
    parts: list[tuple[str, str]] = []
    section = ""
    for raw in text.splitlines():
        line = _LINK.sub(r"\1", raw.strip())
        heading, label = _HEADING.match(line), _LABEL.match(line)
        if heading or label:
            section = _section((heading or label)["label"])  # type: ignore[index]
            line = label["rest"].strip(" *_`") if label and not heading else ""
            if not line:
                continue
            if section == "parts" and (pair := _pair(line)):
                parts.append(pair)
                continue
        elif not line:
            section = section if section == "parts" or not purpose else ""
            continue
        if pair := _listed(line, section):
            parts.append(pair)
        elif section == "purpose":
            purpose.append(line)
    said = " ".join(plain_sentences("\n".join(purpose))[:3])
    return Reading(said, parts, "lines" if said or parts else "none")


def _section(label: str) -> str:
    return (
        "purpose" if label.lower() in {"purpose", "summary", "overview", "description", "digest", "role"} else "parts"
    )


def _listed(line: str, section: str) -> tuple[str, str] | None:
    """A path with its role from a list item or a table row; elsewhere it counts when the path looks like one."""
    if line.startswith("|"):
        cells = [cell.strip(" `*") for cell in line.strip("|").split("|")]
        usable = (
            len(cells) >= 2
            and cells[0]
            and not set(cells[0]) <= set("-: ")
            and cells[0].lower() not in {*_PATH_KEYS, "component"}
        )
        return (cells[0], cells[1]) if usable else None
    item = _ITEM.match(line)
    pair = _pair(item["rest"] if item else line)
    if pair is None or section == "parts" or (item and section != "purpose"):
        return pair
    return pair if " " not in pair[0] and ("/" in pair[0] or "." in pair[0].strip(".")) else None


def _pair(line: str) -> tuple[str, str] | None:
    found = _PAIR.match(line)
    return (found["path"].strip(), found["role"].strip(" *_`")) if found else None
