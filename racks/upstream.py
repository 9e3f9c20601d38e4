"""The HTTP client to one upstream server: connections that are kept, requests, answers piece by piece.

It asks one origin and never any other: redirects are not followed, proxies of the environment not used,
certificates always verified, nothing unpacked. It knows HTTP and no OpenAI. What goes wrong comes out as
`Unavailable`, not started where the server did no work, or `UpstreamFailed`; nothing of it holds a secret.

Invariants: a connection carries one request at a time; one whose answer was not read to its end is closed
at once, which is how the server learns of a cancel.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from types import TracebackType

from wrk_base import errors
from wrk_base.rpc.body import Budget

from .http_connection import Connection, LostUnanswered
from .http_reader import BadResponse, ResponseReader
from .origin import Origin

PATROL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds; the reasons stand at the settings of the same names."""

    connect: float = 3.0
    silence: float = 120.0


class Upstream:
    """One server, and the connections to it."""

    def __init__(self, origin: Origin, limits: Limits, *, secret: str = "") -> None:
        self.origin, self._limits = origin, limits
        self._loop = asyncio.get_running_loop()
        self._tls = ssl.create_default_context() if origin.tls else None
        self._heads: dict[tuple[str, str], bytes] = {}
        self._authorization = f"authorization: Bearer {secret}\r\n" if secret else ""
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []  # the one used last comes last, and is taken first
        self._patrol: asyncio.TimerHandle | None = None
        self._closed = False
        self._heard_at = 0.0

    @property
    def heard_at(self) -> float:
        """When it last sent anything at all, in the loop's time."""
        return max([self._heard_at, *(connection.heard_at for connection in self._open)])

    async def get(self, path: str) -> Answer:
        """As `post`, for what may always be asked again."""
        return await self._ask(self._head("GET", path) + b"0\r\n\r\n", b"", again=True)

    async def post(self, path: str, body: bytes | bytearray, *, again: bool) -> Answer:
        """The head of the answer to this JSON, whatever its status; to be used by `with`.

        `again`: the request may be sent twice, where a connection was lost before a byte was answered.
        Raises `Unavailable` and `UpstreamFailed`.
        """
        head = b"%b%d\r\n\r\n" % (self._head("POST", path), len(body))
        return await self._ask(head, body, again=again)

    def close(self) -> None:
        """Cut all connections."""
        self._closed = True
        if self._patrol is not None:
            self._patrol.cancel()
        for connection in tuple(self._open):
            connection.cut()

    def _head(self, method: str, path: str) -> bytes:
        """The head of a request up to its content length, made once."""
        head = self._heads.get((method, path))
        if head is None:
            text = (
                f"{method} {self.origin.path}{path} HTTP/1.1\r\nhost: {self.origin.netloc}\r\n"
                f"{self._authorization}user-agent: wrk\r\naccept: application/json, text/event-stream\r\n"
                "accept-encoding: identity\r\ncontent-type: application/json\r\ncontent-length: "
            )
            head = self._heads[method, path] = text.encode("latin-1")
        return head

    async def _ask(self, head: bytes, body: bytes | bytearray, *, again: bool) -> Answer:
        # What must not run twice goes on a fresh connection: the server may be closing one that rested.
        while again and self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                try:
                    return await self._exchange(connection, head, body)
                except LostUnanswered:
                    break  # a fresh one tells whether the server is there
        connection = await self._connect()
        try:
            return await self._exchange(connection, head, body)
        except LostUnanswered:
            raise self._lost(again) from None

    async def _exchange(self, connection: Connection, head: bytes, body: bytes | bytearray) -> Answer:
        try:
            reader = await connection.ask(head, body)
            packed = reader.headers.get(b"content-encoding", b"identity")
            if packed != b"identity":  # nothing here unpacks it, and so no small answer becomes a large one
                raise BadResponse("its answer is compressed, which was not asked for")
            return Answer(self, connection, reader)
        except BadResponse as error:
            connection.cut()
            raise self.failed(str(error)) from None
        except BaseException:
            connection.cut()
            raise

    async def _connect(self) -> Connection:
        host, port = self.origin.host, self.origin.port
        try:
            async with asyncio.timeout(self._limits.connect):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._loop, self._left), host, port, ssl=self._tls
                )
        except TimeoutError:
            raise self._unreachable(f"no connection within {self._limits.connect:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise self._unreachable(f"its certificate is not trusted: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise self._unreachable(f"no TLS: {error.reason}") from None
        except ConnectionRefusedError:
            raise self._unreachable("nobody listens there") from None
        except OSError as error:  # without a text where several addresses failed, each in its way
            raise self._unreachable(error.strerror or "none of its addresses answers") from None
        if self._closed:
            connection.cut()
            raise errors.Unavailable("the rack is stopping", not_started=True)
        self._open.add(connection)
        if self._patrol is None:
            self._patrol = self._loop.call_later(PATROL_SECONDS, self._look_round)
        return connection

    def _unreachable(self, why: str) -> errors.Unavailable:
        text = f"the upstream {self.origin.url} cannot be reached: {why}"
        return errors.Unavailable(text, not_started=True)

    def _lost(self, again: bool) -> errors.WrkError:
        """Whether it was run nobody knows: elsewhere it is only if it may run twice."""
        text = f"the upstream {self.origin.url} closed the connection without an answer"
        if again:
            return errors.Unavailable(text, not_started=True)
        return errors.UpstreamFailed(text, data={"status": 502})

    def failed(self, what: str, status: int = 502) -> errors.UpstreamFailed:
        """It answered, and wrongly; `what` continues a sentence."""
        return errors.UpstreamFailed(f"the upstream {self.origin.url}: {what}", data={"status": status})

    # --- connections

    def give_back(self, connection: Connection, *, finished: bool) -> None:
        """An answer is no longer read; `finished`: only the end of its transfer is missing."""
        if connection.whole and not self._closed:
            self._keep(connection)
        elif finished and not connection.lost and not self._closed:
            connection.linger(self._keep)
        else:
            connection.cut()

    def _keep(self, connection: Connection) -> None:
        if connection.rest(self._loop.time()):
            self._idle.append(connection)
        else:
            connection.cut()

    def _left(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._heard_at = max(self._heard_at, connection.heard_at)
        if connection in self._idle:
            self._idle.remove(connection)

    def _look_round(self) -> None:
        """One timer for all connections, while there are any."""
        now = self._loop.time()
        self._patrol = None
        for connection in tuple(self._open):
            connection.check(now, self._limits.silence)
        if self._open and not self._closed:
            self._patrol = self._loop.call_later(PATROL_SECONDS, self._look_round)


class Answer:
    """The answer to one request, its head read. Used by `with`: whoever leaves gives the connection back."""

    __slots__ = ("_connection", "_reader", "_upstream", "finished", "headers", "status")

    def __init__(self, upstream: Upstream, connection: Connection, reader: ResponseReader) -> None:
        self._upstream, self._connection, self._reader = upstream, connection, reader
        self.status, self.headers = reader.status, reader.headers
        self.finished = False
        """Set by a reader who knows that nothing more comes, though the transfer has not ended."""

    @property
    def content_type(self) -> str:
        return self.headers.get(b"content-type", b"").decode("latin-1")

    async def more(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises `UpstreamFailed`."""
        reader = self._reader
        while not reader.pieces:
            if reader.done:
                return b""
            try:
                await self._connection.news()
            except BadResponse as error:
                raise self._upstream.failed(str(error)) from None
        return self._connection.take()

    async def read(self, limit: int, held: Budget) -> bytes:
        """The whole body. Raises `UpstreamFailed` for one that breaks off or has more bytes than `limit`, or
        than `held` has room for beside what the process holds already."""
        pieces: list[bytes] = []
        size = 0
        try:
            while piece := await self.more():
                size += len(piece)
                held.used += len(piece)
                if size > limit:
                    raise self._upstream.failed(f"its answer has more than {limit} bytes")
                if held.used > held.limit:
                    raise self._upstream.failed(f"its answer exceeds what {held.name} = {held.limit} leaves")
                pieces.append(piece)
        finally:
            held.used -= size
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._upstream.give_back(self._connection, finished=self.finished and error is None)
