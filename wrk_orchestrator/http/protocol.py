"""uvicorn's HTTP connection with bounds: on heads, on time, on what waits to be taken, on their number.

The parser collects a request line and headers of any length, a connection that never says anything is
kept for ever, and so is one whose caller takes nothing of its answer. Whoever can reach the port could so
fill the memory, or take the descriptors that the links to racks need. At the bounds the caller is told
(431, 503), or hung up on. What could be read in two ways is refused: a proxy may read it in the other.

Bodies are bounded where they are read (`exchange.py`); only what is around them is looked at here. Requests
that `at_once` takes are given to it without a task, if their bodies come in one read with their heads.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from wrk_base import descriptors, errors
from wrk_base.config import HttpSettings

from .direct import AtOnce, Cycle, Direct
from .errors import HeadTooLarge, headers_of, status_of

if TYPE_CHECKING:
    from .app import App

HEAD_BYTES = 65_536  # servers in front of it allow 8 to 64 KiB; one read of the socket may come on top
MAX_HEADERS = 100  # as many as other servers take; clients send some ten
MAX_QUEUED = 8  # requests sent before the answer to the first: one read of the socket may hold thousands
FRAMING = 16  # bytes on the wire for each byte of a body, above HEAD_BYTES; chunks of one byte take six
LINGER_S = 2.0  # to read on after a refusal: a connection closed under its caller is reset, answer and all
NO_LINGER = struct.pack("ii", 1, 0)
LOOKS = 8  # at what a caller has taken, while the write timeout lasts


class Bounds(NamedTuple):
    """Seconds, and how many connections there may be."""

    head_s: float = 10.0
    write_s: float = 10.0
    connections: int = 4096

    @classmethod
    def of(cls, settings: HttpSettings, connections: int) -> Bounds:
        return cls(settings.header_timeout / 1000, settings.write_timeout / 1000, connections)


DEFAULT = Bounds()


class Resting(dict["Protocol", float]):
    """Connections on which nothing is under way, and since when; the one that rests longest is first."""


class Protocol(HttpToolsProtocol):
    """One connection. All of one server share `resting`."""

    def __init__(
        self,
        *args: Any,
        bounds: Bounds = DEFAULT,
        resting: Resting | None = None,
        at_once: AtOnce | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._bounds = bounds
        self._at_once = at_once
        self._bodiless: tuple[Direct, Cycle | RequestResponseCycle] | None = None
        self._reading = False
        self.directed: Direct | None = None
        self._resting = Resting() if resting is None else resting
        self._heads = 0
        self._head_open = False
        self._head_bytes = 0
        self._body_open = False
        self._body_bytes = 0
        self._framing_bytes = 0
        self._complaint: errors.WrkError | None = None
        self._refused = False
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._untaken = 0
        self._taken_at = 0.0

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=1)  # `pause_writing` comes with the first byte that waits
        full = len(self.connections) > self._bounds.connections or _is_short(transport)
        if full and not self._make_room():
            self._refused = True
            self._say(errors.Unavailable("there are too many connections", retry_after_ms=1000))
            transport.close()
            return
        self._resting[self] = self.loop.time()
        self._timer = self.loop.call_later(self._bounds.head_s, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._resting.pop(self, None)
        self._stop_timer()
        self._stop_write_timer()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)
        directed, self.directed = self.directed, None
        if directed is not None:
            directed.lost()

    def _make_room(self) -> bool:
        for longest in self._resting:
            del self._resting[longest]
            longest.leave()
            return True
        return False

    def leave(self) -> None:
        """Close, though a caller may be there; what it has not taken by now is lost."""
        if self.transport.get_write_buffer_size():
            self._cut()
        else:
            self.transport.close()

    def _cut(self) -> None:
        """Close so that the kernel, too, forgets what nobody takes, and the caller hears of it at once."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.transport.abort()

    # --- what comes in

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        heads, in_head, in_body = self._heads, self._head_open, self._body_open
        self._reading = True
        super().data_received(data)
        self._reading = False
        if self._bodiless is not None:
            (direct, cycle), self._bodiless = self._bodiless, None
            self._await_body(direct, cycle)
        if self._refused or self.transport.is_closing():
            return
        same = heads == self._heads  # all of `data` is of one and the same message
        if self._body_open:
            self._check_framing(len(data) if in_body and same else 0)
        elif self._head_open:
            self._check_head(len(data) if in_head and same else 0)

    def _check_head(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > HEAD_BYTES:
            self._refuse(HeadTooLarge(f"request line and headers are longer than {HEAD_BYTES} bytes"))
        elif self._timer is None:
            self._timer = self.loop.call_later(self._bounds.head_s, self._hang_up)

    def _check_framing(self, more: int) -> None:
        """Chunks may carry notes and a body be followed by headers; the parser keeps what nobody reads."""
        self._framing_bytes += more
        if self._framing_bytes > HEAD_BYTES + FRAMING * self._body_bytes:
            self._refuse(errors.BadRequest("there is more around this body than in it"))

    # --- what the parser says

    def on_message_begin(self) -> None:
        self._resting.pop(self, None)
        self._heads += 1
        self._head_open, self._head_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            raise self._complain(HeadTooLarge(f"there are more than {MAX_HEADERS} headers"))
        if self._body_open:
            return  # trailers: what they say was not looked at when the request was judged
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_open = False
        self._stop_timer()
        if not self.url.startswith(b"/") and self.url != b"*":
            raise self._complain(errors.BadRequest("a request names a path, not a whole address"))
        if len(self.pipeline) >= MAX_QUEUED:
            raise self._complain(errors.CapacityExceeded(f"{MAX_QUEUED} requests wait for their turn here"))
        self._body_open, self._body_bytes, self._framing_bytes = True, 0, 0
        if self._at_once is not None and self.url in self._at_once.paths and self._is_plain_post():
            self._expect_body()
        else:
            super().on_headers_complete()

    def _is_plain_post(self) -> bool:
        """Whether there is nothing about it that only the server knows to deal with."""
        parser = self.parser
        return (
            self._reading
            and (self.cycle is None or self.cycle.response_complete)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and not self.expect_100_continue
            and not parser.should_upgrade()
        )

    def _expect_body(self) -> None:
        """For `at_once`, if the body is in the same read."""
        scope = cast(dict[str, Any], self.scope)
        scope["method"], scope["path"], scope["raw_path"] = "POST", self.url.decode(), self.url
        scope["query_string"] = b""
        cycle = Cycle(scope, self.parser.should_keep_alive(), self.on_response_complete)
        self.cycle = cycle  # type: ignore[assignment]
        self.directed = Direct(self, cycle)
        self._bodiless = (self.directed, cycle)

    def _await_body(self, direct: Direct, came: Cycle | RequestResponseCycle) -> None:
        """It was not: the server's way, through ASGI, bounds how long that may take."""
        if isinstance(came, Cycle):
            self.cycle = RequestResponseCycle(
                scope=self.scope,
                transport=self.transport,
                flow=self.flow,
                logger=self.logger,
                access_logger=self.access_logger,
                access_log=self.access_log,
                default_headers=self.server_state.default_headers,
                message_event=asyncio.Event(),
                expect_100_continue=False,
                keep_alive=came.keep_alive,
                on_response=self.on_response_complete,
            )
            self.cycle.body += came.body
            self.cycle.disconnected = came.disconnected
            self.cycle.message_event.set()
            direct.await_body(self.cycle)
        self.cycle.scope["state"]["direct"] = direct
        super()._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._body_open = False
        super().on_message_complete()
        if self._bodiless is not None:
            (direct, _), self._bodiless = self._bodiless, None
            self._serve_at_once(direct)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        at_once = self._at_once
        if at_once is None or not at_once.takes(cycle.scope):  # type: ignore[arg-type]
            super()._start_asgi_task(cycle, app)
            return
        direct = self.directed = Direct(self, cycle)
        if not cycle.more_body:
            self._serve_at_once(direct)
        elif self._reading and not cycle.waiting_for_100_continue:
            self._bodiless = (direct, cycle)  # the rest may be in the same read
        else:
            self._await_body(direct, cycle)

    def _serve_at_once(self, direct: Direct) -> None:
        assert self._at_once is not None
        self._at_once.serve(direct)

    def _unsupported_upgrade_warning(self) -> None:
        """The request itself is answered. What follows it would be of the protocol that we do not speak."""
        self._refused = True
        self.cycle.keep_alive = False

    def _complain(self, error: errors.WrkError) -> errors.WrkError:
        """The parser passes on only that something was raised."""
        self._complaint = error
        return error

    # --- what goes out

    def on_response_complete(self) -> None:
        """The server's own stops and starts a timer for each request; here one looks when it is time to."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        if not (self._head_open or self._refused):
            self._resting[self] = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_whether_it_rests(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        """A request that comes stops no timer: the connection is not resting when it goes off."""

    def _look_whether_it_rests(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        since = self._resting.get(self)
        if since is None:
            return  # the end of what is under way looks again
        left = since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_whether_it_rests(left)
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._untaken, self._taken_at = self.transport.get_write_buffer_size(), self.loop.time()
            self._look_again()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()
        if self.directed is not None and self.directed.listener is not None:
            self.directed.listener.room()

    def _look_again(self) -> None:
        self._write_timer = self.loop.call_later(self._bounds.write_s / LOOKS, self._check_taken)

    def _check_taken(self) -> None:
        """While there is something to take, nothing is added: it can only become less."""
        untaken, now = self.transport.get_write_buffer_size(), self.loop.time()
        if untaken < self._untaken:
            self._untaken, self._taken_at = untaken, now
        if now - self._taken_at >= self._bounds.write_s:
            self._write_timer = None
            self._cut()
        else:
            self._look_again()

    # --- refusals

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._complaint or errors.BadRequest("these bytes are no HTTP request"))

    def _refuse(self, error: errors.WrkError) -> None:
        """Read no more of this connection. Where answers are owed they go first, and end it."""
        self._refused = True
        self._stop_timer()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            if self.pipeline or not cycle.more_body or cycle.response_started:
                return
            cycle.disconnected = True  # it is this one's body that is wrong
            cycle.message_event.set()
        self._say(error)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self._hang_up)

    def _say(self, error: errors.WrkError) -> None:
        body, request_id = cast("App", self.config.app).refusal(error)
        self.transport.write(
            STATUS_LINE[status_of(error)]
            + b"content-type: application/json\r\nconnection: close\r\n"
            + b"".join(name + b": " + value + b"\r\n" for name, value in headers_of(error))
            + f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n\r\n".encode()
            + body
        )

    def _hang_up(self) -> None:
        self._timer = None
        if not self._refused and self.cycle is not None and not self.cycle.response_complete:
            self._timer = self.loop.call_later(self._bounds.head_s, self._hang_up)  # an answer is still owed
        else:
            self.leave()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _is_short(transport: asyncio.Transport) -> bool:
    """Whether this connection has one of the last file descriptors, which are kept for others."""
    sock = transport.get_extra_info("socket")
    return sock is not None and descriptors.is_short(sock.fileno(), descriptors.KEPT_FROM_HTTP)
