"""`%%ask`: a question to a model in a notebook cell, the answer below it as it comes."""

from __future__ import annotations

import argparse
import html
import shlex
import sys
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

from noa_lab.errors import BadInput, Cancelled
from noa_lab.events import Progress

if TYPE_CHECKING:
    from noa_lab.inference import ChatMessage, Completion, EngineBase, InferenceConfig
    from noa_lab.server import Server
    from noa_lab.workbench import Lab

__all__ = ["Ask", "load", "unload"]

_MAX_TOKENS = 300
_GONE = frozenset(("draining", "stopped", "crashed", "released"))
"""States of a server that answers nothing any more."""

_OBEYED = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""What a notebook's output area could obey (colours, going back) is shown as U+FFFD."""


class Ask:
    """The magic of one shell. It holds the engines that were asked, until the extension is unloaded or the kernel ends.

    Args:
        shell: IPython's shell: its variables fill in the cell, and `--as` writes one.
        lab: Where models are served; default: the default Lab.
    """

    def __init__(self, shell: Any, lab: Lab | None = None) -> None:
        self._shell = shell
        self._lab = lab
        self._served: dict[str, tuple[Server, EngineBase]] = {}
        """By model: the server that is held for it, and its engine."""
        self._turns: weakref.WeakKeyDictionary[EngineBase, list[ChatMessage]] = weakref.WeakKeyDictionary()
        """What has been said with each engine."""

    def cell(self, line: str, cell: str) -> None:
        """Ask a model what the cell says, and show the answer as it comes; the stop button ends it."""
        options = _PARSER.parse_args(_words(line))
        engine = self._engine(options)
        before = self._turns.get(engine, []) if options.go_on else []
        turns = [*before, *self._asked(options, cell)]
        answer, text = _streamed(engine, turns, _config(options))
        self._turns[engine] = [*turns, _said(text)]
        if options.name:
            self._shell.user_ns[options.name] = answer if answer is not None else text

    def _engine(self, options: argparse.Namespace) -> EngineBase:
        """The engine to ask: a variable's, or one on a server that is held from then on."""
        from noa_lab.inference import EngineBase

        if options.engine:
            found = self._shell.user_ns.get(options.engine)
            if not isinstance(found, EngineBase):
                raise BadInput(
                    f"There is no engine in the variable {options.engine!r}.",
                    fix="Make one first, for example engine = lab.serve().engine().",
                    field="--engine",
                    value=options.engine,
                )
            return found
        return self._served_engine(options.model)

    def _served_engine(self, model: str | None) -> EngineBase:
        """The engine of a model's server; of a new one where it has ended meanwhile, with which the conversation goes on."""
        from noa_lab.workbench import default_lab

        server, engine = self._served.get(model or "", (None, None))
        if server is not None and engine is not None and server.state not in _GONE:
            return engine
        lab = self._lab or default_lab()
        fresh = lab.serve(model, report=_tell)
        again = fresh.engine()
        self._served[model or ""] = fresh, again
        if engine is not None:
            self._turns[again] = self._turns.pop(engine, [])
            engine.close()
        return again

    def _asked(self, options: argparse.Namespace, cell: str) -> list[ChatMessage]:
        """The new turns, filled in with the notebook's variables."""
        from noa_lab.experiments import Prompt
        from noa_lab.inference import ChatMessage

        text = cell.strip()
        if not text:
            raise BadInput("The cell asks nothing.", fix="Write the question below %%ask.", field="cell", value=cell)
        if options.literal:
            return [*([ChatMessage.system(options.system)] if options.system else []), ChatMessage.user(text)]
        prompt = Prompt(system=options.system, user=text)
        known = {name: self._shell.user_ns[name] for name in prompt.variables if name in self._shell.user_ns}
        return prompt.render(known)

    def close(self) -> None:
        """Let go of the servers."""
        for _, engine in self._served.values():
            engine.close()
        self._served.clear()


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and ends nothing."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(
            f"%%ask: {message}.",
            fix="See %%ask? for its options; texts with spaces need quotes.",
            field="line",
            value=message,
        )


