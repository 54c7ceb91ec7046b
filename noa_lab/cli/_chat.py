"""`noa-lab chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from noa_lab.cli._terminal import TerminalReport, print_error, say
from noa_lab.errors import BadInput, Cancelled, InferenceError, NoaLabError
from noa_lab.workbench import Lab

if TYPE_CHECKING:
    from noa_lab.inference import ChatMessage, Completion, InferenceConfig, InferenceEngine

DEFAULT_TOKENS = 512
HELP = """\
/clear          forget the conversation
/system TEXT    change the instruction that stands over it; /system alone removes it
/retry          answer the last message again
/facts          show or hide tokens and speed after each answer
/save FILE      write the conversation as Markdown
/quit           end (also Ctrl-D)
\"\"\"             begin and end a message of several lines
Ctrl-C stops an answer; what came stays in the conversation."""


class Conversation:
    """What has been said, and what the commands do with it."""

    def __init__(self, engine: InferenceEngine, config: InferenceConfig, system: str, *, facts: bool) -> None:
        self.engine, self.config, self.facts = engine, config, facts
        self.system = system
        self.turns: list[ChatMessage] = []

    def hear(self, said: str) -> bool:
        """Take one message or command; returns whether the conversation goes on."""
        command, _, rest = said.partition(" ")
        if command in {"/quit", "/exit", "/bye"}:
            return False
        if not command.startswith("/"):
            self._answer(said)
            return True
        deed = {
            "/clear": self._clear,
            "/system": self._change_system,
            "/retry": self._retry,
            "/facts": self._toggle_facts,
            "/save": self._save,
            "/help": self._help,
            "/?": self._help,
        }.get(command)
        if deed is None:
            say(f"There is no command {command}; /help lists them. Begin with a space to send it as a message.")
        else:
            deed(rest.strip())
        return True

    def _help(self, _: str) -> None:
        say(HELP)

    def _clear(self, _: str) -> None:
        self.turns = []
        say("The conversation is forgotten.")

    def _change_system(self, text: str) -> None:
        self.system = text
        say("The instruction is set." if text else "There is no instruction any more.")

    def _toggle_facts(self, _: str) -> None:
        self.facts = not self.facts
        say(f"Facts are {'shown' if self.facts else 'hidden'}.")

    def _retry(self, _: str) -> None:
        last = next((at for at in reversed(range(len(self.turns))) if self.turns[at].role == "user"), None)
        if last is None:
            say("Nothing has been asked yet.")
            return
        asked = self.turns[last].content
        del self.turns[last:]
        self._answer(asked)

    def _save(self, name: str) -> None:
        if not name:
            say("Say where: /save conversation.md")
            return
        from noa_lab.inference import ChatMessage

        turns = [*([ChatMessage.system(self.system)] if self.system else []), *self.turns]
        text = "".join(f"**{turn.role.value}**\n\n{turn.content}\n\n" for turn in turns)
        try:
            Path(name).expanduser().write_text(text, encoding="utf-8")
        except OSError as error:
            say(f"{name} cannot be written: {error.strerror}.")
            return
        say(f"Written to {name}.")

    def _answer(self, said: str) -> None:
        """Print an answer as it comes. A turn that failed is dropped; one that was stopped stays as far as it came."""
        from noa_lab.inference import ChatMessage

        before = [ChatMessage.system(self.system)] if self.system else []
        asked = ChatMessage.user(said)
        pieces: list[str] = []
        stream = self.engine.stream([*before, *self.turns, asked], self.config)
        try:
            for piece in stream:
                pieces.append(piece)
                say(piece, end="")
            result: Completion | None = stream.result
        except (KeyboardInterrupt, Cancelled):
            stream.close()
            say(" [stopped]", end="")
            result = None
        except (InferenceError, BadInput) as error:
            say("")
            print_error(error)
            say("This turn was dropped.")
            return
        say("")
        self.turns += [asked, ChatMessage.assistant("".join(pieces))]
        self._tell(result)

    def _tell(self, result: Completion | None) -> None:
        if result is None:
            return
        if result.dropped is not None:
            # What the model no longer sees is never left out silently.
            say(f"[the {result.dropped.messages} oldest turns no longer fit and were left out; /clear starts anew]")
        if self.facts:
            say(f"[{result.facts()}]")


def read_message(*, live: bool) -> str | None:
    """The next message; None at the end of the input. Blank lines are passed over."""
    while True:
        line = _line("> " if live else "")
        if line is None:
            return None
        if line.strip().startswith('"""'):
            return _block(line.strip()[3:], live=live)
        if line.strip():
            return line.rstrip()


def _block(first: str, *, live: bool) -> str | None:
    """Several lines, up to the second three quotes."""
    lines = [first] if first else []
    while not (lines and lines[-1].rstrip().endswith('"""')):
        line = _line("… " if live else "")
        if line is None:
            break
        lines.append(line)
    text = "\n".join(lines).rstrip()
    return text.removesuffix('"""').strip()


def _line(prompt: str) -> str | None:
    try:
        if prompt:
            return input(prompt)
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    except EOFError:
        say("")
        return None
    except KeyboardInterrupt:
        say("\n/quit or Ctrl-D ends the conversation.")
        return ""


@click.command()
@click.option("--model", help="Catalogue name, reference or path (default: the default model).")
@click.option("--system", default="", help="An instruction that stands over the conversation.")
@click.option("--max-tokens", default=DEFAULT_TOKENS, show_default=True, type=int, help="Most tokens for one answer.")
@click.option("--temperature", type=float, help="0 is greedy (default: 0.7).")
@click.option("--seed", type=int, help="Seed of the sampler.")
@click.option("--facts", is_flag=True, help="Show tokens and speed after each answer.")
@click.option(
    "--overflow",
    default="rolling_window",
    show_default=True,
    type=click.Choice(["rolling_window", "truncate_middle", "error"]),
    help="What happens when the conversation is longer than the context.",
)
def chat(
    model: str | None,
    system: str,
    max_tokens: int,
    temperature: float | None,
    seed: int | None,
    facts: bool,
    overflow: str,
) -> None:
    """Talk to a model in the terminal; /help lists the commands.

    Where the input is no terminal, each line is a message.
    """
    given: dict[str, Any] = {"temperature": temperature, "seed": seed}
    chosen = {name: value for name, value in given.items() if value is not None}
    from noa_lab.inference import InferenceConfig

    config = InferenceConfig(max_tokens=max_tokens, overflow=overflow, **chosen)
    live = sys.stdin.isatty()
    if live:
        _edit_lines()
    with Lab().serve(model, report=TerminalReport()) as server, server.engine() as engine:
        conversation = Conversation(engine, config, system, facts=facts)
        if live:
            say(f"{engine.model_name} · {engine.capabilities.context_size} tokens of context · /help, /quit")
        while (said := read_message(live=live)) is not None:
            try:
                if not conversation.hear(said):
                    break
            except NoaLabError as error:
                print_error(error)


def _edit_lines() -> None:
    """Arrow keys and history at the prompt, where Python was built with them (Windows' console has its own)."""
    try:
        import readline  # noqa: F401 - importing it is what gives input() its line editor
    except ImportError:
        return


COMMANDS: tuple[click.Command, ...] = (chat,)
