"""The digest of this very repository, by the real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from noa_lab.agents import DigestAgent, write_examples
from noa_lab.models import ModelFile
from noa_lab.paths import Home
from noa_lab.runtime import Runtime
from noa_lab.server import serve

pytestmark = pytest.mark.real
HERE = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_this_repository_and_small_ones(runtime: Runtime, model: ModelFile, home: Home, tmp_path: Path) -> None:
    with serve(runtime, model, home=home) as server:
        engine = server.engine()
        try:
            digest = DigestAgent(engine, max_components=8).analyze_repository(HERE)
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
            assert digest.model_dump_json()

            examples = write_examples(tmp_path / "examples")
            agent = DigestAgent(engine, max_components=0)
            said = [(agent.analyze_repository(folder), word) for folder, word in list(examples.items())[:6]]
            right = sum(word in found.purpose.lower() for found, word in said if found.purpose_by == "model")
            assert right >= len(said) / 2
        finally:
            engine.close()
