"""The ASGI entry: inference by plain functions, everything else by Litestar, every error answered here.

Litestar costs more a request than all the rest here, which matters for inference only. Both
get a request id, a caller who was let in, a body that is within the limit and the same answers to what
goes wrong. Nothing that a caller does may end in anything but a JSON answer, and nothing that we did
wrong shows more than its id. Headers and bodies are never logged: keys and prompts are in them.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any, cast

from litestar.exceptions import HTTPException

from wrk_base import errors

from ..orchestrator import OrchestratorWorker
from . import docs, openai_errors
from .control import control_app, translated
from .direct import Direct
from .errors import body_of
from .exchange import ClientGone, Exchange, Message, Receive, Scope, Send, check_room, too_large
from .gate import Gate
from .inference import PATH, Inference
from .openai import TASKS, Ask, OpenAi
from .openai_answer import refuse

# The server leaves the body out of an answer to HEAD. No method is called OPTIONS, so what there is comes
# out as a refusal: Litestar's own answer forgets methods of paths with more than one handler.
_ASKED_AS = {"HEAD": "GET", "OPTIONS": "TRACE"}
OPENAI = "/v1/"
_SANE_ID = re.compile(rb"[\x20-\x7e]{1,128}")


class App:
    """To be made and run in the service's event loop."""

    paths = frozenset(path.encode() for path in TASKS)

    def __init__(self, service: OrchestratorWorker, inference: Inference, openai: OpenAi, gate: Gate) -> None:
        self._service, self._inference, self._openai, self._gate = service, inference, openai, gate
        self._loop = asyncio.get_running_loop()
        self._control = cast(Any, control_app(service, docs.HANDLERS))
        self._limit = service.settings.http.body_limit
        self._patience = service.settings.http.body_timeout / 1000
        self._budget = service.held
        self._ids = itertools.count(service.context.rng.getrandbits(127))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        exchange.request_id = self._request_id(exchange.headers)
        if scope["path"].startswith(OPENAI):
            exchange.describe = openai_errors.body_of
        exchange.closing = self._service.stopping
        try:
            await self._serve(exchange)
        except ClientGone:
            pass
        except asyncio.CancelledError:  # only the stop cancels, and what is cancelled here ends here
            if not exchange.started:
                cut = errors.Unavailable("the orchestrator stopped before the answer came")
                await exchange.fail(cut, in_haste=True)
        except Exception as error:
            if exchange.started:  # mostly because the caller is gone; the server closes what is left
                self._service.log.debug("http.cut", request_id=exchange.request_id, cause=repr(error))
                raise
            await exchange.fail(self._known(error, exchange.scope, exchange.request_id))
        finally:
            self._budget.used -= exchange.held

    async def _serve(self, exchange: Exchange) -> None:
        arrived, scope = self._loop.time(), exchange.scope
        posted, path = scope["method"] == "POST", _tidy(scope["path"])
        exchange.caller = self._gate.admit(scope, path, arrived)
        body = await self._read(exchange) if posted or exchange.unread else b""
        if posted and path == PATH:
            await self._inference.handle(exchange, body, arrived)
            return
        if posted and path in TASKS:
            await self._serve_openai(exchange, path, body, arrived)
            return
        method = _ASKED_AS.get(scope["method"], scope["method"])
        inner = {**scope, "method": method, "state": {"exchange": exchange}}
        try:
            await self._control(inner, _replay(body, exchange.receive), exchange.send)
        except HTTPException as error:
            if scope["method"] != "OPTIONS" or error.status_code != 405:
                raise
            await exchange.tell_methods((error.headers or {}).get("allow", ""))

    async def _serve_openai(self, exchange: Exchange, path: str, body: bytes, arrived: float) -> None:
        """What was too long for one read."""
        direct: Direct = exchange.scope["state"]["direct"]
        ask = Ask(path, exchange.headers, body, 0, exchange.caller, exchange.request_id, arrived)
        if exchange.closing:
            direct.close_after()
        self._openai.start(ask, direct)
        await direct.over()

    # --- what is answered without a task

    def takes(self, scope: Scope) -> bool:
        """Whether the request is answered directly: inference by OpenAI's endpoints."""
        return scope["method"] == "POST" and (scope["path"] in TASKS or _tidy(scope["path"]) in TASKS)

    def serve(self, direct: Direct) -> None:
        """Begin to answer such a request, whose body came in one read with its head."""
        arrived, scope = self._loop.time(), direct.scope
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = self._request_id(headers)
        if self._service.stopping:
            direct.close_after()
        try:
            path = _tidy(scope["path"])
            caller = self._gate.admit(scope, path, arrived)
            body = direct.body
            self._check_room(len(body))
            self._openai.start(Ask(path, headers, body, len(body), caller, request_id, arrived), direct)
        except Exception as error:
            refuse(
                direct, self._known(error, scope, request_id), b"x-request-id: %b\r\n" % request_id.encode()
            )

    def _check_room(self, size: int) -> None:
        if size > self._limit:
            raise too_large(self._limit)
        check_room(size, self._budget)

    async def _read(self, exchange: Exchange) -> bytes:
        return await exchange.read(self._limit, self._patience, self._budget)

    def _known(self, error: Exception, scope: Scope, request_id: str) -> errors.WrkError:
        """The error to tell. One that nobody meant to raise is for the log, with its traceback."""
        if isinstance(error, errors.WrkError):
            return error
        if isinstance(error, HTTPException) and error.status_code < 500:
            return translated(error, scope)
        where = {"method": scope["method"], "path": scope["path"][:200]}
        if isinstance(error, MemoryError):
            self._service.log.error("http.no_memory", request_id=request_id, **where)
            return errors.no_memory()
        self._service.log.error("http.failed", request_id=request_id, **where, exc_info=error)
        return errors.Internal("something failed here; the log says what, under this request id")

    def _request_id(self, headers: dict[bytes, bytes]) -> str:
        given = headers.get(b"x-request-id", b"")
        return given.decode() if _SANE_ID.fullmatch(given) else self.new_id()

    def new_id(self) -> str:
        """A request id for who brought none."""
        return f"{next(self._ids):032x}"

    def refusal(self, error: errors.WrkError) -> tuple[bytes, str]:
        """(body, request id) of the answer to bytes that never became a request."""
        request_id = self.new_id()
        return body_of(error, request_id), request_id


def _tidy(path: str) -> str:
    """The path as Litestar understands it: without empty steps."""
    return path if path in TASKS or path == PATH else "/" + "/".join(step for step in path.split("/") if step)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, and then what comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
