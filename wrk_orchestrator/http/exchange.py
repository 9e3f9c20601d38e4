"""One HTTP request and its one answer, over plain ASGI.

The server's `send` says nothing when the caller has left, so the only sign of it is `receive`:
`unless_gone` watches that while work is done for the caller. An answer leaves
at most once and always carries the request id. It knows nothing of workers or of paths.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any, TypeAlias, TypeVar

import msgspec

from wrk_base import contract, errors
from wrk_base.rpc.body import Budget

from .errors import BodyTooLarge, BodyTooSlow, WrongMediaType, body_of, headers_of, status_of
from .gate import ANYBODY, Caller

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]
T = TypeVar("T")

PIECE = 65_536  # bytes of an answer
EXACT = 2.0**53  # below it a float tells every integer from its neighbours

JSON = b"application/json"
IDEMPOTENCY_KEY = b"idempotency-key"
MOST_KEY = 256  # characters, as in the contract
LINGER_S = 2.0  # how long the rest of a refused body is read and thrown away
SLOW_LINGER_S = 0.5  # the same for one that was too slow: there is little on the way
BODY_RATE = 65_536  # bytes a second: a body that is faster may take as long as it needs


class ClientGone(Exception):
    """The caller left before its answer."""


class Exchange:
    """`closing` asks the caller for a new connection next time, because this server is about to go.

    `unread` is whether a body was announced that nobody has read to its end, `held` how many bytes of it
    are here: bodies of all callers share what the process may hold.
    """

    __slots__ = (
        "_send",
        "caller",
        "closing",
        "describe",
        "headers",
        "held",
        "receive",
        "request_id",
        "scope",
        "started",
        "unread",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.request_id = ""
        self.caller: Caller = ANYBODY
        self.closing = False
        self.describe = body_of
        self.held = 0
        self.started = False
        length = self.headers.get(b"content-length", b"0")
        self.unread = length != b"0" or b"transfer-encoding" in self.headers

    # --- what comes in

    async def read(self, limit: int, seconds: float, budget: Budget) -> bytes:
        """The whole body; raises `BodyTooLarge`, `BodyTooSlow`, `CapacityExceeded` or `ClientGone`.

        It may take `seconds`, and as long as what has arrived takes at `BODY_RATE`: who sends a byte now and
        then gains nothing by announcing many.
        """
        self.unread = True
        if int(self.headers.get(b"content-length", b"0")) > limit:
            raise too_large(limit)
        try:
            async with asyncio.timeout(seconds) as patience:
                return await self._read(limit, patience, budget)
        except TimeoutError:
            raise BodyTooSlow(
                f"the body took longer than {seconds:g} s, and a second more for each 64 KiB"
            ) from None

    async def _read(self, limit: int, patience: asyncio.Timeout, budget: Budget) -> bytes:
        chunks: list[bytes] = []
        room, more, until = limit, True, patience.when() or 0.0
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            room -= len(chunks[-1])
            if room < 0:
                raise too_large(limit)
            self._hold(len(chunks[-1]), budget)
            more = message.get("more_body", False)
            if more:
                patience.reschedule(until + (limit - room) / BODY_RATE)
        self.unread = False
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _hold(self, size: int, budget: Budget) -> None:
        check_room(size, budget)
        budget.used += size
        self.held += size

    def check_media_type(self) -> None:
        """Raises `WrongMediaType`."""
        check_media_type(self.headers)

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns; it is cancelled and `ClientGone` raised when the caller leaves.

        To be used when the body was read: the next thing to arrive is the end of the connection. (A
        further request on it, sent before this one is answered, hides that end from the server: then
        the work goes on until its deadline.)
        """
        task = asyncio.current_task()
        assert task is not None
        gone = False

        def leave(_: asyncio.Future[Message]) -> None:
            nonlocal gone
            gone = True
            task.cancel()

        watch = asyncio.ensure_future(self.receive())
        watch.add_done_callback(leave)
        try:
            return await work
        except asyncio.CancelledError:
            if not gone:
                raise
            task.uncancel()
            raise ClientGone from None
        finally:
            watch.remove_done_callback(leave)
            watch.cancel()

    # --- what goes out

    async def send(self, message: Message) -> None:
        """Pass one message of an answer on. Whatever this raises, nothing more can be said to this caller."""
        if message["type"] == "http.response.start":
            self.started = True
            headers: Headers = [*message["headers"], (b"x-request-id", self.request_id.encode())]
            if self.closing:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif self.scope.get("scheme") == "https" and len(message.get("body", b"")) > PIECE:
            message = await self._send_all_but_the_end(message)
        await self._send(message)

    async def _send_all_but_the_end(self, message: Message) -> Message:
        """TLS encrypts all that it is given at once, to where nobody sees whether the caller takes it."""
        body = message["body"]
        ends_at = len(body) - PIECE
        for start in range(0, ends_at, PIECE):
            await self._send({**message, "body": body[start : start + PIECE], "more_body": True})
        return {**message, "body": body[-(-ends_at // PIECE) * PIECE :]}

    async def answer(self, status: int, body: bytes, headers: Headers | None = None) -> None:
        """Send a whole JSON answer."""
        await self._start(status, body, headers or [])
        await self.send({"type": "http.response.body", "body": body})

    async def tell_methods(self, allow: str) -> None:
        """Answer OPTIONS, with a list like "GET, DELETE". There are no headers for pages of other servers."""
        head = [(b"allow", allow.encode())]
        await self.send({"type": "http.response.start", "status": 204, "headers": head})
        await self.send({"type": "http.response.body", "body": b""})

    async def fail(self, error: errors.WrkError, *, in_haste: bool = False) -> None:
        """Send the answer that an error has; `in_haste` there is no time for what is still to be read."""
        body, headers = self.describe(error, self.request_id), headers_of(error)
        if in_haste or not self.unread:
            await self.answer(status_of(error), body, headers)
            return
        self.closing = True
        await self._start(status_of(error), body, headers)
        await self.send({"type": "http.response.body", "body": body, "more_body": True})
        try:
            await self._linger(SLOW_LINGER_S if isinstance(error, BodyTooSlow) else LINGER_S)
        finally:
            await self.send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, body: bytes, headers: Headers) -> None:
        length = (b"content-length", str(len(body)).encode())
        head = [(b"content-type", JSON), length, *headers]
        await self.send({"type": "http.response.start", "status": status, "headers": head})

    async def _linger(self, seconds: float) -> None:
        """Let the caller finish its sending: a connection closed under it is reset, answer and all."""
        try:
            async with asyncio.timeout(seconds):
                while (await self.receive()).get("more_body"):
                    pass
        except TimeoutError:
            pass


def idempotency_key(headers: Mapping[bytes, bytes]) -> str | None:
    """What `idempotency-key` says, None without that header; raises `BadRequest`."""
    said = headers.get(IDEMPOTENCY_KEY)
    if said is None:
        return None
    if not 1 <= len(said) <= MOST_KEY:
        text = f"idempotency-key: it has 1 to {MOST_KEY} characters, not {len(said)}"
        raise errors.BadRequest(text, data={"field": "idempotency-key"})
    return said.decode("latin-1")


def check_media_type(headers: Mapping[bytes, bytes]) -> None:
    """Raises `WrongMediaType`. A body without a type is taken for JSON; one with another is not."""
    said = headers.get(b"content-type", JSON)
    kind = said if said == JSON else said.partition(b";")[0].strip().lower()
    if kind != JSON and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise WrongMediaType(f"send content-type: application/json, not {kind.decode('latin-1')[:100]!r}")


def number(text: str) -> int | float:
    """A JSON number with a point or an exponent: 60.0 is the integer 60 in JSON, though not in Python."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < EXACT else value


def decode_json(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A JSON body as what the decoder makes of it; raises `BadRequest`. An empty one is an empty object."""
    try:
        return decoder.decode(body or b"{}")
    except msgspec.ValidationError as error:
        raise contract.as_bad_request(error, "request") from None
    except (ValueError, RecursionError) as error:
        raise errors.BadRequest(f"the body cannot be read as JSON: {error}") from None


def check_room(size: int, budget: Budget) -> None:
    """Raises `CapacityExceeded` where a body does not fit beside those that are held."""
    if budget.used + size > budget.limit:
        raise errors.CapacityExceeded(
            f"{budget.used} bytes of bodies are held already ({budget.name})", retry_after_ms=1000
        )


def too_large(limit: int) -> BodyTooLarge:
    """The error of a body that is longer than `limit` bytes."""
    return BodyTooLarge(f"the body is longer than {limit} bytes", data={"limitBytes": limit})
