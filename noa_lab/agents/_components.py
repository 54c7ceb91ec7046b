"""Which folders and files are the main parts of a repository: decided by code, described by the model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from noa_lab.agents._facts import is_test
from noa_lab.agents._outline import headline
from noa_lab.agents._survey import SurveyedFile

__all__ = ["Part", "find_parts"]

# One folder with more than this share of the weight says too little: its own folders are the parts.
_DOMINANT = 0.5
_CODE_WEIGHT = 4


@dataclass(frozen=True, slots=True)
class Part:
    """A candidate for a component.

    Attributes:
        path: The folder, or the file of a flat repository.
        files: The files in it, by path.
        said: What its own documentation says it is for; empty when it says nothing.
    """

    path: str
    files: tuple[SurveyedFile, ...]
    said: str = ""

    @property
    def counted(self) -> str:
        """What can be said about it without a model."""
        languages = Counter(file.language.name for file in self.files if file.language)
        most = f", mostly {languages.most_common(1)[0][0]}" if languages else ""
        files = f"{len(self.files)} file{'s' if len(self.files) != 1 else ''}"
        return f"{files}, {sum(file.lines for file in self.files)} lines{most}"


def find_parts(files: list[SurveyedFile], limit: int) -> list[Part]:
    """At most `limit` parts, the heaviest first; code weighs four times what tests and other text do.

    Top-level folders and files of code; where one folder dominates, its own folders in its place (twice at most:
    `src/package/...`).
    """
    ours = [file for file in files if file.text]
    folders = _by_folder(ours, 1)
    for depth in (2, 3):
        total = sum(map(_weight, ours))
        big = [
            path
            for path, inside in folders.items()
            if sum(map(_weight, inside)) > total * _DOMINANT and path.count("/") == depth - 2
        ]
        for path in big:
            inner = _by_folder([file for file in folders[path] if file.path.count("/") >= depth], depth)
            if len(inner) > 1 or (inner and path.count("/") == 0 and path in {"src", "lib", "packages"}):
                del folders[path]
                folders.update(inner)
    for file in ours:
        if "/" not in file.path and file.language is not None and file.language.sort == "code":
            folders[file.path] = [file]
    weighed = sorted(folders.items(), key=lambda item: (-sum(map(_weight, item[1])), item[0]))
    return [Part(path, tuple(inside), _said(path, inside)) for path, inside in weighed[:limit]]


def _by_folder(files: list[SurveyedFile], depth: int) -> dict[str, list[SurveyedFile]]:
    grouped: dict[str, list[SurveyedFile]] = {}
    for file in files:
        parts = file.path.split("/")
        if len(parts) > depth and not parts[0].startswith("."):
            grouped.setdefault("/".join(parts[:depth]), []).append(file)
    return grouped


def _weight(file: SurveyedFile) -> int:
    code = file.language is not None and file.language.sort == "code" and not is_test(file)
    return (file.lines + 1) * (_CODE_WEIGHT if code else 1)


def _said(path: str, files: list[SurveyedFile]) -> str:
    """The headline of the file itself, or of the folder's own `__init__`, README or main file."""
    if len(files) == 1 and files[0].path == path:
        return headline(files[0].text or "", files[0].language)
    for stem in ("__init__", "readme", "mod", "lib", "index", "doc"):
        for file in files:
            folder, _, name = file.path.rpartition("/")
            if (
                folder == path
                and name.lower().partition(".")[0] == stem
                and (line := headline(file.text or "", file.language))
            ):
                return line
    return ""
