"""Which packets are worth reading at all, decided by a look at their first bytes. Pure.

Anybody on the network can send any number of packets, under any source address. What a process of ours
sends is small: one worker, or one question with its known answers, within one Ethernet frame; so packets
that are larger, hold more records or are about other services cost a few microseconds and end here. The
rest is read at a limited rate, some 50 us each:

- of one source address SOURCE_RATE packets a second, so that one machine in a frenzy mutes no other;
- of all together TOTAL_RATE, since addresses can be made up: a fifth of a core at worst.

What honest members send stays far below: 1,000 that start within a second send some 4,000 packets. Only a
flood of small packets that look right, from made-up addresses, above TOTAL_RATE makes a newcomer's packets
compete with it; they are repeated at every sweep, and links that are up need none of them.
"""

from __future__ import annotations

MAX_PACKET = 1472  # bytes: what one Ethernet frame carries; the library fills 1,460
MAX_RECORDS = 32  # of a response. One worker is 4 or 5, and a frame holds some three workers
MAX_QUESTIONS = 8  # of a question; ours hold one
SOURCE_RATE, SOURCE_BURST = 2000.0, 4000.0  # packets a second, and at once; half of all
TOTAL_RATE, TOTAL_BURST = 4000.0, 8000.0
MAX_SOURCES = 512  # buckets kept; whoever makes up more addresses meets TOTAL_RATE
HEADER = 12  # bytes, RFC 1035 section 4.1.1


class TokenBucket:
    """`rate` a second in the long run, `burst` at once. Time is seconds of any clock that never goes back."""

    __slots__ = ("_burst", "_rate", "_tokens", "_when")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._when = burst, float("-inf")

    def take(self, now: float) -> bool:
        if now > self._when:
            self._tokens = min(self._burst, self._tokens + (now - self._when) * self._rate)
            self._when = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Gate:
    """Lets packets pass that hold one of `marks`, within the limits above. `dropped` counts the others
    that hold one."""

    def __init__(self, marks: tuple[bytes, ...]) -> None:
        self._marks = marks
        self._total = TokenBucket(TOTAL_RATE, TOTAL_BURST)
        self._sources: dict[str, TokenBucket] = {}
        self.dropped = 0

    def admits(self, packet: bytes, source: str, now: float) -> bool:
        if not any(mark in packet for mark in self._marks):
            return False
        if is_plausible(packet) and self._bucket_of(source).take(now) and self._total.take(now):
            return True
        self.dropped += 1
        return False

    def _bucket_of(self, source: str) -> TokenBucket:
        bucket = self._sources.get(source)
        if bucket is None:
            if len(self._sources) >= MAX_SOURCES:
                del self._sources[next(iter(self._sources))]
            bucket = self._sources[source] = TokenBucket(SOURCE_RATE, SOURCE_BURST)
        return bucket


def is_plausible(packet: bytes) -> bool:
    """Whether a process of ours may have sent it, by its length and by what its header counts."""
    if not HEADER <= len(packet) <= MAX_PACKET:
        return False
    questions, *records = (int.from_bytes(packet[at : at + 2], "big") for at in (4, 6, 8, 10))
    if is_question(packet):
        return questions <= MAX_QUESTIONS
    return sum(records) <= MAX_RECORDS and not questions


def is_question(packet: bytes) -> bool:
    """By the first bit of the flags."""
    return not packet[2] & 0x80
