"""The router's web application: its own routes, and everything else passed on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from noa_lab.server.router._desk import Desk, Refused
from noa_lab.server.router._forward import Broken, Forwarder, Outgoing
from noa_lab.server.router._model_state import ModelState
from noa_lab.server.router._plan import RouterPlan
from noa_lab.server.router._replies import error_response
from noa_lab.server.router._requests import BadRequest, choose_model, read_body, with_sampling

__all__ = ["RouterApp"]

_LOG = logging.getLogger("noa_lab.router")
_MAX_BODY = 100 << 20
_WITHOUT_LOADING = ("/slots", "/metrics")
_STATUS = {"model_failed": 503, "model_too_large": 503, "queue_full": 503}


class RouterApp:
    """The application.

    Args:
        plan: What the router is to do.
        desk: Where requests get their places.
        forwarder: What passes them on.
    """

    def __init__(self, plan: RouterPlan, desk: Desk, forwarder: Forwarder) -> None:
        self._plan = plan
        self._desk = desk
        self._forwarder = forwarder
        self._began = int(time.time())
        self.asgi = Starlette(
            routes=[
                *(Route(path, self._health) for path in ("/health", "/v1/health")),
                *(Route(path, self._list) for path in ("/v1/models", "/models")),
                Route("/v1/models/{name}", self._one),
                Route("/models/load", self._load, methods=["POST"]),
                Route("/models/unload", self._unload, methods=["POST"]),
                Mount("/", self._pass_on),
            ]
        )

    # --- the router's own routes ---------------------------------------------------------------------------------------

    async def _health(self, request: Request) -> Response:
        del request
        return JSONResponse({"status": "ok"})

    async def _list(self, request: Request) -> Response:
        del request
        return JSONResponse({"object": "list", "data": [self._describe(one) for one in self._desk.states()]})

    async def _one(self, request: Request) -> Response:
        name = self._plan.resolve(request.path_params["name"])
        found = next((one for one in self._desk.states() if one.name == name), None)
        if found is None:
            return error_response(404, "model_not_found", f"There is no model {request.path_params['name']!r} here.")
        return JSONResponse(self._describe(found))

    def _describe(self, one: ModelState) -> dict[str, Any]:
        planned = next(each for each in self._plan.models if each.name == one.name)
        failed = one.state == "unloaded" and bool(one.failure)
        return {
            "id": one.name,
            "object": "model",
            "created": self._began,
            "owned_by": "noa_lab",
            "tags": list(planned.tags),
            "default": one.name == self._plan.default,
            "pinned": one.pinned,
            "status": {"value": "failed", "reason": one.failure} if failed else {"value": one.state},
            "in_flight": len(one.running),
            "waiting": len(one.waiting),
            "slots": planned.settings.slots,
            "memory_bytes": one.bytes if one.state != "unloaded" else 0,
        }

    async def _load(self, request: Request) -> Response:
        try:
            name = choose_model(self._plan, read_body(await request.body(), "application/json"), b"")
            async with self._desk.place(name):
                return JSONResponse({"success": True, "model": name})
        except BadRequest as error:
            return error_response(error.status, error.kind, error.message, **error.facts)
        except Refused as error:
            return self._refusal(error)

    async def _unload(self, request: Request) -> Response:
        try:
            name = choose_model(self._plan, read_body(await request.body(), "application/json"), b"")
        except BadRequest as error:
            return error_response(error.status, error.kind, error.message, **error.facts)
        if await self._desk.unload(name):
            return JSONResponse({"success": True, "model": name})
        return error_response(409, "model_busy", f"{name} is at work. Try again when it is done.")

    def _metrics(self) -> Response:
        """The router's counters in Prometheus' text format."""
        lines = []
        for kind in ("requests", "starts", "evictions", "failures"):
            lines.append(f"# TYPE noa_lab_router_{kind}_total counter")
            lines += [
                f'noa_lab_router_{kind}_total{{model="{name}"}} {self._desk.counts[kind, name]}'
                for name in self._plan.names
            ]
        for kind, count in (("in_flight", "running"), ("waiting", "waiting")):
            lines.append(f"# TYPE noa_lab_router_{kind} gauge")
            lines += [
                f'noa_lab_router_{kind}{{model="{one.name}"}} {len(getattr(one, count))}' for one in self._desk.states()
            ]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    # --- everything else ------------------------------------------------------------------------------------------------

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by a model; the client's going away ends the work."""
        if scope["type"] != "http":
            return
        try:
            content = await _read(receive)
            request = self._outgoing(scope, content)
        except BadRequest as error:
            await error_response(error.status, error.kind, error.message, **error.facts)(scope, receive, send)
            return
        except _Gone:
            return
        if isinstance(request, Response):
            await request(scope, receive, send)
            return
        work = asyncio.ensure_future(self._answer(request, scope, receive, send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                _LOG.debug("the client of %s has gone", request.target)
        with contextlib.suppress(asyncio.CancelledError):
            await work

    def _outgoing(self, scope: Scope, content: bytes) -> Outgoing | Response:
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        if not raw.startswith(b"/"):  # "%2F@elsewhere" would change the address that it is put behind
            raise BadRequest(400, "invalid_request_error", "The path has to begin with a slash.")
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        content_type = next((value.decode("latin-1") for name, value in headers if name == b"content-type"), "")
        path, query = scope["path"], scope["query_string"]
        body = read_body(content, content_type)
        name = choose_model(self._plan, body, query)
        if path in _WITHOUT_LOADING and scope["method"] == "GET":
            if b"model=" not in query:
                return self._metrics() if path == "/metrics" else JSONResponse([])
            if self._desk.loaded(name) is None:
                return error_response(503, "unavailable_error", f"{name} is not loaded.")
        more = with_sampling(path, body, self._plan.sampling) if body is not None else None
        if more is not None:
            content = json.dumps(more).encode()
        target = raw.decode("latin-1") + (f"?{query.decode('latin-1')}" if query else "")
        return Outgoing(scope["method"], target, headers, content, name)

    async def _answer(self, request: Outgoing, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._forwarder.forward(request, send)
        except Broken:
            return  # without the end of the answer: the connection is then broken off, and the client knows
        except Refused as error:
            await self._refusal(error)(scope, receive, send)
        except httpx.TransportError:
            message = f"The server of {request.model} ended before it answered, twice; its log says more."
            await error_response(502, "model_died", message)(scope, receive, send)

    def _refusal(self, error: Refused) -> Response:
        why = error.why
        facts: dict[str, Any] = {"reason": why.reason}
        if why.kind == "model_too_large":
            facts |= {"needed_bytes": why.needed_bytes, "budget_bytes": self._plan.policy.budget_bytes}
        return error_response(_STATUS[why.kind], why.kind, f"No answer: {why.reason}.", **facts)


class _Gone(Exception):
    """The client has gone before its request was whole."""


async def _read(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > _MAX_BODY:
            raise BadRequest(413, "invalid_request_error", f"The body is larger than {_MAX_BODY:,} bytes.")
        if not message.get("more_body"):
            return b"".join(pieces)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
