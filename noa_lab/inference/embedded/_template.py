"""A model's own chat template, rendered in a sandbox: the template is part of a downloaded file and not to be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noa_lab.errors import TemplateInvalid

if TYPE_CHECKING:
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.sandbox import SandboxedEnvironment

__all__ = ["ChatTemplate"]

_PROBE = "noa-lab-probe"

_THINKING = ("think", "thought", "reasoning", "<|channel|>")
"""Words by which a template shows that answers begin with thoughts."""

_TRIMMED = "You have access to the following functions in JSONSchema format"
"""By this text llama-server knows StepFun's template, for which it trims what is said."""


class ChatTemplate:
    """Renders conversations as llama-server's `/apply-template` does (`common/chat.cpp`, b11312).

    Block whitespace is trimmed. A system message goes into the next message where the template knows none. A last assistant
    message is continued; where the model thinks first, that is refused. A beginning- or end-of-text token that the tokenizer adds
    itself is left out.

    Args:
        source: The Jinja text.
        bos: Text of the beginning-of-text token; "" when there is none.
        eos: Text of the end-of-text token.
        add_bos: Whether the tokenizer adds the first.
        add_eos: Whether the tokenizer adds the second.

    Raises:
        TemplateInvalid: When the text is no template.
    """

    def __init__(
        self, source: str, *, bos: str = "", eos: str = "", add_bos: bool = False, add_eos: bool = False
    ) -> None:
        import jinja2

        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise _invalid(error) from None
        self._bos, self._eos = bos, eos
        self._strip_bos, self._strip_eos = add_bos and bool(bos), add_eos and bool(eos)
        self._knows_system = self._probe()
        self._thinks = any(word in source.lower() for word in _THINKING)
        self._trims = _TRIMMED in source

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of a conversation, up to where the answer begins.

        Args:
            messages: `{"role": ..., "content": ...}` each.

        Raises:
            TemplateInvalid: When the template refuses the conversation, in the template's own words.
        """
        turns = [dict(message) for message in messages]
        if self._trims:
            turns = [{**turn, "content": turn["content"].strip()} for turn in turns]
        begun = ""
        if turns[-1]["role"] == "assistant":
            if self._thinks:
                # llama-server closes the thoughts first, differently for each family of models.
                raise _invalid("a model that thinks cannot continue a begun answer here (a server can)")
            begun = turns.pop()["content"]
            if turns and turns[-1]["role"] == "assistant":
                raise _invalid("two assistant messages at the end")
        if turns and turns[0]["role"] == "system" and not self._knows_system:
            system = turns.pop(0)
            if not turns:
                raise _invalid("it knows no system messages, and there is no other")
            turns[0]["content"] = f"{system['content']}\n{turns[0]['content']}"
        text = self._text(turns)
        if self._strip_bos:
            text = text.removeprefix(self._bos)
        if self._strip_eos:
            text = text.removesuffix(self._eos)
        return text + begun

    def _text(self, turns: list[dict[str, str]]) -> str:
        import jinja2

        try:
            return self._template.render(
                messages=turns,
                bos_token=self._bos,
                eos_token=self._eos,
                enable_thinking=True,
                add_generation_prompt=True,
                date_string=_now("%d %b %Y"),
                datetime=_now("%b %d %Y"),
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise _invalid(error) from None

    def _probe(self) -> bool:
        try:
            return _PROBE in self._text([{"role": "system", "content": _PROBE}, {"role": "user", "content": "x"}])
        except TemplateInvalid:
            return False


def _environment() -> SandboxedEnvironment:
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's part for training; it changes no text."""

        tags: set[str] = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_refuse, strftime_now=_now)
    return environment


def _invalid(reason: object) -> TemplateInvalid:
    return TemplateInvalid(
        f"The model's chat template refuses this conversation: {reason}.",
        fix="Change the order or the roles of the messages, or use generate with text of your own.",
        reason=str(reason),
    )


def _refuse(message: str) -> str:
    raise ValueError(message)


def _now(form: str) -> str:
    import datetime as dt

    return dt.datetime.now().astimezone().strftime(form)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
