"""The facts of a digest: counted and read by code, so that they hold whatever the model says."""

from __future__ import annotations

from collections import Counter

from noa_lab.agents._digest import EntryPoint, LanguageFact, RepositoryFacts
from noa_lab.agents._languages import Language
from noa_lab.agents._manifest_facts import ManifestFacts
from noa_lab.agents._manifests import read_manifest
from noa_lab.agents._outline import first_sentence
from noa_lab.agents._survey import Survey, SurveyedFile

__all__ = ["gather_facts", "is_test"]

_SORTS = ("code", "markup", "data", "prose")
_LICENCES = (  # the first phrase that occurs decides, so narrower ones stand first
    ("gnu affero general public license", "AGPL-3.0"),
    ("gnu lesser general public license", "LGPL"),
    ("gnu general public license", "GPL"),
    ("apache license", "Apache-2.0"),
    ("mozilla public license", "MPL-2.0"),
    ("permission is hereby granted, free of charge", "MIT"),
    ("permission to use, copy, modify, and/or distribute", "ISC"),
    ("neither the name of", "BSD-3-Clause"),
    ("redistribution and use in source and binary forms", "BSD-2-Clause"),
    ("this is free and unencumbered software", "Unlicense"),
    ("boost software license", "BSL-1.0"),
    ("eclipse public license", "EPL-2.0"),
    ("creative commons", "CC"),
)
_TEST_FOLDERS = frozenset({"test", "tests", "testing", "__tests__", "spec", "specs"})


def gather_facts(found: Survey) -> tuple[RepositoryFacts, list[str]]:
    """The facts of a surveyed folder, and warnings about manifests that could not be read."""
    ours = [file for file in found.files if file.text is not None]
    manifests = [
        manifest
        for file in sorted(ours, key=_manifest_order)
        if (manifest := read_manifest(file.path, file.text or ""))
    ]
    readme = _at_top(ours, "readme")
    named = next((m for m in manifests if m.name and "/" not in m.path), None)
    description, description_from = _description(manifests, readme)
    facts = RepositoryFacts(
        name=(named.name if named else found.name)[:200],
        description=description,
        description_from=description_from,
        source="git" if found.source == "git" else "walk",
        files=len(found.files),
        bytes=sum(file.size for file in found.files),
        lines=sum(file.lines for file in found.files),
        languages=_languages(ours),
        dependencies=tuple(entry for manifest in manifests for entry in manifest.dependencies),
        entry_points=tuple([entry for manifest in manifests for entry in manifest.entry_points] + _runnable(ours)),
        licence=_licence(ours, manifests),
        readme=readme.path if readme else "",
        manifests=tuple(manifest.path for manifest in manifests),
        test_files=sum(is_test(file) for file in ours),
    )
    return facts, [manifest.warning for manifest in manifests if manifest.warning]


def is_test(file: SurveyedFile) -> bool:
    """Whether a file of code is a test, by the customs of its language."""
    if file.language is None or file.language.sort != "code":
        return False
    *folders, name = file.path.lower().split("/")
    stem = name.rpartition(".")[0]
    return (
        stem.startswith("test_")
        or stem.endswith(("_test", ".test", ".spec", "_spec", "tests"))
        or (bool(_TEST_FOLDERS.intersection(folders)) and stem not in {"conftest", "__init__"})
    )


def _manifest_order(file: SurveyedFile) -> tuple[int, int, str]:
    """The top folder first; a package's own manifest before those that only list what an environment needs."""
    name = file.path.lower().rpartition("/")[2]
    listing = name.startswith(
        ("environment", "requirements", "pipfile", "dockerfile", "containerfile")
    ) or name.endswith(".txt")
    return file.path.count("/"), int(listing), file.path


def _at_top(files: list[SurveyedFile], stem: str) -> SurveyedFile | None:
    at_top = [
        file for file in files if "/" not in file.path and file.path.lower().partition(".")[0] == stem and file.text
    ]
    return min(at_top, key=lambda file: (not file.path.lower().endswith((".md", ".rst")), file.path), default=None)


def _description(manifests: list[ManifestFacts], readme: SurveyedFile | None) -> tuple[str, str]:
    for manifest in manifests:
        if manifest.description and "/" not in manifest.path:
            return " ".join(manifest.description.split())[:400], manifest.path
    if readme is not None and (said := first_sentence(readme.text or "")):
        return said, readme.path
    return "", ""


def _languages(files: list[SurveyedFile]) -> tuple[LanguageFact, ...]:
    counts: dict[Language, Counter[str]] = {}
    for file in files:
        if file.language is not None:
            counts.setdefault(file.language, Counter()).update(files=1, lines=file.lines, bytes=file.size)
    known = [
        LanguageFact.model_validate({"name": language.name, "sort": language.sort, **count})
        for language, count in counts.items()
    ]
    return tuple(sorted(known, key=lambda fact: (_SORTS.index(fact.sort), -fact.bytes, fact.name)))


def _runnable(files: list[SurveyedFile]) -> list[EntryPoint]:
    """Entry points that no manifest names."""
    found = [entry for file in files if (entry := _started(file)) is not None]
    return found[:200]


def _started(file: SurveyedFile) -> EntryPoint | None:
    *folders, name = file.path.split("/")
    text = f"\n{file.text or ''}"
    language = file.language.name if file.language else ""
    if name == "__main__.py" and folders:
        parts = folders[1:] if folders[0] == "src" else folders
        return EntryPoint(name=".".join(parts) or folders[-1], kind="module", target="__main__", path=file.path)
    if language == "Rust" and file.path in {"src/main.rs", "main.rs"}:
        return EntryPoint(name=name, kind="program", target="main", path=file.path)
    if language == "Go" and "\npackage main" in text and "\nfunc main()" in text and not is_test(file):
        return EntryPoint(name="/".join(folders) or ".", kind="program", target="main", path=file.path)
    python = not folders and language == "Python" and name != "setup.py" and "\nif __name__ ==" in text
    if python or (file.executable_text and folders in ([], ["bin"], ["scripts"])):
        return EntryPoint(name=name, kind="script", path=file.path)
    return None


def _licence(files: list[SurveyedFile], manifests: list[ManifestFacts]) -> str:
    for manifest in manifests:
        if manifest.licence and "/" not in manifest.path:
            return " ".join(manifest.licence.split())[:80]
    for stem in ("license", "licence", "copying", "unlicense"):
        file = _at_top(files, stem)
        if file is not None:
            text = " ".join((file.text or "")[:5000].lower().split())
            return next((name for phrase, name in _LICENCES if phrase in text), "present")
    return ""
