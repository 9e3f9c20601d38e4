"""What waits for one peer in one tick, and its cut into messages of bounded size.

Pure. The owner adds envelopes and large bodies and later takes the messages. `size` is an estimate
(payload plus a constant); `take` checks the real one, so no message above `max_message` is ever handed
out. Envelopes leave before chunks, and several bodies take turns: long ones behind all others, short
ones two at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from . import wire
from .flow import Flow

COALESCE_BYTES = 256 * 1024  # above it, coalescing gains nothing and one message would delay the next
COALESCE_COUNT = 32  # then the receiver starts on these while the rest is still written: a batch that
# travels as one keeps all processes but one waiting (echo with 64 in flight: 1.3 to 1.7 times the rate)

SHORT_BYTES = 4 * 1024 * 1024  # what is left of a body that is not made to wait for all others: many of
# them at once would only hold more memory at the other side (64 of 1 MiB took a third more CPU)

Message = tuple[bytes, memoryview | None]
"""The first frame, and the second of a chunk."""


class Outbox:
    """Envelopes of one peer, in order. `on_oversize` is told of an envelope that cannot travel."""

    __slots__ = ("_bodies", "_bytes", "_envelopes", "_on_oversize", "flow", "max_message")

    def __init__(
        self, max_message: int, on_oversize: Callable[[wire.Envelope, str], None], flow: Flow
    ) -> None:
        self._envelopes: list[wire.Envelope] = []
        self._bytes = 0
        self._bodies: deque[tuple[int, memoryview]] = deque()
        self.max_message = max_message
        self._on_oversize = on_oversize
        self.flow = flow

    def __bool__(self) -> bool:
        return bool(self._envelopes or self._bodies)

    @property
    def size(self) -> int:
        """About how many bytes wait, large bodies left out: they belong to whoever sends them."""
        return self._bytes

    def add(self, envelope: wire.Envelope, payload_bytes: int = 0) -> bool:
        """True when so much waits that it should leave before the tick ends."""
        self._envelopes.append(envelope)
        self._bytes += payload_bytes + wire.ENVELOPE_BYTES
        return self._bytes >= COALESCE_BYTES or len(self._envelopes) >= COALESCE_COUNT

    @property
    def body_bytes(self) -> int:
        """What waits of large bodies."""
        return sum(len(body) for _, body in self._bodies)

    def add_body(self, envelope_id: int, body: bytes | bytearray | memoryview) -> None:
        """A body in chunks, behind the envelope that announced it."""
        self._bodies.append((envelope_id, memoryview(body)))

    def drop_body(self, envelope_id: int) -> None:
        """Nobody wants the rest of it."""
        self._bodies = deque(body for body in self._bodies if body[0] != envelope_id)

    def take(self, now_ms: int) -> list[Message]:
        """What may leave now, as messages."""
        flow = self.flow
        messages: list[Message] = []
        if flow.open:
            envelopes = self._take_envelopes(flow.room)
            read = flow.tell()
            if read is not None:
                envelopes.append((wire.CREDIT, 0, 0, read, 0))
            if envelopes:
                messages += [(message, None) for message in self._cut(envelopes, now_ms)]
        else:  # what was read is said all the same, or two sides could wait for each other
            read = flow.tell()
            if read is not None:
                messages.append((wire.encode([(wire.CREDIT, 0, 0, read, 0)], now_ms), None))
        for message, _ in messages:
            flow.sent(len(message))
        if self._bodies:
            self._take_chunks(messages, now_ms)
        return messages

    def _take_envelopes(self, room: int) -> list[wire.Envelope]:
        if self._bytes <= room:
            envelopes, self._envelopes, self._bytes = self._envelopes, [], 0
            return envelopes
        # Held back before, and now only a part may go; at least one, or nothing ever would.
        count = max(1, len(self._envelopes) * room // self._bytes)
        envelopes, self._envelopes = self._envelopes[:count], self._envelopes[count:]
        self._bytes -= self._bytes * count // (count + len(self._envelopes))
        return envelopes

    def clear(self) -> None:
        self._envelopes, self._bytes = [], 0
        self._bodies.clear()

    def _take_chunks(self, messages: list[Message], now_ms: int) -> None:
        while self._bodies and self.flow.open_for_bulk:
            envelope_id, body = self._bodies.popleft()
            chunk, rest = body[: wire.CHUNK_BYTES], body[wire.CHUNK_BYTES :]
            if rest:
                place = 1 if len(rest) <= SHORT_BYTES else len(self._bodies)
                self._bodies.insert(place, (envelope_id, rest))
            flags = wire.MORE_CHUNKS if rest else 0
            first = wire.encode([(wire.CHUNK, flags, envelope_id)], now_ms)
            self.flow.sent(len(first) + len(chunk))
            messages.append((first, chunk))

    def _cut(self, envelopes: list[wire.Envelope], now_ms: int) -> list[bytes]:
        try:
            message = wire.encode(envelopes, now_ms)
            problem = f"{len(message)} bytes exceed the limit of {self.max_message} bytes a message"
            if len(message) <= self.max_message:
                return [message]
        except Exception as error:  # a value may be any object, and fail in its own way
            problem = f"it holds what msgpack cannot carry: {error}"
        if len(envelopes) == 1:
            self._on_oversize(envelopes[0], problem)
            return []
        middle = len(envelopes) // 2
        return self._cut(envelopes[:middle], now_ms) + self._cut(envelopes[middle:], now_ms)
