"""Start a router, or join the one that is up with the same plan."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import sys
import time

from noa_lab.errors import NoaLabError, PortTaken, RequestRefused, ServerError, ServerExited
from noa_lab.events import CancelToken, Progress, Report, silent
from noa_lab.inference import InferenceConfig
from noa_lab.paths import Home, write_atomic
from noa_lab.runtime import refuse_known_bad
from noa_lab.server._command import scrubbed_environment
from noa_lab.server._holding import Hold
from noa_lab.server._http import ask_json
from noa_lab.server._identity import owns_port
from noa_lab.server._launch import find_or_start
from noa_lab.server._port import port_taken
from noa_lab.server._record import ServerRecord, read_records, record_folder
from noa_lab.server._serve import wait_ready
from noa_lab.server._spawn import start_watcher
from noa_lab.server.router._plan import RouterPlan
from noa_lab.server.router._router import Router

__all__ = ["attach_router", "start_router"]

STEP = "Start the router"
READY_SECONDS = 60.0
_PLAN_FILE = "plan.json"


def start_router(
    plan: RouterPlan,
    *,
    home: Home,
    keep: bool = False,
    report: Report = silent,
    cancel: CancelToken | None = None,
    timeout: float = READY_SECONDS,
) -> Router:
    """A router with this plan: joins one that is up, else starts one, and returns when it answers; models load on their first request.

    Args:
        plan: What it has to do.
        home: Where its record and its log go.
        keep: Let it stay when its last holder has gone.
        report: Told of the progress.
        cancel: Stops the starting.
        timeout: Seconds until it has to be ready.

    Raises:
        Cancelled: When `cancel` said so.
        PortTaken: When another program listens on its port.
        ServerError: When it cannot be started; `ServerExited` and `ServerNotReady` say why.
        SetupError: When a known fault of this llama.cpp forbids to let other machines reach it.
    """
    started = time.monotonic()
    # What reaches the router reaches the servers behind it, which only listen on loopback themselves.
    refuse_known_bad(plan.runtime.build_number, ("--host", plan.host))
    report(Progress(STEP, f"looking for a router for {', '.join(plan.names)}"))
    hold: Hold | None = None
    try:
        hold = find_or_start(home, "router", plan.fingerprint, lambda name: _start(home, name, plan, keep=keep), cancel)
        for note in (*hold.record.notes, *hold.notes):
            report(Progress(STEP, note))
        record = wait_ready(hold, report, cancel, started + timeout, timeout, STEP)
        _prove_ours(record, plan)
        router = Router(home, Hold(hold.channel, record, hold.joined, hold.notes), plan)
        if keep and not record.keep:
            router.keep()
    except BaseException as error:
        if hold is not None:
            hold.channel.close()
        if isinstance(error, ServerExited) and error.fields.get("kind") == "port":
            raise _port_taken(plan, home) from None
        raise
    how = "joined" if hold.joined else f"ready after {time.monotonic() - started:.1f} s"
    report(Progress(STEP, f"{router.name} {how}: {router.base_url}", done=1, total=1, finished=True))
    return router


def attach_router(home: Home, hold: Hold) -> Router:
    """The router that is held by `hold`; lets go of it when it cannot be had.

    Raises:
        ServerError: When it does not become ready, or is not what it was.
    """
    try:
        text = (record_folder(home, hold.record.name) / _PLAN_FILE).read_text(encoding="utf-8")
        plan = RouterPlan.from_dict(json.loads(text))
        record = wait_ready(hold, silent, None, time.monotonic() + READY_SECONDS, READY_SECONDS, STEP)
        _prove_ours(record, plan)
        router = Router(home, Hold(hold.channel, record, hold.joined, hold.notes), plan)
    except BaseException:
        hold.channel.close()
        raise
    router.sampling = InferenceConfig(**plan.sampling)
    return router


def _start(home: Home, name: str, plan: RouterPlan, *, keep: bool) -> Hold:
    folder = record_folder(home, name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(folder / _PLAN_FILE, json.dumps(plan.as_dict()), mode=0o600)
    record = ServerRecord(
        name=name,
        state="starting",
        api_key=secrets.token_urlsafe(32),
        secret=secrets.token_urlsafe(24),
        fingerprint=plan.fingerprint,
        alias="router",
        model={"name": ", ".join(plan.names)},
        settings={"host": plan.host, "port": plan.port, "models": list(plan.names), "default": plan.default},
        runtime=plan.runtime.id,
        log=str(plan.logging.path_for(name, home.logs, [one.log for one in read_records(home)])),
        host=plan.host,
        keep=keep,
        notes=_notes(plan),
        kind="router",
    )
    # -P: a file in the working folder must not pass for a module of ours.
    argv = [sys.executable, "-P", "-m", "noa_lab.server.router", "--plan", str(folder / _PLAN_FILE)]
    argv += ["--host", plan.host, "--port", str(plan.port)]
    # The watcher then holds the port from before the start until after the end: see `_port`.
    argv += ["--reuse-port"] if hasattr(socket, "SO_REUSEPORT") else []
    environment = scrubbed_environment(os.environ, api_key=record.api_key, empty_folder=folder / "config")
    return start_watcher(home, record, argv, {**environment, **_python_variables()}, logging=plan.logging)


def _python_variables() -> dict[str, str]:
    """What decides how Python finds this package and its libraries, the same as in this process."""
    kept = {name: value for name, value in os.environ.items() if re.fullmatch("PYTHONPATH|VIRTUAL_ENV", name)}
    return {**kept, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", "")}


def _notes(plan: RouterPlan) -> tuple[str, ...]:
    """What is to be said of the plan before any model is loaded."""
    notes = []
    for one in plan.models:
        notes += [f"{one.name}: {note}" for note in one.settings.resolved(plan.runtime, one.file).notes]
        if one.predicted_bytes > plan.policy.budget_bytes:
            notes.append(
                f"{one.name} needs about {one.predicted_bytes / 1e9:.1f} GB, more than the memory budget of "
                f"{plan.policy.budget_bytes / 1e9:.1f} GB: it will not be loaded."
            )
    if plan.allow_remote:
        notes.append(f"Other machines can reach it at {plan.host}; the key crosses the network unencrypted.")
    return tuple(notes)


def _prove_ours(record: ServerRecord, plan: RouterPlan) -> None:
    """Make sure that what answers is our router with our models; the key is not sent before the port is known to be its own.

    Raises:
        ServerError: When it is not.
    """
    wrong = ""
    if not owns_port(record.process, record.port):
        wrong = f"port {record.port} does not belong to process {record.process.pid if record.process else 0}"
    else:
        try:
            listed = ask_json(record.base_url, "/v1/models", api_key=record.api_key)
            names = tuple(one["id"] for one in listed["data"])
        except RequestRefused as error:
            wrong = error.message
        except (NoaLabError, KeyError, TypeError) as error:
            wrong = f"it does not answer: {error}"
        else:
            wrong = "" if names == plan.names else f"it serves {', '.join(names)}"
    if wrong:
        fix = f"Stop it with `noa-lab stop {record.name}` and start it again."
        raise ServerError(
            f"{record.name} is not the router that noa_lab started: {wrong}.", fix=fix, name=record.name, reason=wrong
        )


def _port_taken(plan: RouterPlan, home: Home) -> PortTaken:
    port = plan.port
    ours = next((one.name for one in read_records(home) if port and one.port == port and one.watched), None)
    elsewhere = "take another port: `server.port` in server.yaml, or NOA_LAB_SERVER__PORT (0: any free one)"
    return port_taken(plan.host, port, ours=ours, elsewhere=elsewhere)
