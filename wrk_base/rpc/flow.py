"""How many bytes may be under way on one link, pure: connection credit, counted by message.

ZeroMQ takes whatever it is given, and one of its messages holds up all that follow it. So each side
says how many bytes it has read (CREDIT with id 0), and the other holds back what goes beyond the
window of its reader: a peer that does not read costs a bounded amount. Chunks of large bodies keep to
a smaller window of their own, so that a small call never waits behind more than that.
"""

from __future__ import annotations

BULK_WINDOW = 1280 * 1024  # bytes of large bodies under way: half a millisecond of loopback; one of 1 MiB
# and its frame need not wait to be acknowledged
ACK_BYTES = 128 * 1024  # a reader says how far it is each time it has read so much


class Flow:
    """Both directions of one link. `window` is what the peer takes before it wants to have read."""

    __slots__ = ("_acked", "_read", "_sent", "_told", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self._sent = self._acked = self._read = self._told = 0

    @property
    def unread(self) -> int:
        """Bytes that were sent and not yet read by the peer, as far as it has said."""
        return self._sent - self._acked

    @property
    def open(self) -> bool:
        return self.unread < self.window

    @property
    def room(self) -> int:
        return self.window - self.unread

    @property
    def open_for_bulk(self) -> bool:
        return self.unread < min(BULK_WINDOW, self.window)

    def sent(self, size: int) -> None:
        self._sent += size

    def acked(self, total: int) -> bool:
        """The peer has read `total` bytes; False when it cannot have."""
        if not self._acked <= total <= self._sent:
            return False
        self._acked = total
        return True

    def read(self, size: int) -> bool:
        """So much arrived and was read; True when it is time to say so."""
        self._read += size
        return self._read - self._told >= ACK_BYTES

    def tell(self) -> int | None:
        """The total to say now, if it is time to."""
        if self._read - self._told < ACK_BYTES:
            return None
        self._told = self._read
        return self._told
