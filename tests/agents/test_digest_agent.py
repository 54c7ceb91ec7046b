"""DigestAgent over scripted models: what it asks, and what it makes of any answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from repositories import PYTHON_PROJECT, git, write

from noa_lab.agents import DigestAgent, DigestPrompt, RepositoryDigest, digest_inputs, write_examples
from noa_lab.errors import BadInput, Cancelled, ContextOverflow, RequestRefused, TemplateInvalid, Unreachable
from noa_lab.events import CancelToken
from noa_lab.experiments import Grid
from noa_lab.inference import InferenceConfig
from noa_lab.testing import Reply, ScriptedEngine


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = write(tmp_path / "project", PYTHON_PROJECT)
    git(folder, "init")
    return folder


def unreachable() -> Unreachable:
    return Unreachable("Nothing answers.", fix="Start it.", url="http://127.0.0.1:1")


def test_a_complete_digest(project: Path) -> None:
    def script(prompt, config):
        asked = prompt[-1].content
        return "It shows the weather." if "the project brolly" in asked else "It fetches forecasts. And more."

    engine = ScriptedEngine(script)
    digest = DigestAgent(engine).analyze_repository(project)
    assert (digest.status, digest.purpose, digest.purpose_by, digest.reply_form) == (
        "complete",
        "It shows the weather.",
        "model",
        "prose",
    )
    assert {component.role for component in digest.components} == {"It fetches forecasts."}
    assert {component.path for component in digest.components} >= {"brolly", "tests", "run.py"}
    assert all((project / component.path).exists() for component in digest.components)
    assert digest.tokens.questions == len(engine.calls) == 1 + len(digest.components)
    assert digest.tokens.prompt == sum(engine.count_tokens(call.prompt) for call in engine.calls)
    assert all(call.config.greedy and call.config.max_tokens <= 96 for call in engine.calls)
    assert {entry.path: entry.reason for entry in digest.omitted}["poetry.lock"] == "lock file"
    first = engine.calls[0].prompt[-1].content
    assert "Description: Weather forecasts in the terminal" in first
    assert "brolly/forecast/fetch.py: Downloads a forecast." in first
    assert RepositoryDigest.model_validate_json(digest.model_dump_json()) == digest
    assert json.loads(digest.model_dump_json())["facts"]["languages"][0]["name"] == "Python"


def test_one_request_with_the_seeds_prompt(project: Path) -> None:
    engine = ScriptedEngine(
        "Purpose: Weather.\nComponent: brolly/cli.py - The commands\nComponent: brolly/gone.py - No\n"
    )
    digest = DigestAgent(engine, DigestPrompt.seed()).analyze_repository(project)
    assert len(engine.calls) == 1
    assert (digest.status, digest.purpose, digest.reply_form, digest.dropped_citations) == (
        "complete",
        "Weather.",
        "lines",
        1,
    )
    roles = {component.path: (component.role, component.by) for component in digest.components}
    assert roles["brolly/cli.py"] == ("The commands", "model")
    assert roles["brolly"] == ("Weather forecasts.", "docs")
    assert roles["tests"] == ("1 file, 2 lines, mostly Python", "code")
    assert "def main() -> None" in engine.calls[0].rendered


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "...",
        unreachable(),
        RequestRefused("No.", fix="Stop.", status=500),
        Reply("Half of it", fail_after=1),
        lambda prompt: prompt[0].content,
    ],
)
def test_any_failure_of_the_model_gives_the_facts(project: Path, reply) -> None:
    for prompt in (None, DigestPrompt.seed()):
        script = lambda asked, _config: reply(asked) if callable(reply) else reply  # noqa: E731
        digest = DigestAgent(ScriptedEngine(script), prompt).analyze_repository(project)
        assert digest.status == "partial"
        assert (digest.purpose, digest.purpose_by) == ("Weather forecasts in the terminal", "docs")
        assert digest.facts.main_language == "Python"
        assert digest.components
        assert all(component.by != "model" for component in digest.components)
        assert digest.warnings


def test_an_engine_that_is_gone_gives_the_facts(project: Path) -> None:
    class Gone(ScriptedEngine):
        async def _capabilities(self):
            raise unreachable()

    digest = DigestAgent(Gone()).analyze_repository(project)
    assert (digest.status, digest.purpose_by, digest.tokens.questions) == ("partial", "docs", 0)
    assert "Nothing answers." in digest.warnings[-1]
    assert {entry.reason for entry in digest.omitted} >= {"the model was not asked", "lock file"}
    text = DigestAgent(Gone()).analyze_content("x")
    assert (text.status, text.purpose) == ("partial", "")


def test_an_answer_without_an_end_is_not_taken(project: Path) -> None:
    digest = DigestAgent(ScriptedEngine("It shows " + "very " * 5 + "nice " * 300)).analyze_repository(project)
    assert digest.purpose_by == "docs"
    assert any("did not come to an end" in warning for warning in digest.warnings)


def test_one_part_that_fails_is_counted(project: Path) -> None:
    def script(prompt, config):
        return unreachable() if "what does tests do" in prompt[-1].content else "It shows the weather."

    digest = DigestAgent(ScriptedEngine(script)).analyze_repository(project)
    assert digest.status == "partial"
    assert digest.purpose == "It shows the weather."
    assert [component.by for component in digest.components if component.path == "tests"] == ["code"]
    assert f"no usable role for 1 of {len(digest.components)}" in digest.warnings[-1]


def test_prompts_fit_every_context(project: Path) -> None:
    refused: dict[int, str] = {}
    for context in (20, 60, 100, 150, 250, 400, 1000, 8192):
        engine = ScriptedEngine("It shows the weather.", context_size=context)
        agent = DigestAgent(engine, config=InferenceConfig(max_tokens=2048))
        try:
            digest = agent.analyze_repository(project)
        except ContextOverflow as error:
            refused[context] = error.message
            continue
        assert engine.calls
        for call in engine.calls:
            assert engine.count_tokens(call.prompt) + call.config.max_tokens <= context
        assert digest.tokens.largest_prompt + digest.tokens.answer <= context or context > 400
    assert set(refused) <= {20, 60}
    assert "without any repository content" in refused[20]


def test_content_in_the_seeds_form() -> None:
    engine = ScriptedEngine("Purpose: It adds.\nComponent: add.py - Adds\nComponent: sub.py - No")
    digest = DigestAgent(engine).analyze_content("## add.py\ndef add(a, b): return a + b")
    system, user = engine.calls[0].prompt
    assert system.content.startswith(
        "You are a code analysis assistant. Analyze the repository and provide a concise digest."
    )
    assert user.content == "Analyze this repository:\n\n## add.py\ndef add(a, b): return a + b"
    assert (digest.purpose, digest.dropped_citations, digest.facts.source) == ("It adds.", 1, "text")
    assert [component.path for component in digest.components] == ["add.py"]
    with pytest.raises(BadInput):
        DigestAgent(engine).analyze_content(" \n")


def test_long_content_is_cut_and_says_so() -> None:
    engine = ScriptedEngine("Purpose: It adds.", context_size=300)
    digest = DigestAgent(engine).analyze_content("x = 1\n" * 5000)
    assert engine.count_tokens(engine.calls[0].prompt) + engine.calls[0].config.max_tokens <= 300
    assert "Only the first" in digest.warnings[0]
    one_line = DigestAgent(engine).analyze_content("x " * 5000)
    assert "x x x" in engine.calls[-1].rendered
    assert one_line.status == "complete"


def test_async_twins(project: Path) -> None:
    async def both() -> None:
        engine = ScriptedEngine("It shows the weather.")
        agent = DigestAgent(engine)
        assert await agent.aanalyze_repository(project) == DigestAgent(
            ScriptedEngine("It shows the weather.")
        ).analyze_repository(project)
        assert (await agent.aanalyze_content("x = 1")).purpose == "It shows the weather."

    asyncio.run(both())


def test_cancelling(project: Path) -> None:
    cancel = CancelToken()
    steps: list[str] = []

    def report(progress) -> None:
        steps.append(progress.step)
        if progress.step == "Ask the model" and progress.done == 1:
            cancel.cancel()

    engine = ScriptedEngine("It shows the weather.")
    with pytest.raises(Cancelled):
        DigestAgent(engine).analyze_repository(project, report=report, cancel=cancel)
    assert steps[0] == "Read the files"
    assert len(engine.calls) == 2

    async def in_a_task() -> None:
        slow = ScriptedEngine(lambda _prompt, _config: Reply("x", delay=60))
        task = asyncio.create_task(DigestAgent(slow).aanalyze_repository(project))
        while not slow.calls:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(30):
            while slow.calls[0].outcome == "running":
                await asyncio.sleep(0.01)
        assert slow.calls[0].outcome == "cancelled"

    asyncio.run(in_a_task())


@pytest.mark.parametrize("content", [{}, {"blank.txt": b" \n"}, {"picture.bin": b"\x00\x01" * 500}])
def test_without_text_the_model_is_not_asked(tmp_path: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    engine = ScriptedEngine("It is a web shop.")
    digest = DigestAgent(engine).analyze_repository(tmp_path)
    assert engine.calls == []
    assert (digest.purpose, digest.purpose_by, digest.status) == ("", "nobody", "partial")
    assert any("no text to read" in warning for warning in digest.warnings)
    assert len(digest.omitted) == len(content)


def test_an_empty_folder(tmp_path: Path) -> None:
    digest = DigestAgent(ScriptedEngine("It is empty.")).analyze_repository(tmp_path)
    assert (digest.facts.files, digest.components, digest.facts.main_language) == (0, (), "")
    assert digest._repr_html_()
    assert "# " in digest.as_markdown()


def test_hostile_words_of_the_model_are_escaped(project: Path) -> None:
    evil = "It is <script>alert(1)</script> and <img src=x onerror=y> [click](javascript:z) `x` | a https://evil.example/x !"
    digest = DigestAgent(ScriptedEngine(evil)).analyze_repository(project)
    page, text = digest._repr_html_(), digest.as_markdown()
    assert "<script" not in page
    assert "<img" not in page
    assert r"\[click\]" in text
    assert "https://" not in text
    assert "<script" not in text.replace(r"\<script", "")


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "no content"},
        {"user": "{{ txt }}"},
        {"user": "{{ text }}", "part": "{{ path }}"},
        {"user": "{{ text }} {{ path }}"},
    ],
)
def test_prompts_that_cannot_work(fields: dict[str, str]) -> None:
    with pytest.raises(TemplateInvalid) as caught:
        DigestPrompt(**fields)
    assert caught.value.fix


def test_limits_are_checked() -> None:
    with pytest.raises(BadInput, match="max_prompt_tokens"):
        DigestAgent(ScriptedEngine(), max_prompt_tokens=0)
    with pytest.raises(BadInput, match="detail"):
        DigestPrompt(user="{{ text }}", detail="most")


def test_folders_as_inputs_of_a_comparison(tmp_path: Path) -> None:
    examples = write_examples(tmp_path)
    assert write_examples(tmp_path) == examples
    engine = ScriptedEngine(context_size=400)
    inputs = digest_inputs(examples, engine, max_prompt_tokens=150)
    assert len(inputs) == len({entry["id"] for entry in inputs}) == 12
    for entry in inputs:
        assert entry["expected"] in entry["text"].lower(), "the label must be findable in what the model sees"
        assert entry["expected"] not in entry["name"].lower()
        assert engine.count_tokens(DigestPrompt.questions().conversation(entry["text"], name=entry["name"])) <= 150
    assert {entry["language"] for entry in inputs} >= {"Python", "JavaScript", "Rust", "Go", "Ruby", "TypeScript"}
    prompts = {prompt.name: prompt.as_templates() for prompt in (DigestPrompt.seed(), DigestPrompt.questions())}
    assert set(prompts["seed"]) == {"system", "user"}
    assert "{{ text }}" in prompts["questions"]["user"]
    grid = Grid(prompts=prompts, inputs=inputs, models=["m"])
    assert grid is not None
    plain = digest_inputs([next(iter(examples))])
    assert plain[0]["expected"] == "Python"
    with pytest.raises(BadInput):
        digest_inputs([])
    next(iter(examples)).joinpath("README.md").write_text("changed")
    with pytest.raises(BadInput, match="README"):
        write_examples(tmp_path)
