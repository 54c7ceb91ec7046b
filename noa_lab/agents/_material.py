"""What a prompt shows of a repository: the head that code wrote, and the files in order of how much they tell."""

from __future__ import annotations

from collections.abc import Iterable

from noa_lab.agents._components import Part
from noa_lab.agents._digest import RepositoryFacts
from noa_lab.agents._facts import is_test
from noa_lab.agents._outline import first_sentence, shortened
from noa_lab.agents._survey import SurveyedFile

__all__ = ["facts_head", "part_head", "ranked"]

_MOST_NAMED = 10
_MOST_SAID = 160  # characters; small models copy a longer sentence and lose the thread
_TELLING = ("readme", "__init__", "__main__", "main", "lib", "mod", "index", "app", "cli", "core")


def ranked(files: Iterable[SurveyedFile]) -> list[SurveyedFile]:
    """The files that have text: code before the rest, tests last, telling names and the top of the tree first."""
    return sorted((file for file in files if file.text and file.text.strip()), key=_rank)


def _rank(file: SurveyedFile) -> tuple[int, int, int, str]:
    sort = file.language.sort if file.language else "data"
    stem = file.path.lower().rpartition("/")[2].partition(".")[0]
    kind = 3 if is_test(file) else {"code": 0, "prose": 1, "markup": 2}.get(sort, 4)
    telling = _TELLING.index(stem) if stem in _TELLING else len(_TELLING)
    return kind if stem != "readme" else 0, file.path.count("/"), telling, file.path


def facts_head(facts: RepositoryFacts, files: list[SurveyedFile]) -> str:
    """The facts in a few lines, with what the README says first."""
    readme = next((file for file in files if file.path == facts.readme), None)
    said = first_sentence(readme.text or "") if readme is not None and facts.description_from != facts.readme else ""
    main = dict.fromkeys(entry.name for entry in facts.dependencies if entry.group == "main")
    commands = dict.fromkeys(
        entry.name for entry in facts.entry_points if entry.kind in {"command", "module", "program", "script"}
    )
    rows = {
        "Project": facts.name,
        "Description": facts.description,
        "About": shortened(said, _MOST_SAID),
        "Languages": ", ".join(language.name for language in facts.languages if language.sort == "code"),
        "Uses": ", ".join(list(main)[:_MOST_NAMED]),
        "Commands": ", ".join(list(commands)[:_MOST_NAMED]),
    }
    return "\n".join([f"{label}: {value}" for label, value in rows.items() if value] + ["Files:"])


def part_head(part: Part, facts: RepositoryFacts) -> str:
    """What stands above the files of one part."""
    rows = {"Project": facts.name, "Part": part.path, "About": part.said}
    return "\n".join([f"{label}: {value}" for label, value in rows.items() if value] + ["Files:"])