def _parser() -> _Parser:
    parser = _Parser(prog="%%ask", add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("--model", help="catalogue name, reference or path of the model; default: the catalogue's default model")
    add("--engine", metavar="NAME", help="variable that holds the engine to ask, instead of a model")
    add("--system", metavar="TEXT", help="an instruction that stands over the conversation")
    add(
        "--max-tokens",
        type=int,
        default=_MAX_TOKENS,
        metavar="N",
        help=f"most tokens to generate; default: {_MAX_TOKENS}",
    )
    add("--temperature", type=float, metavar="T", help="0 is greedy; default: 0.7")
    add("--seed", type=int, metavar="S", help="seed of the sampler; default: drawn, and shown")
    add("--continue", dest="go_on", action="store_true", help="go on with the last conversation")
    add(
        "--as",
        dest="name",
        metavar="NAME",
        help="keep the answer, a Completion, in this variable (when stopped: the text)",
    )
    add("--literal", action="store_true", help="send the cell as it is: {{ names }} are not filled in")
    return parser


_PARSER = _parser()


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        _PARSER.error(f"{line!r} cannot be read ({error})")


def _config(options: argparse.Namespace) -> InferenceConfig:
    from noa_lab.inference import InferenceConfig

    given = {"max_tokens": options.max_tokens, "temperature": options.temperature, "seed": options.seed}
    return InferenceConfig(**{name: value for name, value in given.items() if value is not None})


def _streamed(engine: EngineBase, turns: list[ChatMessage], config: InferenceConfig) -> tuple[Completion | None, str]:
    """Show an answer as it comes; None for the answer when it was stopped, and the text so far."""
    stream = engine.stream(turns, config)
    pieces: list[str] = []
    try:
        for piece in stream:
            pieces.append(piece)
            sys.stdout.write(piece.translate(_OBEYED))
            sys.stdout.flush()
        answer = stream.result
    except (KeyboardInterrupt, Cancelled):
        stream.close()
        print(" [stopped]")
        return None, "".join(pieces)
    print()
    _show(answer.facts())
    return answer, answer.text


def _said(text: str) -> ChatMessage:
    from noa_lab.inference import ChatMessage

    return ChatMessage.assistant(text)


def _tell(progress: Progress) -> None:
    """Where a first question waits: the server is starting, or a model arrives."""
    if progress.finished or progress.done is None:
        print(f"· {progress.step}: {progress.message}" if progress.message else f"· {progress.step}")


def _show(facts: str) -> None:
    """A small line below an answer."""
    from IPython.display import publish_display_data

    small = f'<div style="opacity:.7;font-size:85%">{html.escape(facts)}</div>'
    publish_display_data({"text/plain": f"[{facts}]", "text/html": small})  # type: ignore[no-untyped-call]


_LOADED: dict[int, Ask] = {}
"""The magic of each shell, to let go of its engines when the extension is unloaded."""


def load(shell: Any) -> None:
    """Give a shell the magic; what `%load_ext noa_lab` does."""
    ask = _LOADED[id(shell)] = Ask(shell)

    def magic(line: str, cell: str) -> None:
        ask.cell(line, cell)

    about = "`{{ name }}` in the cell is filled in with the notebook's variable, as in the prompts of a comparison."
    magic.__doc__ = f"{Ask.cell.__doc__}\n\n{about}\n\n{_PARSER.format_help()}"
    shell.register_magic_function(magic, magic_kind="cell", magic_name="ask")


def unload(shell: Any) -> None:
    """Take it away again and let go of the servers."""
    ask = _LOADED.pop(id(shell), None)
    if ask is not None:
        ask.close()
        shell.magics_manager.magics["cell"].pop("ask", None)
