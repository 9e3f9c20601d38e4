"""What waits for one peer in one tick, and its cut into messages of bounded size.

Pure. The owner adds envelopes and later takes the messages. `size` is an estimate (payload plus a
constant); `take` checks the real one, so no message above `max_message` is ever handed out.
"""

from __future__ import annotations

from collections.abc import Callable

from . import wire

COALESCE_BYTES = 256 * 1024  # above it, coalescing gains nothing and one message would delay the next
COALESCE_COUNT = 32  # then the receiver starts on these while the rest is still written: a batch that
# travels as one keeps all processes but one waiting (echo with 64 in flight: 1.3 to 1.7 times the rate)


class Outbox:
    """Envelopes of one peer, in order. `on_oversize` is told of an envelope that cannot travel."""

    __slots__ = ("_bytes", "_envelopes", "_on_oversize", "max_message")

    def __init__(self, max_message: int, on_oversize: Callable[[wire.Envelope, str], None]) -> None:
        self._envelopes: list[wire.Envelope] = []
        self._bytes = 0
        self.max_message = max_message
        self._on_oversize = on_oversize

    def __len__(self) -> int:
        return len(self._envelopes)

    def add(self, envelope: wire.Envelope, payload_bytes: int = 0) -> bool:
        """True when so much waits that it should leave before the tick ends."""
        self._envelopes.append(envelope)
        self._bytes += payload_bytes + wire.ENVELOPE_BYTES
        return self._bytes >= COALESCE_BYTES or len(self._envelopes) >= COALESCE_COUNT

    def take(self, now_ms: int) -> list[bytes]:
        """Everything that waits, as messages."""
        envelopes, self._envelopes, self._bytes = self._envelopes, [], 0
        return self._cut(envelopes, now_ms) if envelopes else []

    def clear(self) -> None:
        self._envelopes, self._bytes = [], 0

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
