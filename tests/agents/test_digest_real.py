"""The digest of this very repository, by the real model, and of small ones whose purpose is known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from noa_lab.agents import DigestAgent, RepositoryDigest, write_examples
from noa_lab.models import ModelFile
from noa_lab.paths import Home
from noa_lab.runtime import Runtime
from noa_lab.server import serve

pytestmark = pytest.mark.real
HERE = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_this_repository(home: Home, model: ModelFile) -> None:
    """The README's command; `tests/project/test_docs.py` does not run it a second time."""
    command = [sys.executable, "-m", "noa_lab.cli", "digest", ".", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550, cwd=HERE)
    assert done.returncode == 0, done.stderr
    digest = RepositoryDigest.model_validate_json(done.stdout)
    facts = digest.facts
    assert facts.main_language == "Python"
    assert ("noa-lab", "noa_lab.cli:main") in {(entry.name, entry.target) for entry in facts.entry_points}
    wanted = {entry.name for entry in facts.dependencies if entry.manifest == "pyproject.toml"}
    assert {"httpx", "jupyterlab", "llama-cpp-python", "pydantic", "pytest"} <= wanted
    assert facts.source == "git"
    assert facts.name == "noa-lab"
    cited = [component.path for component in digest.components] + [entry.path for entry in facts.entry_points]
    cited += [entry.manifest for entry in facts.dependencies] + [facts.readme, *facts.manifests]
    cited += [entry.path for entry in digest.omitted]
    assert all((HERE / path).exists() for path in cited)
    assert {"noa_lab/inference", "noa_lab/server"} <= {component.path for component in digest.components}
    assert digest.tokens.largest_prompt + digest.tokens.answer <= digest.tokens.context
    assert digest.purpose
    assert sum(component.by == "model" for component in digest.components) > len(digest.components) / 2


@pytest.mark.timeout(300)
def test_the_purpose_of_small_repositories(runtime: Runtime, model: ModelFile, home: Home, tmp_path: Path) -> None:
    examples = write_examples(tmp_path / "examples")
    with serve(runtime, model, home=home) as server, server.engine() as engine:
        agent = DigestAgent(engine, max_components=0)
        said = [(agent.analyze_repository(folder), word) for folder, word in list(examples.items())[:6]]
    right = sum(word in found.purpose.lower() for found, word in said if found.purpose_by == "model")
    assert right >= len(said) / 2
