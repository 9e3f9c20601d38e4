"""What is promised beyond what the checker of histories judges, for which one has to know what was planned.

Racks that fell silent are out of routing within seconds, an orchestrator that paused condemns nobody, errors
are those that a caller has to expect, and when all is healed everybody is back and every request is answered.
Pure but for `everybody_is_back`, which looks at the world at its moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from tests.sim.people import Ask
from tests.sim.plan import MESH_WIDE, Plan, address
from tests.sim.world import PORT, Member, World
from wrk_orchestrator.chaos.book import ROUTABLE
from wrk_orchestrator.chaos.history import OK, Answered, Began, Ended, Event, Fault, Sent, StateChanged

BACK_WITHIN = 10.0  # seconds after the last heal
A_MOMENT = 0.5
SILENT_WITHIN, DEAD_WITHIN = 4.0, 1.0  # seconds until a rack that is silent, or was killed, gets no work
PATIENT = 1.0  # seconds; who gives less may get no answer on the best of days
VERY_PATIENT = 5.0  # who gives that much does not hear of a rack that fails
PAUSE_SHOWS = 3.0  # seconds for which the effects of a pause go on arriving
QUEUED_FOR = 5.0  # seconds for which a queue may stay once it has grown
EARLIER = 10.0  # seconds for which a fault explains what comes after it

SILENT = frozenset({"freeze", "stall", "isolate", "mute", "clog"})
DOUBTED = frozenset({"suspect", "stalled", "quarantined"})
CROWDED = frozenset({"ERR_CAPACITY_EXCEEDED", "ERR_QUEUE_TIMEOUT", "ERR_DEADLINE_EXCEEDED"})
RESTARTS = frozenset({"kill", "terminate"})
TOLD = frozenset(
    {
        "ERR_UNAVAILABLE",
        "ERR_DEADLINE_EXCEEDED",
        "ERR_NO_WORKERS_AVAILABLE",
        "ERR_CAPACITY_EXCEEDED",
        "ERR_QUEUE_TIMEOUT",
    }
)
"""Errors that callers have to expect when processes and networks fail."""


def broken(plan: Plan, asks: Mapping[str, Ask], history: Iterable[Event]) -> list[str]:
    """Every promise that was not kept."""
    events = list(history)
    faults = [event for event in events if isinstance(event, Fault) and event.bit]
    states = [event for event in events if isinstance(event, StateChanged)]
    return [
        *_errors_of_other_kinds(asks, events),
        *_unanswered_in_calm(plan, asks, events),
        *_noticed_by_callers(plan, asks, events),
        *_missed_too_late(plan, faults, states),
        *_condemned_by_a_pause(plan, faults, states),
    ]


def _errors_of_other_kinds(asks: Mapping[str, Ask], events: Iterable[Event]) -> Iterator[str]:
    for event in events:
        if isinstance(event, Answered) and event.outcome != OK and event.outcome not in TOLD:
            if event.outcome == "ERR_INTERNAL" and asks[event.id].fails:
                continue
            yield f"untold: {event.id} was told {event.outcome} at {event.at:.3f}"


def _unanswered_in_calm(plan: Plan, asks: Mapping[str, Ask], events: list[Event]) -> Iterator[str]:
    calm = plan.healed + BACK_WITHIN
    sent = {event.id: event.at for event in events if isinstance(event, Sent)}
    for event in events:
        if isinstance(event, Answered) and event.outcome != OK and sent[event.id] >= calm:
            ask = asks[event.id]
            if ask.fails or ask.hangs or ask.timeout < PATIENT:
                continue
            if event.outcome not in CROWDED or not _was_crowded(plan, asks, events, event.at):
                told = f"was told {event.outcome} at {event.at:.3f}"
                yield f"calm: {event.id} {told}, healed at {plan.healed:.3f}"


def _was_crowded(plan: Plan, asks: Mapping[str, Ask], events: list[Event], at: float) -> bool:
    """Whether sentences that are served and requests that hang left less than half of all slots shortly
    before: what is asked for takes some of them, and a queue that grew meanwhile is there for a while."""
    most = sum(rack.capacity for rack in plan.racks)
    moments = (at - QUEUED_FOR * number / 20 for number in range(21))
    return any(_free_slots(plan, asks, events, moment) < most / 2 for moment in moments)


def _free_slots(plan: Plan, asks: Mapping[str, Ask], events: list[Event], at: float) -> int:
    """How many slots of racks that every orchestrator routes to held nothing that hangs."""
    room = {rack.name: rack.capacity for rack in plan.racks}
    shut, held = set[tuple[str, str]](), dict[str, str]()
    for event in events:
        if event.at > at:
            continue
        if isinstance(event, StateChanged):
            view = (event.orchestrator.partition(".")[0], event.worker)
            (shut.discard if event.new in ROUTABLE else shut.add)(view)
        elif isinstance(event, Began) and asks[event.id].hangs and event.at > at - VERY_PATIENT:
            held[event.execution] = event.worker
        elif isinstance(event, Ended):
            held.pop(event.execution, None)
    away = {worker for _, worker in shut}
    return sum(slots for name, slots in room.items() if name not in away) - sum(
        worker not in away for worker in held.values()
    )


def _noticed_by_callers(plan: Plan, asks: Mapping[str, Ask], events: list[Event]) -> Iterator[str]:
    """Where one rack of several fails at a time, nobody with some patience hears of it."""
    if not plan.gentle:
        return
    for event in events:
        if isinstance(event, Answered) and event.outcome != OK:
            ask = asks[event.id]
            lost_on_the_way = bool(event.numbers) and not plan.resumable
            if ask.fails or ask.hangs or lost_on_the_way or not ask.repeatable or ask.timeout < VERY_PATIENT:
                continue
            yield f"noticed: {event.id} was told {event.outcome} at {event.at:.3f}"


def _missed_too_late(plan: Plan, faults: list[Fault], states: list[StateChanged]) -> Iterator[str]:
    racks = {rack.name for rack in plan.racks}
    for fault in faults:
        if fault.target not in racks:
            continue
        within = SILENT_WITHIN if fault.kind in SILENT else DEAD_WITHIN if fault.kind == "kill" else 0.0
        until = fault.at + within
        if not within or (fault.kind != "kill" and fault.until < until):
            continue
        others = [other for other in faults if other is not fault]
        if fault.kind == "kill":
            muddled = _touched(plan, others, fault.target, fault.at - EARLIER, until)
        else:
            muddled = _touched(plan, others, fault.target, fault.at, until, RESTARTS)
        for orchestrator in plan.orchestrators:
            if muddled or _touched(plan, others, orchestrator, fault.at - EARLIER, until):
                continue
            told = [change for change in _changes_of(orchestrator, states) if change.worker == fault.target]
            before = [change for change in told if change.at < fault.at]
            after = [change for change in told if fault.at <= change.at <= until]
            if before and before[-1].new in ROUTABLE and all(change.new in ROUTABLE for change in after):
                yield f"unnoticed: {fault.kind} of {fault.target} at {fault.at:.3f} by {orchestrator}"


def _condemned_by_a_pause(plan: Plan, faults: list[Fault], states: list[StateChanged]) -> Iterator[str]:
    for fault in faults:
        if fault.target not in plan.orchestrators or fault.kind not in ("freeze", "stall"):
            continue
        others = [other for other in faults if other is not fault]
        since, until = fault.at - EARLIER, fault.until + PAUSE_SHOWS
        if _touched(plan, others, fault.target, since, until):
            continue
        for change in _changes_of(fault.target, states):
            if not fault.at <= change.at <= until or _touched(plan, others, change.worker, since, until):
                continue
            if change.new in DOUBTED or (change.new == "gone" and change.cause == "silence"):
                what = f"{change.worker} is {change.new} to {change.orchestrator} at {change.at:.3f}"
                by = f"a {fault.kind} from {fault.at:.3f} to {fault.until:.3f}"
                yield f"condemned: {what}: {change.cause}, by {by}"


def _changes_of(orchestrator: str, states: Iterable[StateChanged]) -> list[StateChanged]:
    """By all its starts."""
    return [change for change in states if change.orchestrator.partition(".")[0] == orchestrator]


def _touched(
    plan: Plan,
    faults: Iterable[Fault],
    name: str,
    since: float,
    until: float,
    kinds: frozenset[str] | None = None,
) -> bool:
    """Whether another fault may have had a part in what became of it."""
    host_of = {rack.name: rack.host for rack in plan.racks}
    names = {name, host_of.get(name, name)}
    names |= {rack.name for rack in plan.racks if rack.host in names}
    return any(
        fault.at <= until
        and fault.until >= since
        and (fault.target in names or fault.kind in MESH_WIDE)
        and (kinds is None or fault.kind in kinds)
        for fault in faults
    )


def look_when_healed(world: World) -> None:
    world.loop.at(world.plan.healed + BACK_WITHIN, None, everybody_is_back, world)


def everybody_is_back(world: World) -> None:
    """Or will be in a moment: health looks at its clocks ten times a second."""
    world.loop.at(world.now() + A_MOMENT, None, _still_away, world, set(_away(world)))


def _still_away(world: World, before: set[str]) -> None:
    world.unseen += sorted(before & set(_away(world)))


def _away(world: World) -> Iterator[str]:
    """Whoever serves a quarantine does so by right, and who never heard of another cannot know it."""
    for orchestrator in world.of("orchestrator"):
        if orchestrator.running is None:
            yield f"away: {orchestrator.name} does not run"
            continue
        states = world.states(orchestrator)
        for rack in world.of("rack"):
            state = states.get(rack.name)
            if state in (None, "gone") and not _have_heard(orchestrator, rack):
                continue
            if state not in ROUTABLE and not world.sentenced(orchestrator, rack.name):
                yield f"away: {rack.name} is {state} to {orchestrator.name}"


def _have_heard(orchestrator: Member, rack: Member) -> bool:
    assert orchestrator.discovery is not None
    assert rack.discovery is not None
    named = {(found.worker_id, found.epoch) for found in orchestrator.discovery.known()}
    heard = {found.endpoint for found in rack.discovery.known()}
    return (rack.name, rack.epoch) in named or f"tcp://{address(orchestrator.name)}:{PORT}" in heard
