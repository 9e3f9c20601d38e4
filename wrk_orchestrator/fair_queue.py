"""Who of those that wait for one model goes next. Pure.

A place belongs to a class (interactive, default, bulk) and to a caller. A class that has not been served for
so many turns stands for that number times its weight, so of turns that all three want they get about
16 : 4 : 1, and none is ever passed over for good. Within a class callers take turns, however many requests
each has waiting (round robin over callers, as deficit round robin is where all requests cost the same).

Those with the same wish stand in one line, so that a worker which fits none of a line costs one look and not
one for each who waits there. Every step is O(1) in places and callers and O(lines) in wishes, which are few.

Invariant: a place is in its caller's list, in its lane there, and its caller in the ring of that line, or in
none of them; nothing that is empty is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import count
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from .records import Want, WorkerRecord

CLASSES = ("interactive", "default", "bulk")
WEIGHTS = (16, 4, 1)
DEFAULT = CLASSES.index("default")
RANKS = {name: rank for rank, name in enumerate(CLASSES)}
MAX_LINES = 64  # callers choose requirements freely; each line costs a look, some 0.3 us, at every free slot


class Wish(NamedTuple):
    """What a place waits for: a worker that meets `want` and was not `tried` yet."""

    want: Want
    tried: frozenset[str]

    def fits(self, worker: WorkerRecord) -> bool:
        return worker.worker_id not in self.tried and self.want.met_by(worker)


class Place:
    """One place in the queue. `rank` is that of its class, `since` when it came, in seconds."""

    __slots__ = ("caller", "rank", "since", "wish")

    def __init__(self, wish: Wish, rank: int, caller: str, since: float) -> None:
        self.wish, self.rank, self.caller, self.since = wish, rank, caller, since


P = TypeVar("P", bound=Place)


class Flow(Generic[P]):
    """What one caller has waiting in one class, by arrival, and the same by wish."""

    __slots__ = ("lanes", "places", "stands")

    def __init__(self, stands: int) -> None:
        self.stands = stands  # behind all with a lower number
        self.places: OrderedDict[P, None] = OrderedDict()
        self.lanes: dict[Wish, OrderedDict[P, None]] = {}


Ring: TypeAlias = "OrderedDict[Flow[P], None]"


class Line(Generic[P]):
    """All with one wish, by class: the callers in turn, and how many of them have how many places here."""

    __slots__ = ("lengths", "rings")

    def __init__(self) -> None:
        self.rings: tuple[Ring[P], ...] = tuple(OrderedDict() for _ in CLASSES)
        self.lengths: tuple[dict[int, int], ...] = tuple({} for _ in CLASSES)

    def changed(self, rank: int, before: int, after: int) -> None:
        """A caller has `after` places here and had `before`."""
        lengths = self.lengths[rank]
        if before:
            left = lengths[before] - 1
            if left:
                lengths[before] = left
            else:
                del lengths[before]
        if after:
            lengths[after] = lengths.get(after, 0) + 1

    def before(self, rank: int, places: int) -> int:
        """How many go before the next of a caller who has `places` here, if nobody else comes.

        Each caller of the class has had as many turns by then, and each other class its share of turns.
        """
        same = sum([min(length, places + 1) * callers for length, callers in self.lengths[rank].items()])
        others = 0
        for other, lengths in enumerate(self.lengths):
            if lengths and other != rank:
                waiting = sum([length * callers for length, callers in lengths.items()])
                others += min(waiting, (same + 1) * WEIGHTS[other] // WEIGHTS[rank])
        return same + others


class FairQueue(Generic[P]):
    """Those who wait for one model. `turn` is the number of the next request that any queue will serve."""

    def __init__(self, turn: int) -> None:
        self.counts = [0] * len(CLASSES)
        self._served_at = [turn - 1] * len(CLASSES)
        self._numbers = count()
        self._flows: dict[tuple[int, str], Flow[P]] = {}
        self._lines: dict[Wish, Line[P]] = {}
        self._longest = tuple(_Lengths[P]() for _ in CLASSES)

    def __len__(self) -> int:
        return sum(self.counts)

    # Who comes and goes.

    def has(self, wish: Wish) -> bool:
        return wish in self._lines

    def takes(self, wish: Wish) -> bool:
        """Whether there is room for one more line, where it takes one."""
        return wish in self._lines or len(self._lines) < MAX_LINES

    def join(self, place: P, turn: int) -> None:
        rank = place.rank
        if not self.counts[rank]:  # it has missed nothing while it wanted nothing
            self._served_at[rank] = max(self._served_at[rank], turn - 1)
        flow = self._flows.get((rank, place.caller))
        if flow is None:
            flow = self._flows[rank, place.caller] = Flow(next(self._numbers))
        lane = flow.lanes.get(place.wish)
        if lane is None:
            lane = flow.lanes[place.wish] = OrderedDict()
            if place.wish not in self._lines:
                self._lines[place.wish] = Line()
            self._lines[place.wish].rings[rank][flow] = None
        flow.places[place] = lane[place] = None
        self._lines[place.wish].changed(rank, len(lane) - 1, len(lane))
        self._longest[rank].grew(flow)
        self.counts[rank] += 1

    def leave(self, place: P) -> None:
        """It goes, for whatever reason; its caller keeps its turn."""
        rank, wish = place.rank, place.wish
        flow = self._flows[rank, place.caller]
        lane, line = flow.lanes[wish], self._lines[wish]
        del flow.places[place], lane[place]
        line.changed(rank, len(lane) + 1, len(lane))
        self._longest[rank].shrank(flow)
        self.counts[rank] -= 1
        if not lane:
            del flow.lanes[wish], line.rings[rank][flow]
            if not any(line.rings):
                del self._lines[wish]
        if not flow.places:
            del self._flows[rank, place.caller]

    def served(self, place: P, turn: int) -> None:
        """It goes with a worker: its caller stands behind all others of the class now."""
        flow = self._flows[place.rank, place.caller]
        self.leave(place)
        self._served_at[place.rank], flow.stands = turn, next(self._numbers)
        for wish in flow.lanes:
            self._lines[wish].rings[place.rank].move_to_end(flow)

    # Who is next.

    def heads(self, worker: WorkerRecord) -> Iterator[P]:
        """The next of each class among those that the worker fits."""
        lines = [(wish, line.rings) for wish, line in self._lines.items() if wish.fits(worker)]
        for rank, waiting in enumerate(self.counts):
            firsts = [(next(iter(line[rank])), wish) for wish, line in lines if line[rank]] if waiting else ()
            if firsts:
                flow, wish = min(firsts, key=lambda first: first[0].stands)
                yield next(iter(flow.lanes[wish]))

    def claim(self, place: P, turn: int) -> int:
        """How much it is the turn of its class: comparable between all queues."""
        return (turn - self._served_at[place.rank]) * WEIGHTS[place.rank]

    def wishes(self) -> list[Wish]:
        return list(self._lines)

    def standing(self, wish: Wish) -> list[P]:
        """All that wait in one line."""
        line = self._lines.get(wish)
        rings = () if line is None else line.rings
        return [place for ring in rings for flow in ring for place in flow.lanes[wish]]

    def before(self, place: P) -> int:
        """How many of its line go before `place`, which has not joined yet."""
        line, flow = self._lines.get(place.wish), self._flows.get((place.rank, place.caller))
        if line is None:
            return 0
        lane = None if flow is None else flow.lanes.get(place.wish)
        return line.before(place.rank, len(lane) if lane is not None else 0)

    def crowding(self, place: P) -> P | None:
        """Who should go for `place` where there is no room: the newest of whoever has most waiting for its
        weight. None where that is the caller of `place` itself."""
        own = self._flows.get((place.rank, place.caller))
        most = _crowd(place.rank, 1 + (len(own.places) if own is not None else 0))
        newest = None
        for rank, lengths in enumerate(self._longest):
            flow = lengths.longest()
            if flow is not None and _crowd(rank, len(flow.places)) > most:
                most, newest = _crowd(rank, len(flow.places)), next(reversed(flow.places))
        return newest

    def oldest(self) -> float:
        """Since when the one has waited that waits longest."""
        return min(next(iter(flow.places)).since for flow in self._flows.values())


class _Lengths(Generic[P]):
    """Flows by how many places they have, so that the longest is found without a search."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: list[Ring[P]] = []

    def grew(self, flow: Flow[P]) -> None:
        length = len(flow.places)
        if length > len(self._rows):
            self._rows.append(OrderedDict())
        if length > 1:
            del self._rows[length - 2][flow]
        self._rows[length - 1][flow] = None

    def shrank(self, flow: Flow[P]) -> None:
        length = len(flow.places)
        del self._rows[length][flow]
        if length:
            self._rows[length - 1][flow] = None
        while self._rows and not self._rows[-1]:
            self._rows.pop()

    def longest(self) -> Flow[P] | None:
        return next(iter(self._rows[-1])) if self._rows else None


def _crowd(rank: int, places: int) -> int:
    return places * WEIGHTS[0] // WEIGHTS[rank]
