"""What calls cost, as their caller sees it: connecting, round trips, bytes, and what the peer says of itself.

Times are of the machine's clock, not of the loop's, which ticks in whole milliseconds under uvloop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from wrk_base import clock, errors
from wrk_base.rpc.identity import PeerInfo

from .latency import histogram, summary
from .session import Session

Clock = Callable[[], float]
"""Seconds."""


class Cost(NamedTuple):
    """Of one call. `figures` are the method's own from `getStats`, None where the peer tells none."""

    connect_ms: float
    round_trip_ms: float
    bytes_out: int
    bytes_in: int
    worker_id: str
    figures: dict[str, Any] | None

    def facts(self) -> dict[str, Any]:
        """As --json shows it."""
        return {
            "connectMs": round(self.connect_ms, 3),
            "roundTripMs": round(self.round_trip_ms, 3),
            "bytesOut": self.bytes_out,
            "bytesIn": self.bytes_in,
            "workerId": self.worker_id,
            "method": self.figures,
        }


class Pings(NamedTuple):
    """Round trips to one worker, in ms; None stands for one that did not come back."""

    who: PeerInfo
    endpoint: str
    connect_ms: float
    trips: list[float | None]

    @property
    def back(self) -> list[float]:
        return [trip for trip in self.trips if trip is not None]

    def facts(self) -> dict[str, Any]:
        """As --json shows it."""
        return {
            "workerId": self.who.worker_id,
            "role": self.who.role,
            "endpoint": self.endpoint,
            "connectMs": round(self.connect_ms, 3),
            "sent": len(self.trips),
            "received": len(self.back),
            "ms": {name: round(ms, 3) for name, ms in summary(self.back).items()},
            "histogram": [
                {"fromMs": round(low, 3), "toMs": round(high, 3), "count": count}
                for low, high, count in histogram(self.back)
            ],
            "roundTripsMs": [None if trip is None else round(trip, 3) for trip in self.trips],
        }


async def ping(session: Session, endpoint: str, count: int, interval: float, timeout: float) -> Pings:
    """Connect anew and measure `count` round trips; seconds. Raises `WrkError` if none comes back."""
    who, connect_ms = await session.connect(endpoint)

    async def one(number: int) -> None:
        await session.call(endpoint, "ping", number, timeout)

    return Pings(who, endpoint, connect_ms, await round_trips(one, count, interval, clock.monotonic))


async def round_trips(
    one: Callable[[int], Awaitable[None]], count: int, interval: float, now: Clock
) -> list[float | None]:
    """The milliseconds that each of `count` calls took, one after the other, `interval` seconds apart.

    An interrupt ends the series, not the command: what was measured until then is told. Raises the last
    `WrkError` if no call came back.
    """
    trips: list[float | None] = []
    last: errors.WrkError | None = None
    try:
        for number in range(count):
            if number:
                await asyncio.sleep(interval)
            begun = now()
            try:
                await one(number)
                trips.append((now() - begun) * 1000)
            except errors.WrkError as error:
                trips.append(None)
                last = error
    except asyncio.CancelledError:
        if all(trip is None for trip in trips):
            raise
    if last is not None and all(trip is None for trip in trips):
        raise last
    return trips


async def measured(
    session: Session, endpoint: str, method: str, body: Any, timeout: float
) -> tuple[Any, Cost]:
    """The result of one call on a link that is dialled for it, and what it cost; seconds."""
    who, connect_ms = await session.connect(endpoint)
    before, begun = session.traffic.copy(), clock.monotonic()
    result = await session.call(endpoint, method, body, timeout)
    ms, bytes_ = (clock.monotonic() - begun) * 1000, session.traffic.since(before)
    figures = await _figures(session, endpoint, method, timeout)
    return result, Cost(connect_ms, ms, bytes_.out, bytes_.into, who.worker_id, figures)


async def _figures(session: Session, endpoint: str, method: str, timeout: float) -> dict[str, Any] | None:
    """The call has its result: that its figures cannot be had does not make it fail."""
    try:
        stats = await session.call(endpoint, "getStats", {}, timeout)
        figures = stats["methods"][method]
    except (errors.WrkError, KeyError, TypeError):
        return None
    return figures if isinstance(figures, dict) else None
