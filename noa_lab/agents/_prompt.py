"""How a digest is asked for: prompts as data, so that two of them can be compared like any other two prompts."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field

from noa_lab.config import StrictModel
from noa_lab.errors import TemplateInvalid, nearest
from noa_lab.inference import ChatMessage

__all__ = ["DigestPrompt", "neutral"]

_VARIABLE = re.compile(r"{{\s*(\w+)\s*}}")
_CONTROL_TOKENS = re.compile(
    r"<(?=\||/?s>|/?(?:start|end)_of_turn>|/?think>|/?tool_call>|bos>|eos>|pad>)|\[(?=/?INST\]|/?SYSTEM_PROMPT\])"
)

SEED_SYSTEM = "You are a code analysis assistant. Analyze the repository and provide a concise digest."
SEED_USER = "Analyze this repository:\n\n{{ text }}"
FORMAT = """

Answer in this form, one line each:
Purpose: one sentence that says what the repository is for
Component: path - what it does"""


class DigestPrompt(StrictModel):
    """A prompt for digests. `{{ text }}` stands for the repository's content, `{{ name }}` for its name.

    The content is put in as it is and never read as a template; the control tokens of chat templates in it are broken up.
    """

    name: str = Field(default="custom", min_length=1, max_length=80)
    """What results are labelled with."""
    system: str = ""
    """The system message; none is sent when empty."""
    user: str
    """The user message that asks for the purpose, or for the whole digest; it must contain `{{ text }}`."""
    part: str | None = None
    """The user message that asks for the role of one part, with `{{ path }}` too; None asks once, for everything."""
    detail: str = Field(default="line", pattern="^(name|line|skeleton|full)$")
    """The most detail that is shown of a file: "name", "line" (what it says it is for), "skeleton" (signatures) or "full"."""

    VARIABLES: ClassVar[frozenset[str]] = frozenset({"text", "name", "path"})

    def __init__(self, **data: object) -> None:
        super().__init__(**data)
        for field_name in ("system", "user", "part"):
            for variable in _VARIABLE.findall(getattr(self, field_name) or ""):
                if variable not in self.VARIABLES or (variable == "path" and field_name != "part"):
                    self._refuse(field_name, variable)
        for field_name in ("user", "part"):
            template = getattr(self, field_name)
            if template is not None and "text" not in _VARIABLE.findall(template):
                raise TemplateInvalid(
                    f"The digest prompt {self.name!r} shows the model no content: {field_name!r} lacks {{{{ text }}}}.",
                    fix="Put {{ text }} where the repository's content belongs.",
                    prompt=self.name,
                    variable="text",
                )

    def _refuse(self, field_name: str, variable: str) -> None:
        known = self.VARIABLES if field_name == "part" else self.VARIABLES - {"path"}
        near = nearest(variable, known)
        raise TemplateInvalid(
            f"The digest prompt {self.name!r} uses {{{{ {variable} }}}} in {field_name!r}, which does not exist.",
            fix=f"Did you mean {near!r}?" if near else f"Known: {', '.join(sorted(known))}.",
            prompt=self.name,
            variable=variable,
        )

    @classmethod
    def seed(cls) -> DigestPrompt:
        """The seed document's two messages, with the form of the answer described; one request for everything."""
        return cls(name="seed", system=SEED_SYSTEM + FORMAT, user=SEED_USER, detail="full")

    @classmethod
    def questions(cls) -> DigestPrompt:
        """Short questions, one for the purpose and one for each part: what a model of 135M parameters can answer."""
        return cls(
            name="questions",
            system="Answer in one short sentence.",
            user="{{ text }}\n\nIn one sentence, what does the project {{ name }} do?",
            part="{{ text }}\n\nIn one sentence, what does {{ path }} do?",
            detail="line",
        )

    def as_templates(self) -> dict[str, str]:
        """The prompt as the `Grid` of a comparison takes it: `system` and `user`, with `{{ text }}` and `{{ name }}`."""
        return ({"system": self.system} if self.system else {}) | {"user": self.user}

    def conversation(self, text: str, *, name: str = "", path: str | None = None) -> list[ChatMessage]:
        """The messages around a text; with `path`, those that ask about one part."""
        values = {"text": neutral(text), "name": neutral(name), "path": neutral(path or "")}
        template = self.part if path is not None and self.part is not None else self.user
        messages = [ChatMessage.system(_filled(self.system, values))] if self.system else []
        return [*messages, ChatMessage.user(_filled(template, values))]

    @property
    def instructions(self) -> str:
        """The prompt's own words, by which an answer that only repeats them is known."""
        return _VARIABLE.sub(" ", " ".join((self.system, self.user, self.part or "")))


def neutral(text: str) -> str:
    """`text` with a space in every control token of common chat templates, so that it cannot speak as another role.

    What the content says in plain words still reaches the model; that is why a digest's facts come from code.
    """
    return _CONTROL_TOKENS.sub(lambda match: match[0] + " ", text)


def _filled(template: str, values: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda match: values.get(match[1], ""), template)
