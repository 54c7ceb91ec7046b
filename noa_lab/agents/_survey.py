"""One pass over a folder: every file listed, read, classified, and cleared of obvious secrets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from noa_lab.agents._classify import Content, classify
from noa_lab.agents._files import SourceFile, list_files, read_bytes
from noa_lab.agents._languages import Language
from noa_lab.agents._secrets import redact
from noa_lab.events import CancelToken, Progress, Report, silent

__all__ = ["Survey", "SurveyedFile", "survey"]

MAX_FILE_BYTES = 1024 * 1024
MAX_READ_BYTES = 64 * 1024 * 1024
STEP = "Read the files"


@dataclass(frozen=True, slots=True)
class SurveyedFile:
    """One file and what is in it.

    Attributes:
        path: Its name relative to the folder, escaped.
        size: Bytes on disk.
        lines: Lines of its text; 0 without text.
        text: Its text, redacted; None when it is left out.
        language: Its language; None when unknown.
        left_out: Why its content is not looked at; empty when it is.
        executable_text: Whether it begins with `#!`.
    """

    path: str
    size: int
    lines: int = 0
    text: str | None = None
    language: Language | None = None
    left_out: str = ""
    executable_text: bool = False


@dataclass(slots=True)
class Survey:
    """What a pass found.

    Attributes:
        name: The folder's name.
        source: How the files were listed, "git" or "walk".
        files: Every regular file, by path.
        skipped: Path and reason of what is no readable regular file.
        redacted: Obvious secrets taken out.
        warnings: What a reader should know.
    """

    name: str
    source: str = "walk"
    files: list[SurveyedFile] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    redacted: int = 0
    warnings: list[str] = field(default_factory=list)


def survey(folder: Path, *, report: Report = silent, cancel: CancelToken | None = None) -> Survey:
    """Look at every file of a folder.

    A file above 1 MiB, and files after the first 64 MiB of text, are only counted.

    Args:
        folder: An existing folder.
        report: Told how many files are done.
        cancel: Asked before each file.

    Raises:
        BadInput: The folder does not exist or cannot be read.
        Cancelled: `cancel` was called.
    """
    cancel = cancel or CancelToken()
    listing = list_files(folder, cancel)
    found = Survey(
        name=Path(folder).expanduser().resolve().name or "root",
        source=listing.source,
        skipped=listing.skipped,
        warnings=listing.warnings,
    )
    total, read = len(listing.files), 0
    for number, file in enumerate(listing.files):
        cancel.check(STEP)
        if number % 200 == 0:
            report(Progress(STEP, done=number, total=total, unit="files"))
        if file.size > MAX_FILE_BYTES or read + file.size > MAX_READ_BYTES:
            why = "larger than 1 MiB" if file.size > MAX_FILE_BYTES else "beyond the first 64 MiB"
            found.files.append(SurveyedFile(file.path, file.size, left_out=why))
            continue
        try:
            data = read_bytes(file.location, MAX_FILE_BYTES + 1)
        except OSError as error:
            found.skipped[file.path] = f"cannot be read: {error.strerror or 'no regular file any more'}"
            continue
        read += len(data)
        found.files.append(_surveyed(file, classify(file.path, data, cut=len(data) > MAX_FILE_BYTES), found))
    report(Progress(STEP, done=total, total=total, unit="files", finished=True))
    return found


def _surveyed(file: SourceFile, content: Content, found: Survey) -> SurveyedFile:
    if content.text is None or content.left_out:
        return SurveyedFile(file.path, file.size, language=content.language, left_out=content.left_out)
    text, secrets = redact(content.text)
    found.redacted += secrets
    return SurveyedFile(
        path=file.path,
        size=file.size,
        lines=text.count("\n") + (not text.endswith("\n") and bool(text)),
        text=text,
        language=content.language,
        executable_text=text.startswith("#!"),
    )
