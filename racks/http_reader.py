"""One HTTP response, from bytes to status, the headers that matter and pieces of the body. Pure.

The parser (llhttp) refuses what can be read in two ways, but has no bounds of its own: here heads, interim
responses, and what lies around a body are bounded. Bodies are not: who takes the pieces counts them. The
invariant: `feed` raises `BadResponse` and nothing else, and takes nothing more once the response is whole.
"""

from __future__ import annotations

import httptools

HEAD_BYTES = 65_536  # servers send hundreds of bytes; one read of the socket may come on top
FRAMING = 16  # bytes on the wire for each byte of a body, above HEAD_BYTES; chunks of one byte take six
MAX_INTERIM = 8  # 1xx responses before the one that counts; one is usual, a flood has no end
KEPT = frozenset(
    {b"content-type", b"content-encoding", b"content-length", b"transfer-encoding", b"retry-after"}
)


class BadResponse(Exception):
    """What came is no acceptable HTTP response; the text says why, for people."""


class ResponseReader:
    """Reads one response. `pieces` are those of the body that nobody has taken yet."""

    __slots__ = (
        "_fault",
        "_framing",
        "_interim",
        "_parser",
        "begun",
        "done",
        "headers",
        "pieces",
        "reusable",
        "size",
        "status",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._framing = self._interim = 0
        self._fault = ""
        self.status = 0
        """0 until the head is whole."""
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.size = 0  # bytes of the body so far
        self.begun = self.done = False
        self.reusable = False  # whether another request may follow on the connection

    def feed(self, data: bytes) -> None:
        """Raises `BadResponse`."""
        late = self.done
        if late:
            self.reusable = False  # nobody asked for more
            return
        self.begun = True
        before = self.size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise BadResponse("it wants to speak another protocol") from None
        except httptools.HttpParserError as error:
            if not self.done:
                raise BadResponse(f"it does not speak HTTP: {error}") from None
            self.reusable = False
        self._framing += len(data) - (self.size - before)
        if self._fault:
            raise BadResponse(self._fault)
        if not self.done and self._framing > HEAD_BYTES + FRAMING * self.size:
            raise BadResponse(f"its headers, or what is around its body, are longer than {HEAD_BYTES} bytes")

    def end(self) -> bool:
        """The connection was closed: whether the response is whole by that."""
        lengthless = not {b"content-length", b"transfer-encoding"} & self.headers.keys()
        if self.status and not self.done and lengthless:
            self.done, self.reusable = True, False
        return self.done

    def take(self) -> bytes:
        """What came of the body since the last time."""
        pieces = self.pieces
        if len(pieces) == 1:
            return pieces.pop()
        taken = b"".join(pieces)
        pieces.clear()
        return taken

    # --- what the parser says

    def on_message_begin(self) -> None:
        if self.done:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if not self.status and name in KEPT:
            self.headers.setdefault(name, value)

    def on_headers_complete(self) -> None:
        if self.done:
            return
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            return
        self._interim += 1
        self.headers.clear()
        if self._interim > MAX_INTERIM:
            self._fault = f"it sends interim responses (1xx) without end: more than {MAX_INTERIM}"

    def on_body(self, piece: bytes) -> None:
        if not self.done:
            self.pieces.append(piece)
            self.size += len(piece)

    def on_message_complete(self) -> None:
        if self.status and not self.done:
            self.done = True
            self.reusable = self._parser.should_keep_alive()
