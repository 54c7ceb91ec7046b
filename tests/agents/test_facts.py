"""Facts of repositories whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from repositories import PYTHON_PROJECT, write

from noa_lab.agents import RepositoryFacts
from noa_lab.agents._components import find_parts
from noa_lab.agents._facts import gather_facts
from noa_lab.agents._languages import language_of
from noa_lab.agents._manifests import read_manifest
from noa_lab.agents._outline import Level, first_sentence, headline, skeleton
from noa_lab.agents._secrets import redact
from noa_lab.agents._survey import survey

PYTHON = language_of("x.py")


def facts_of(folder: Path) -> RepositoryFacts:
    return gather_facts(survey(folder))[0]


def test_a_python_project(tmp_path: Path) -> None:
    facts = facts_of(write(tmp_path, PYTHON_PROJECT))
    assert (facts.name, facts.description) == ("brolly", "Weather forecasts in the terminal")
    assert (facts.licence, facts.readme, facts.test_files) == ("MIT", "README.md", 1)
    assert facts.main_language == "Python"
    python = facts.languages[0]
    own = [str(content) for name, content in PYTHON_PROJECT.items() if name.endswith(".py")]
    assert (python.files, python.lines) == (len(own), sum(text.count("\n") for text in own))
    assert python.bytes == sum(len(text.encode()) for text in own)
    assert facts.files == len(PYTHON_PROJECT)
    assert facts.bytes == sum(len(text) for text in PYTHON_PROJECT.values())
    assert [language.sort for language in facts.languages] == sorted(
        (language.sort for language in facts.languages), key=["code", "markup", "data", "prose"].index
    )
    wanted = {
        (entry.name, entry.requirement, entry.group, entry.ecosystem, entry.manifest) for entry in facts.dependencies
    }
    assert wanted == {
        ("httpx", "[http2]>=0.27,<1", "main", "python", "pyproject.toml"),
        ("rich", "", "main", "python", "pyproject.toml"),
        ("pytest", ">=8", "test", "python", "pyproject.toml"),
        ("ruff", "==0.14.0", "dev", "python", "requirements-dev.txt"),
        ("mypy", ">= 1.18", "dev", "python", "requirements-dev.txt"),
        ("python", "=3.12", "main", "conda", "environment.yml"),
        ("numpy", ">=2", "main", "conda", "environment.yml"),
        ("tqdm", "", "main", "python", "environment.yml"),
    }
    starts = {(entry.name, entry.kind, entry.target, entry.path) for entry in facts.entry_points}
    assert starts == {
        ("brolly", "command", "brolly.cli:main", "pyproject.toml"),
        ("brolly", "module", "__main__", "brolly/__main__.py"),
        ("run.py", "script", "", "run.py"),
        ("CMD", "container", '["brolly", "--city", "Oslo"]', "Dockerfile"),
    }


def test_other_ecosystems(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {
            "web/package.json": '{"name":"web","description":"d","bin":"cli.js","main":"index.js","scripts":{"build":"x"},'
            '"dependencies":{"react":"^19"},"devDependencies":{"vite":"*"}}',
            "web/index.js": "// The page\n",
            "core/Cargo.toml": '[package]\nname="core"\n[dependencies]\nserde={version="1",features=["derive"]}\nlocal={path="../l"}\n'
            '[[bin]]\nname="tool"\npath="src/tool.rs"\n',
            "svc/go.mod": "module example.org/svc\n\nrequire (\n\tgolang.org/x/text v0.3.0\n\ta.b/c v1 // indirect\n)\nrequire d.e/f v2\n",
            "svc/cmd/svc/main.go": "package main\n\nfunc main() {\n}\n",
            "Gemfile": "gem 'rails', '~> 8.0'\ngem \"pg\"\n",
            "setup.py": "from setuptools import setup\nsetup(name='old', install_requires=['six>=1'], entry_points={'console_scripts': ['old = old:main']})\n",
            "setup.cfg": "[options]\ninstall_requires =\n    attrs>=20\n",
            "Pipfile": '[packages]\nflask = "*"\n',
            "main.rs": "fn main() {}\n",
        },
    )
    facts = facts_of(folder)
    assert {(entry.ecosystem, entry.name, entry.requirement, entry.group) for entry in facts.dependencies} == {
        ("npm", "react", "^19", "main"),
        ("npm", "vite", "", "dev"),
        ("cargo", "serde", "1", "main"),
        ("cargo", "local", "path: ../l", "main"),
        ("go", "golang.org/x/text", "v0.3.0", "main"),
        ("go", "a.b/c", "v1", "indirect"),
        ("go", "d.e/f", "v2", "main"),
        ("ruby", "rails", "~> 8.0", "main"),
        ("ruby", "pg", "", "main"),
        ("python", "six", ">=1", "main"),
        ("python", "attrs", ">=20", "main"),
        ("python", "flask", "", "main"),
    }
    assert {(entry.kind, entry.name) for entry in facts.entry_points} == {
        ("command", "web"), ("main", "web"), ("task", "build"), ("program", "tool"), ("program", "svc/cmd/svc"), ("command", "old"),
        ("program", "main.rs"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("pyproject.toml", "[project"),
        ("pyproject.toml", 'project = "x"\n[tool]\npoetry = 3\n'),
        ("pyproject.toml", "[project]\nname = 3\ndependencies = {a = 1}\nscripts = [1]\noptional-dependencies = []\n"),
        ("package.json", "[1, 2"),
        ("package.json", '{"dependencies": ["x", 3, null], "bin": 5, "scripts": null, "name": {}}'),
        ("Cargo.toml", 'bin = "x"\ndependencies = 3\n'),
        ("environment.yml", "a: [*missing]"),
        ("environment.yml", "- 1\n- 2\n"),
        ("environment.yml", "!!python/object/apply:os.system ['true']"),
        ("setup.cfg", "no section"),
        ("setup.py", "def setup(:\n"),
        ("setup.py", "setup(**x, install_requires=f(), entry_points=3)"),
        ("composer.json", "null"),
        ("requirements.txt", "\0\n\\\n;;;\n"),
        ("package.json", "[" * 100_000),
    ],
)
def test_broken_manifests_do_no_harm(path: str, text: str) -> None:
    facts = read_manifest(path, text)
    assert facts is not None
    assert isinstance(facts.warning, str)


def test_a_setup_py_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    read_manifest("setup.py", f"open({str(mark)!r}, 'w'); setup(name=open({str(mark)!r}, 'w').name)")
    assert not mark.exists()


def test_parts() -> None:
    from noa_lab.agents._survey import SurveyedFile

    def files(*listed: tuple[str, int]) -> list[SurveyedFile]:
        return [SurveyedFile(path, 10, lines, "x\n", language_of(path)) for path, lines in listed]

    package = files(
        ("src/p/a/x.py", 50),
        ("src/p/b/y.py", 40),
        ("src/p/z.py", 5),
        ("docs/d.md", 30),
        (".github/w.yml", 9),
        ("run.py", 2),
    )
    assert [part.path for part in find_parts(package, 12)] == ["src/p/a", "src/p/b", "docs", "run.py"]
    assert [part.path for part in find_parts(files(("b.py", 5), ("a.py", 9), ("x.md", 1)), 12)] == ["a.py", "b.py"]
    assert [part.path for part in find_parts(files(("lib/only.py", 5)), 12)] == ["lib"]
    assert find_parts([], 12) == []
    assert len(find_parts(files(*((f"d{number}/x.py", 1) for number in range(30))), 12)) == 12


def test_outlines() -> None:
    text = '"""Does it.\n\nMore."""\nclass A(B):\n    """An A."""\n    def go(self, x: int) -> str:\n        """Goes."""\n    def _hidden(self): ...\nasync def f(): ...\n'
    assert headline(text, PYTHON) == "Does it."
    assert skeleton(text, PYTHON).splitlines() == [
        "Does it.", "class A(B):  # An A.", "    def go(self, x: int) -> str:  # Goes.", "async def f():",
    ]  # fmt: skip
    assert headline("#!/bin/sh\n# Builds it.\nmake\n", language_of("x.sh")) == "Builds it."
    assert headline("// Copyright 2024 X\n// Serves it.\n", language_of("x.js")) == "Serves it."
    assert headline("int x;\n", language_of("x.c")) == ""
    assert skeleton("import x\nfunction f(a) {\n  return 1\n}\n", language_of("x.js")) == "import x\nfunction f(a) {"
    assert headline("def broken(:\n", PYTHON) == ""
    assert (
        first_sentence("Title\n=====\n\n[![b](c)](d)\n\n```\ncode\n```\n\nThe first\nparagraph.\n\nSecond.")
        == "The first paragraph."
    )
    assert Level.NAME < Level.LINE < Level.SKELETON < Level.FULL


def test_redaction_is_linear_and_leaves_ordinary_text() -> None:
    import time

    ordinary = 'token = get_token()\nsecret = os.environ["SECRET"]\nmax_tokens: int = 2048\nmodel "sk-learn" git@example.org:a/b\n'
    assert redact(ordinary) == (ordinary, 0)
    started = time.monotonic()
    for hostile in (
        "-----BEGIN PRIVATE KEY-----" * 30_000,
        "a:" * 400_000,
        "://" * 200_000,
        "password" * 100_000,
        "eyJ" * 300_000,
        "token " * 150_000,
    ):
        redact(hostile)
    assert time.monotonic() - started < 20
