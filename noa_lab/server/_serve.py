"""`serve`: a model and settings go in, a llama-server that answers comes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from noa_lab.errors import NoaLabError, PortTaken, RequestRefused, ServerError, ServerExited, ServerNotReady
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.server._channel import ChannelEnded
from noa_lab.server._command import plan_launch
from noa_lab.server._holding import Hold, exited, progress_of, updated
from noa_lab.server._holding import hold as hold_on
from noa_lab.server._http import ask, ask_json
from noa_lab.server._identity import owns_port
from noa_lab.server._launch import find_or_start
from noa_lab.server._log_settings import LogSettings
from noa_lab.server._port import listeners, port_taken
from noa_lab.server._record import ServerRecord, read_records
from noa_lab.server._server import Server
from noa_lab.server._settings import ServerSettings
from noa_lab.server._spawn import start_server
from noa_lab.server._status import find, log_lines, missing
from noa_lab.server.tuning._tuned import find_tuned

if TYPE_CHECKING:
    from noa_lab.models import ModelFile
    from noa_lab.paths import Home
    from noa_lab.runtime import Runtime

__all__ = ["attach", "serve", "wait_ready"]

STEP = "Start llama-server"
READY_SECONDS = 600.0
_LOOK = 0.1


def serve(
    runtime: Runtime,
    model: ModelFile,
    settings: ServerSettings | None = None,
    *,
    home: Home,
    keep: bool = False,
    admit: Callable[[ServerSettings], None] | None = None,
    report: Report = silent,
    cancel: CancelToken | None = None,
    timeout: float = READY_SECONDS,
    logging: LogSettings | None = None,
) -> Server:
    """A llama-server with this model and these settings: joins one that is up, else starts one, and returns when it answers.

    Args:
        runtime: The llama.cpp to run.
        model: The model to serve.
        settings: How to run it; None is `ServerSettings()`.
        home: Where its record and its log go.
        keep: Let it stay when its last holder has gone. Joining with `keep` makes a server stay that would not have.
        admit: Asked, with the settings filled in, before another server is started, never before joining one; what it raises is
            raised.
        report: Told of the progress.
        cancel: Stops the starting, and lets go of everything.
        timeout: Seconds until it has to be ready.
        logging: What goes into which log, for a server that is started here; default: `LogSettings()`.

    Raises:
        BadInput: When the model's path cannot be handed to llama-server.
        Cancelled: When `cancel` said so.
        ServerError: When the watcher cannot be started, or this llama-server lacks an option that is needed.
        PortTaken: When another program listens on the port that was asked for.
        ServerExited: When llama-server ended instead of becoming ready; says why.
        ServerNotReady: When it did not become ready in time.
    """
    started = time.monotonic()
    logging = logging or LogSettings()
    tuned = find_tuned(home, runtime, model)
    launch = plan_launch(runtime, model, settings or ServerSettings(), tuned=tuned, verbosity=logging.verbosity)
    report(Progress(STEP, f"looking for a server with {model.name}"))
    if admit is not None and not _can_join(home, launch.fingerprint):
        admit(launch.settings)
    hold: Hold | None = None
    try:
        hold = find_or_start(
            home,
            launch.alias,
            launch.fingerprint,
            lambda name: start_server(home, name, launch, model, runtime_id=runtime.id, keep=keep, logging=logging),
            cancel,
        )
        for note in (*hold.record.notes, *hold.notes):
            report(Progress(STEP, note))
        record = _settle(hold, report, cancel, started + timeout, timeout)
        server = Server(home, Hold(hold.channel, record, hold.joined, hold.notes), model)
        if keep and not record.keep:
            server.keep()
    except BaseException as error:
        if hold is not None:
            hold.channel.close()
        if isinstance(error, ServerExited) and error.fields.get("kind") == "port":
            raise _port_taken(home, launch.settings) from None
        raise
    seconds = time.monotonic() - started
    how = "joined" if hold.joined else f"ready after {seconds:.1f} s"
    report(Progress(STEP, f"{server.name} {how}: {server.base_url}", done=1, total=1, finished=True))
    return server


def _port_taken(home: Home, settings: ServerSettings) -> PortTaken:
    port = settings.port
    ours = next((one.name for one in read_records(home) if port and one.port == port and one.watched), None)
    elsewhere = "choose another port (0: one that the system chooses)"
    return port_taken(settings.host, port, ours=ours, elsewhere=elsewhere)


def _can_join(home: Home, fingerprint: str) -> bool:
    return any(record.fingerprint == fingerprint and record.watched for record in read_records(home))


def attach(home: Home, name: str) -> Server:
    """Become a holder of the server `name`, which has to be up already.

    Raises:
        ServerMissing: When no such server is up.
        ServerNotReady: When it is still loading for longer than ten minutes.
    """
    record = find(home, name)
    held = hold_on(record) if record is not None else None
    if held is None:
        raise missing(home, name)
    channel, record = held
    if record.kind == "router":
        from noa_lab.server.router._start import attach_router

        return attach_router(home, Hold(channel, record, joined=True))
    try:
        hold = Hold(channel, record, joined=True)
        ready = _settle(hold, silent, None, time.monotonic() + READY_SECONDS, READY_SECONDS)
        return Server(home, Hold(channel, ready, joined=True), _model_of(ready))
    except BaseException:
        channel.close()
        raise


def _settle(hold: Hold, report: Report, cancel: CancelToken | None, deadline: float, timeout: float) -> ServerRecord:
    """Wait until it is ready and proved to be ours; one that ends between the two is waited for once more, as it is restarted."""
    while True:
        record = wait_ready(hold, report, cancel, deadline, timeout)
        try:
            _prove_ours(record)
        except ServerError:
            news = _news(hold, record)
            if news is None:
                raise
            hold = Hold(hold.channel, news, hold.joined, hold.notes)
        else:
            return record


def _news(hold: Hold, record: ServerRecord) -> ServerRecord | None:
    """What the watcher says next, or None when it has nothing to say.

    Raises:
        ServerExited: When it says that llama-server has ended.
    """
    try:
        message = hold.channel.receive(timeout=1.0)
    except ChannelEnded:
        raise _ended(record, "its watcher was killed", "watcher") from None
    if message is not None and message["event"] == "exit":
        raise exited(record.name, message)
    return None if message is None else updated(record, message)


def wait_ready(
    hold: Hold, report: Report, cancel: CancelToken | None, deadline: float, timeout: float, step: str = STEP
) -> ServerRecord:
    """Listen to the watcher until it says "ready".

    Args:
        hold: A hold on what is starting.
        report: Told of the progress.
        cancel: Stops the waiting.
        deadline: When to give up (`time.monotonic`).
        timeout: The same in seconds, for the message.
        step: What the progress is reported under.

    Raises:
        Cancelled: When `cancel` said so.
        ServerExited: When it ended instead.
        ServerNotReady: When it took too long.
    """
    record = hold.record
    report(Progress(step, f"joining {record.name}" if hold.joined else f"starting {record.name}"))
    while record.state != "ready":
        if cancel is not None:
            cancel.check("Starting the server")
        if time.monotonic() > deadline:
            raise ServerNotReady(
                f"{record.name} was not ready after {timeout:.0f} s.",
                fix=f"Look into its log (`noa-lab logs {record.name}`), or take a smaller model.",
                name=record.name,
                seconds=timeout,
                log_tail=log_lines(record, 20),
            )
        try:
            message = hold.channel.receive(timeout=_LOOK)
        except ChannelEnded:
            raise _ended(record, "its watcher was killed", "watcher") from None
        if message is None:
            continue
        if message["event"] == "exit":
            raise exited(record.name, message)
        if message["event"] == "progress":
            report(progress_of(step, message))
        record = updated(record, message)
        if record.state == "draining":
            raise _ended(record, "it was stopped while it was starting", "stopped")
    return record


def _ended(record: ServerRecord, reason: str, kind: str) -> ServerExited:
    return ServerExited(
        f"llama-server ({record.name}) ended: {reason}.",
        fix="Serve the model again.",
        name=record.name,
        exit_code=None,
        reason=reason,
        kind=kind,
        log_tail=log_lines(record, 20),
    )


def _prove_ours(record: ServerRecord) -> None:
    """Make sure that what answers is our server with our model; nothing secret is sent before the port is known to be its own.

    Raises:
        ServerError: When it is not.
    """
    wrong = ""
    if not owns_port(record.process, record.port):
        wrong = f"port {record.port} does not belong to process {record.process.pid if record.process else 0}"
    elif (listeners(record.port) or 1) > 1:
        wrong = f"another program listens on port {record.port} as well"
    else:
        try:
            status, _ = ask(record.base_url, "/health")
            props = ask_json(record.base_url, "/props", api_key=record.api_key)
        except RequestRefused as error:
            wrong = error.message
        except NoaLabError as error:
            wrong = f"it does not answer: {error.message}"
        else:
            served = str(props.get("model_path", "")) if isinstance(props, dict) else ""
            # Servers of before November 2024 do not name their model; that the port is our own process's is then all there is.
            names_none = (
                isinstance(props, dict) and "default_generation_settings" in props and "model_path" not in props
            )
            if status != 200:
                wrong = f"/health answered {status}"
            elif not names_none and Path(served) != Path(str(record.model["path"])):
                wrong = f"it serves {served!r}"
    if wrong:
        fix = f"Stop it with `noa-lab stop {record.name}` and serve the model again."
        raise ServerError(
            f"{record.name} is not the server that noa_lab started: {wrong}.", fix=fix, name=record.name, reason=wrong
        )


def _model_of(record: ServerRecord) -> ModelFile:
    """The model that a record describes."""
    from noa_lab.models import ModelFile

    return ModelFile.from_record(record.model)
