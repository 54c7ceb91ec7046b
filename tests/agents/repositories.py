"""Small repositories for the tests of the agents."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def git(folder: Path, *arguments: str, stdin: str | None = None) -> str:
    """git as an unsuspecting user runs it, without that user's own settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *identity, *arguments],
        cwd=folder,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout.strip()


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """`files` written under `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


PYTHON_PROJECT: dict[str, str | bytes] = {
    "README.md": "# Brolly\n\nShows the weather forecast of a city in the terminal.\n",
    "LICENSE": "MIT License\n\nPermission is hereby granted, free of charge, to any person\n",
    "pyproject.toml": """
[project]
name = "brolly"
description = "Weather forecasts in the terminal"
dependencies = ["httpx[http2]>=0.27,<1", "rich"]
[project.optional-dependencies]
test = ["pytest>=8"]
[project.scripts]
brolly = "brolly.cli:main"
""",
    "requirements-dev.txt": "# tools\nruff==0.14.0\n-r base.txt\nmypy >= 1.18  # types\n",
    "environment.yml": "name: env\ndependencies:\n  - python=3.12\n  - conda-forge::numpy>=2\n  - pip:\n      - tqdm\n",
    "Dockerfile": 'FROM python:3.12\nCMD ["ignored"]\nCMD ["brolly", \\\n  "--city", "Oslo"]\n',
    "run.py": "import brolly\n\nif __name__ == '__main__':\n    brolly.go()\n",
    "brolly/__init__.py": '"""Weather forecasts."""\n',
    "brolly/__main__.py": "from brolly.cli import main\nmain()\n",
    "brolly/cli.py": '"""The command line."""\n\n\ndef main() -> None:\n    """Run it."""\n',
    "brolly/forecast/__init__.py": '"""Fetches forecasts."""\n',
    "brolly/forecast/fetch.py": '"""Downloads a forecast."""\nclass Client:\n    def get(self, city: str) -> str:\n        return city\n',
    "tests/test_cli.py": "def test_it():\n    assert True\n",
    "poetry.lock": "x = 1\n" * 5000,
    "logo.png": b"\x89PNG\r\n\x1a\n\0\0\0",
}
