"""What all panels have in common: one widget, one view, one pump."""

from __future__ import annotations

import atexit
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import traitlets

from noa_lab.errors import BadInput, Cancelled, NoaLabError, UnknownName
from noa_lab.events import CancelToken, Report
from noa_lab.widgets._assets import CSS, ESM
from noa_lab.widgets._job import Job
from noa_lab.widgets._looker import Looker
from noa_lab.widgets._pump import Command, Pump
from noa_lab.widgets._static import as_html, as_markdown, as_text
from noa_lab.widgets._view import (
    PAGE,
    Block,
    Kind,
    View,
    code,
    flat,
    message,
    panel_view,
    progress,
    section,
    split,
    text,
)

if TYPE_CHECKING:
    from noa_lab.workbench import Lab

__all__ = ["Panel"]

_FIRST_LOOK_SECONDS = 2.0
_MESSAGES = 4
_UNEXPECTED = "This is not an error that noa_lab expects: `raise panel.error` shows where it came from."
_CLIENTS = 8
_LONGEST_CODE = 8000


class Panel(anywidget.AnyWidget):
    """A panel: a projection of what is true on this machine, and of what has been filled in.

    A subclass reads facts (`_look`, on a worker thread), draws them (`_draw`, pure) and has a `do_<action>` method for each button
    (on the pump's thread; long work goes to `_work`). Only the pump writes traits; messages from the browser are only queued.
    """

    _esm = ESM
    _css = CSS
    view = traitlets.Dict().tag(sync=True)
    """What is shown, without its heavy parts."""
    parts = traitlets.Dict().tag(sync=True)
    """Rows, logs and code by block id; apart, so that progress does not send them again."""

    title: ClassVar[str] = ""
    intro: ClassVar[str] = ""

    def __init__(self, lab: Lab | None, form: Mapping[str, str | bool]) -> None:
        self._given_lab = lab
        self._form: dict[str, str | bool] = dict(form)
        self._facts: Any = None
        self._job: Job | None = None
        self._messages: list[Block] = []
        self._offsets: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self.error: Exception | None = None
        """The last error that the message strip told of, for a closer look."""
        super().__init__()
        self._pump = Pump(f"noa-lab panel {type(self).__name__}", publish=self._publish, failed=self._fail)
        self._looker = Looker(
            self._pump,
            prepare=lambda: partial(self._look, dict(self._form)),
            saw=self._saw,
            gap=self._watch,
            working=lambda: self._job is not None,
        )
        atexit.register(self._end)
        self.on_msg(self._heard)
        self.refresh()

    # What a user does from Python.

    @property
    def code(self) -> str:
        """The Python that does what this panel is set to do.

        Raises:
            BadInput: When a field holds something that cannot be used.
        """
        return self._code()

    def fill(self, **values: str | bool) -> None:
        """Fill in fields, as typing would; the fields are those of the panel's view."""
        self._pump.submit(lambda: self._edit(values))

    def press(self, action: str, **args: Any) -> None:
        """Do what a button does; returns at once."""
        self._pump.submit(lambda: self._act(action, args))

    def refresh(self) -> None:
        """Look again at what is true; returns at once."""
        self._pump.submit(self._looker.look)

    def settle(self, timeout: float = 60.0) -> bool:
        """Wait until nothing is going on in this panel; returns whether that was so within `timeout` seconds."""
        return self._pump.settle(timeout, quiet=lambda: not self._jobs())

    def close(self) -> None:
        """End everything the panel runs and take it away; safe to call twice."""
        self._end()
        super().close()

    def _end(self) -> None:
        """End the threads and let go of what is held; also at the end of the interpreter, when the browser cannot be told any more."""
        atexit.unregister(self._end)
        if "_pump" not in self.__dict__:
            return
        for job in self._jobs():
            job.token.cancel()
        self._pump.close()
        for job in self._jobs():  # asked again: the command that was under way may have begun one
            job.stop()
        self._closed()

    def _jobs(self) -> list[Job]:
        """What is under way: the work and the look."""
        return [job for job in (self._job, self._looker.job) if job is not None]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        self._looker.first.wait(_FIRST_LOOK_SECONDS)
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        view = self._draw()
        forms = {"text/plain": as_text(view), "text/markdown": as_markdown(view), "text/html": as_html(view)}
        return {**data, **forms}, metadata

    # What a subclass says.

    @abstractmethod
    def _look(self, form: Mapping[str, Any]) -> Any:
        """Read what is true, for this copy of the form; on a worker thread, at most a second or two."""

    @abstractmethod
    def _draw(self) -> View:
        """The view of the state as it is; changes nothing."""

    @abstractmethod
    def _code(self) -> str:
        """The Python of the form as it is."""

    def _shown_code(self) -> str:
        """The code as the view shows it; a panel whose code takes time to write returns that of its last look."""
        return self._code()

    def _edited(self, names: frozenset[str]) -> None:
        """These fields were filled in; for what must be looked up again."""

    def _watch(self) -> float | None:
        """Seconds until the next look while somebody sees the panel; None when nothing changes by itself."""
        return None

    def _closed(self) -> None:
        """Let go of what the panel holds."""

    # Help for subclasses.

    @property
    def lab(self) -> Lab:
        """The Lab that this panel is a view of."""
        if self._given_lab is None:
            from noa_lab.workbench import default_lab

            self._given_lab = default_lab()
        return self._given_lab

    def _tell(self, kind: Kind, what: str, fix: str = "") -> None:
        entry = message(kind, what, fix)
        self._messages = [*(old for old in self._messages if old != entry), entry][-_MESSAGES:]
        self._pump.invalidate()

    def _fail(self, error: Exception) -> None:
        """Put an error into the message strip; nothing else ever swallows one."""
        self.error = error
        if isinstance(error, Cancelled):
            self._tell("info", error.message, error.fix)
        elif isinstance(error, NoaLabError):
            self._tell("error", error.message, error.fix)
        else:
            self._tell("error", f"{type(error).__name__}: {error}", _UNEXPECTED)

    def _work(self, label: str, work: Callable[[Report, CancelToken], Any], then: Callable[[Any], None]) -> None:
        """Start long work, one at a time; `then` takes its result on the pump's thread."""
        if self._job is not None:
            self._tell("warn", f"{self._job.label} is still going on.", "Wait for it to end, or press Cancel.")
            return
        self._job = Job(
            label,
            work,
            changed=self._pump.invalidate,
            done=lambda _job, result, error: self._queue(lambda: self._worked(result, error, then)),
        ).start()
        self._pump.invalidate()

    def _queue(self, command: Command) -> None:
        self._pump.submit(command)

    def _worked(self, result: Any, error: Exception | None, then: Callable[[Any], None]) -> None:
        self._job = None
        self._looker.look()
        if error is not None:
            self._fail(error)
        else:
            then(result)

    def _show(self, kind: Kind, status: str, blocks: list[Block | None]) -> View:
        """The whole view: the subclass's blocks, then the code."""
        return panel_view(
            type(self).__name__,
            self.title,
            intro=self.intro,
            kind=kind,
            status=status,
            messages=self._messages,
            blocks=[*blocks, self._code_block()],
        )

    def _code_block(self) -> Block | None:
        try:
            source = self._shown_code()
        except BadInput as error:
            return section(
                "code-fold",
                "The same in Python",
                [text("no-code", f"{error.message} {error.fix}", kind="warn")],
                folded=True,
            )
        if not source:
            return None
        if len(source) > _LONGEST_CODE:
            words = f"The inputs make this {len(source):,} characters long: `print(panel.code)` shows all of it."
            return section("code-fold", "The same in Python", [text("long-code", words)], folded=True)
        return section("code-fold", "The same in Python", [code("code", "Python", source)], folded=True)

    def _job_block(self) -> Block | None:
        """The progress of the work that is going on."""
        if self._job is None:
            return None
        latest = self._job.progress
        return progress("progress", self._job.label, latest.fraction if latest else None, self._job.words())

    def _offset(self, table: str, total: int) -> int:
        """First row to show of a table with `total` rows."""
        return min(self._offsets.get(table, 0), max(0, (total - 1) // PAGE * PAGE))

    # The way of a message from the browser.

    def _heard(self, widget: object, content: object, buffers: object) -> None:
        """On any thread: only queues."""
        del widget, buffers
        self._pump.submit(lambda: self._take(content))

    def _take(self, content: object) -> None:
        if not isinstance(content, dict) or not isinstance(content.get("action"), str):
            raise BadInput(
                "The browser sent a message that this panel does not know.",
                fix="Run the cell again.",
                field="action",
                value=content,
            )
        client, seq = content.get("client"), content.get("seq")
        if isinstance(client, str) and isinstance(seq, int) and seq > 0:
            self._seen = dict(
                [*((name, count) for name, count in self._seen.items() if name != client), (client, seq)][-_CLIENTS:]
            )
            self._pump.invalidate()
        action, values, args = content["action"], content.get("values") or {}, content.get("args") or {}
        self._looker.seen()
        if values:
            self._edit(values)
        if action not in {"here", "edit"}:
            self._act(action, args)

    def _edit(self, values: Mapping[str, object]) -> None:
        for name, value in values.items():
            if name not in self._form:
                raise UnknownName.among("field", str(name), self._form)
            if not isinstance(value, type(self._form[name])):
                raise BadInput(f"{name} = {value!r} is not allowed.", fix="Give it as text.", field=name, value=value)
            self._form[name] = value
        self._pump.invalidate()
        self._edited(frozenset(values))

    def _act(self, action: str, args: Mapping[str, Any]) -> None:
        known = {name.removeprefix("do_"): name for name in dir(self) if name.startswith("do_")}
        if action not in known:
            raise UnknownName.among("action", action, known)
        if action not in {"page", "rows"}:
            self._messages = []
        self._pump.invalidate()
        getattr(self, known[action])(**args)

    def do_cancel(self) -> None:
        """Ask the work that is going on to stop."""
        if self._job is not None:
            self._job.token.cancel()

    def do_refresh(self) -> None:
        """Look again."""
        self._looker.look()

    def do_page(self, table: str, by: int) -> None:
        """Turn the page of a table."""
        last = max(0, self.parts[table]["total"] - 1) // PAGE * PAGE
        self._offsets[table] = min(last, max(0, self._offsets.get(table, 0) + int(by) * PAGE))
        self._looker.look()

    def do_rows(self, table: str, reply: str) -> None:
        """Send all rows of a table, of which the browser has a page, to the view that asked.

        Args:
            table: Id of the table.
            reply: By what the view knows the answer again.
        """
        tables = {block["id"]: block for block in flat(self._draw()["blocks"]) if block["type"] == "table"}
        if table not in tables:
            raise UnknownName.among("table", table, tables)
        self.send({"reply": reply, "rows": tables[table]["rows"]})

    # From the state to the browser.

    def _saw(self, result: Any, error: Exception | None) -> None:
        if error is None:
            self._facts = result
        else:
            self._fail(error)

    def _publish(self) -> None:
        """Write the traits; only the pump calls this."""
        try:
            view = self._draw()
        except Exception as error:
            self.error = error  # a view that cannot be drawn must still say so
            told = message("error", f"{type(error).__name__}: {error}", _UNEXPECTED)
            name, status = type(self).__name__, "This panel cannot be drawn"
            view = panel_view(name, self.title, intro="", kind="error", status=status, messages=[told], blocks=[])
        parts: dict[str, Any] = {}
        view["blocks"] = split(view["blocks"], parts, self._offset)
        view["seen"] = dict(self._seen)
        with self.hold_sync():
            self.view = view
            self.parts = parts
        self._looker.keep_watch()
