"""What a digest holds: facts that code established, and what the model said about them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "Component",
    "Dependency",
    "EntryPoint",
    "LanguageFact",
    "Omitted",
    "RepositoryDigest",
    "RepositoryFacts",
    "TokenUse",
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LanguageFact(_Part):
    """How much of one language there is; lock files, generated, minified and vendored files are not counted.

    Attributes:
        name: The language.
        sort: "code", "markup", "data" or "prose".
        files: Number of files.
        lines: Lines in them, empty ones included; of a notebook, the lines of its cells.
        bytes: Their size on disk.
    """

    name: str
    sort: Literal["code", "markup", "data", "prose"]
    files: int
    lines: int
    bytes: int


class Dependency(_Part):
    """Something that a manifest asks for.

    Attributes:
        name: Name of the package.
        requirement: What of it, in the manifest's own words (">=2.0", "^1.2"); empty for any.
        group: "main", or the extra, group or section that asks for it ("test", "dev").
        ecosystem: "python", "conda", "npm", "cargo", "go", "ruby" or "php".
        manifest: Path of the manifest.
    """

    name: str
    requirement: str = ""
    group: str = "main"
    ecosystem: str
    manifest: str


class EntryPoint(_Part):
    """A way to start what the repository holds.

    Attributes:
        name: What is typed or called: the command, the module, the script.
        kind: "command", "module" (`python -m`), "script", "program", "main", "task" or "container".
        target: What it starts, in the manifest's own words.
        path: The file that says so.
    """

    name: str
    kind: str
    target: str = ""
    path: str


class RepositoryFacts(_Part):
    """What code established, without any model.

    Attributes:
        name: The project's name by its manifest, or else the folder's name.
        description: One sentence about it from its manifest or its README; empty when there is none.
        description_from: Path of the file that the description comes from.
        source: How the files were listed: "git", "walk", or "text" when only a text was given.
        files: Regular files, as git sees them.
        bytes: Their size on disk.
        lines: Lines of all text that people wrote.
        languages: Code first, then markup, data and prose; the largest (by bytes) first within each.
        dependencies: What the manifests ask for.
        entry_points: Ways to start it.
        licence: SPDX name where it could be told, "present" where only a file was found, empty without one.
        readme: Path of the README; empty without one.
        manifests: Paths of the manifests that were read.
        test_files: Number of files that are tests.
    """

    name: str
    description: str = ""
    description_from: str = ""
    source: Literal["git", "walk", "text"] = "text"
    files: int = 0
    bytes: int = 0
    lines: int = 0
    languages: tuple[LanguageFact, ...] = ()
    dependencies: tuple[Dependency, ...] = ()
    entry_points: tuple[EntryPoint, ...] = ()
    licence: str = ""
    readme: str = ""
    manifests: tuple[str, ...] = ()
    test_files: int = 0

    @property
    def main_language(self) -> str:
        """The first language; empty when there is none."""
        return self.languages[0].name if self.languages else ""


class Component(_Part):
    """A part of the repository.

    Attributes:
        path: The folder or file; it exists.
        role: What it is for.
        by: Whose words the role is: "model", "docs" (the part's own documentation) or "code" (counted).
        own_words: What the part's own documentation says it is for, to hold the model's words against; may be empty.
    """

    path: str
    role: str
    by: Literal["model", "docs", "code"] = "model"
    own_words: str = ""


class Omitted(_Part):
    """A file whose content no prompt showed, and why."""

    path: str
    reason: str


class TokenUse(_Part):
    """What the digest cost, in tokens of the serving model.

    Attributes:
        questions: Requests sent.
        prompt: Prompt tokens of all requests.
        completion: Generated tokens of all requests.
        largest_prompt: Tokens of the longest prompt, counted before it was sent.
        answer: Most tokens that one answer was allowed.
        context: What the model's context holds for one request.
    """

    questions: int = 0
    prompt: int = 0
    completion: int = 0
    largest_prompt: int = 0
    answer: int = 0
    context: int = 0


class RepositoryDigest(_Part):
    """A concise account of a repository. `model_dump_json()` gives it as JSON, `as_markdown()` as text.

    Attributes:
        facts: What code established.
        purpose: What the repository is for; empty when nobody could tell.
        purpose_by: Whose words the purpose is: "model", "docs" (manifest or README) or "nobody".
        components: Its main parts. Every path exists.
        omitted: Every file whose content no prompt showed, with the reason.
        status: "complete", or "partial" when the model's answer to any question could not be used; the facts hold either way.
        reply_form: How the reply that gave the purpose was read: "json", "repaired json", "lines", "prose" or "none".
        dropped_citations: Paths that the model named and that do not exist.
        redacted_secrets: Obvious secrets taken out before the model saw the text.
        prompt_name: Name of the prompt that asked.
        model: Name of the model that answered.
        tokens: What it cost.
        warnings: What a reader should know, in sentences.
    """

    facts: RepositoryFacts
    purpose: str = ""
    purpose_by: Literal["model", "docs", "nobody"] = "nobody"
    components: tuple[Component, ...] = ()
    omitted: tuple[Omitted, ...] = ()
    status: Literal["complete", "partial"] = "complete"
    reply_form: Literal["json", "repaired json", "lines", "prose", "none"] = "none"
    dropped_citations: int = 0
    redacted_secrets: int = 0
    prompt_name: str = ""
    model: str = ""
    tokens: TokenUse = TokenUse()
    warnings: tuple[str, ...] = ()

    def as_markdown(self) -> str:
        """The digest as Markdown; what came from files or the model is escaped."""
        from noa_lab.agents._views import markdown

        return markdown(self)

    def __str__(self) -> str:
        return self.as_markdown()

    def _repr_html_(self) -> str:
        """The digest in a notebook; everything is escaped."""
        from noa_lab.agents._views import page

        return page(self)
