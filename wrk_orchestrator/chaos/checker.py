"""The judge of histories: whether every request got its one answer, and nobody did what was not asked. Pure.

    check(events) == []

Each rule is one function over a `Book`; the table of them is the list of what is promised. It looks at what
was written down and at nothing else, so that a simulation, real processes and a game day are judged alike.
What a run has to be to prove anything is another question: see `validity.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .book import ROUTABLE, Book, Execution, Request
from .history import OK, UNSAID, Answered, Event, StateChanged

MAYBE_OPEN = ROUTABLE | {UNSAID}
VERDICTS = frozenset({"quarantined", "gone"})
RELEASED = "release"  # in the cause of a change: an operator's word ends a quarantine


class Violation(NamedTuple):
    """One promise that was broken; `about` is a request, a worker or who was counted."""

    kind: str
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.about}: {self.text}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a run allows. Seconds.

    `allowed` are errors that its callers may be told; None: any. `orchestrators` is how many a caller may
    have asked, each of which allows `attempts`. `queue` bounds what may wait, `grown` how a table may grow.
    """

    slack: float = 0.1
    allowed: frozenset[str] | None = frozenset()
    orchestrators: int = 1
    attempts: int = 4
    route_slack: float = 0.5
    cancel_slack: float = 2.0
    early_slack: float = 0.05
    verdict_slack: float = 10.0
    queue: int | None = None
    grown: int = 5
    exit_within: float = 10.0


def check(events: Iterable[Event], rules: Rules | None = None) -> list[Violation]:
    """Every violation, in the order of the rules."""
    book, rules = Book(events), rules or Rules()
    return [violation for rule in RULES for violation in rule(book, rules)]


def _one_answer(book: Book, rules: Rules) -> Iterator[Violation]:
    for request in book.requests.values():
        if request.sent is None:
            yield Violation("unasked", request.id, "nobody sent this request")
        elif not request.answers and request.left is None:
            yield Violation("lost", request.id, f"sent at {request.sent.at:.3f} and never answered")
        elif len(request.answers) > 1:
            told = ", ".join(f"{answer.outcome} at {answer.at:.3f}" for answer in request.answers)
            yield Violation("twice", request.id, f"answered {len(request.answers)} times: {told}")


def _in_time(book: Book, rules: Rules) -> Iterator[Violation]:
    for request, answer in _answers(book):
        assert request.sent is not None
        late = answer.at - request.sent.deadline
        if late > rules.slack:
            yield Violation("late", request.id, f"{answer.outcome}, {late * 1000:.0f} ms behind its deadline")


def _its_own_answer(book: Book, rules: Rules) -> Iterator[Violation]:
    for request, answer in _answers(book):
        assert request.sent is not None
        expected = request.sent.expects
        if answer.outcome == OK and expected and answer.digest != expected:
            yield Violation("swapped", request.id, f"{answer.digest} from {answer.worker}, not {expected}")


def _whole_streams(book: Book, rules: Rules) -> Iterator[Violation]:
    for request, answer in _answers(book):
        numbers = answer.numbers
        if numbers is None:
            continue
        astray = next((at for at, number in enumerate(numbers) if number != at), None)
        if astray is not None:
            yield Violation("gap", request.id, f"item {numbers[astray]} came as the {astray}th")
        if answer.items is not None and answer.items != len(numbers):
            yield Violation("gap", request.id, f"told {answer.items} items, and {len(numbers)} came")


def _no_errors(book: Book, rules: Rules) -> Iterator[Violation]:
    for request, answer in _answers(book):
        if answer.outcome != OK and rules.allowed is not None and answer.outcome not in rules.allowed:
            yield Violation("error", request.id, f"{answer.outcome} at {answer.at:.3f}")


def _executed_once(book: Book, rules: Rules) -> Iterator[Violation]:
    for request in book.requests.values():
        count = len(request.executions)
        if request.sent is not None and not request.sent.repeatable and count > 1:
            yield Violation("doubled", request.id, f"not repeatable, and begun {count} times")
        elif count > (most := _attempts(request, rules)):
            yield Violation("doubled", request.id, f"begun {count} times in at most {most} attempts")


def _attempts(request: Request, rules: Rules) -> int:
    told = max((answer.attempts for answer in request.answers), default=0)
    return (told or rules.attempts) + (rules.orchestrators - 1) * rules.attempts


def _made_by_somebody(book: Book, rules: Rules) -> Iterator[Violation]:
    """A good answer was made by an execution that ended well, on the worker that it names."""
    if not any(request.executions for request in book.requests.values()):
        return  # its racks wrote nothing down
    for request, answer in _answers(book):
        if answer.outcome != OK:
            continue
        ends = [run.ended for run in request.executions if run.ended is not None and run.ended.outcome == OK]
        if answer.worker:
            ends = [end for end in ends if end.worker == answer.worker]
        if not any(end.at <= answer.at + rules.slack for end in ends):
            yield Violation("swallowed", request.id, f"{_told(request)}, and yet it was answered ok")


def _told(request: Request) -> str:
    if not request.executions:
        return "nobody ran it"
    ends = (f"{r.began.worker} {r.ended.outcome if r.ended else 'never ended'}" for r in request.executions)
    return f"its executions: {', '.join(ends)}"


def _routed_to_the_fit(book: Book, rules: Rules) -> Iterator[Violation]:
    """Nobody begins what was asked after every orchestrator had taken it out of routing."""
    closed = {worker: _closed(book, worker) for worker in {worker for worker, _ in book.states}}
    for request in book.requests.values():
        if request.sent is None:
            continue
        for run in request.executions:
            for since, until, state in closed.get(run.began.worker, ()):
                if since + rules.route_slack < request.sent.at and run.began.at < until:
                    text = f"begun on {run.began.worker}, which was {state} since {since:.3f}"
                    yield Violation("misrouted", request.id, text)


def _closed(book: Book, worker: str) -> list[tuple[float, float, str]]:
    """When no orchestrator gave it work: (since, until, the state that closed it)."""
    changes = [change for (name, _), told in book.states.items() if name == worker for change in told]
    views = {change.orchestrator: "healthy" for change in changes}
    spans, since = list[tuple[float, float, str]](), float("inf")
    for change in sorted(changes, key=lambda change: change.at):
        was_open = MAYBE_OPEN & set(views.values())
        views[change.orchestrator] = change.new
        is_open = MAYBE_OPEN & set(views.values())
        if was_open and not is_open:
            since, closed_by = change.at, change.new
        elif is_open and not was_open:
            spans.append((since, change.at, closed_by))
    if not MAYBE_OPEN & set(views.values()):
        spans.append((since, float("inf"), closed_by))
    return spans


def _sentences_served(book: Book, rules: Rules) -> Iterator[Violation]:
    for (worker, orchestrator), changes in book.states.items():
        until = float("-inf")
        for change in changes:
            if change.new == "quarantined":
                until = max(until, change.at + change.sentence)
            elif RELEASED in change.cause:
                until = change.at
            elif change.new in ROUTABLE and change.at < until - rules.early_slack:
                yield _early(worker, orchestrator, change, until)
                until = change.at


def _early(worker: str, orchestrator: str, change: StateChanged, until: float) -> Violation:
    text = f"{change.new} by {orchestrator} {until - change.at:.2f} s before its quarantine was over"
    return Violation("readmitted", worker, text)


def _judged_by_their_deeds(book: Book, rules: Rules) -> Iterator[Violation]:
    """Nobody is put away to whom nothing was done."""
    for (worker, orchestrator), changes in book.states.items():
        for change in changes:
            if change.new in VERDICTS and not book.troubled(worker, change.at, rules.verdict_slack):
                text = f"{change.new} by {orchestrator} at {change.at:.3f}, and nothing was done to it"
                yield Violation("condemned", worker, text)


def _cancels_arrive(book: Book, rules: Rules) -> Iterator[Violation]:
    """Nothing runs on for nobody: neither when its caller is gone nor when another has answered."""
    for request in book.requests.values():
        over = request.over_at
        if over is None:
            continue
        for run in request.executions:
            if _ran_past(run, over + rules.cancel_slack, book) and _ran_past(
                run, book.calm_since(over, over + rules.cancel_slack) + rules.cancel_slack, book
            ):
                text = f"ran on {run.began.worker} though nobody waited since {over:.3f}"
                yield Violation("runaway", request.id, text)


def _ran_past(run: Execution, limit: float, book: Book) -> bool:
    if run.ended is not None:
        return run.ended.at > limit
    return book.last_at > limit and not book.died_after(run.began.worker, run.began.at)


def _nothing_left(book: Book, rules: Rules) -> Iterator[Violation]:
    """Once all is answered nothing is open, nothing waits, and no table is fuller than at the start."""
    for who, counted in book.census.items():
        last = counted[-1]
        if last.at < book.answered_at:
            continue  # it was not there at the end
        for what in ("open_calls", "leases", "queue"):
            if left := getattr(last, what):
                yield Violation("leak", who, f"{left} {what.replace('_', ' ')} left at the end")
        for table, size in last.tables.items():
            first = counted[0].tables.get(table, 0)
            if size > first + rules.grown:
                yield Violation("leak", who, f"{table} grew from {first} to {size}")


def _bounded(book: Book, rules: Rules) -> Iterator[Violation]:
    if rules.queue is None:
        return
    for who, counted in book.census.items():
        longest = max(census.queue for census in counted)
        if longest > rules.queue:
            yield Violation("unbounded", who, f"{longest} waited, where {rules.queue} may")


def _good_ends(book: Book, rules: Rules) -> Iterator[Violation]:
    """Who is asked to end does so, cleanly and soon."""
    for fault in book.faults:
        if fault.exit is not None and fault.exit != 0:
            yield Violation("exit", fault.target, f"ended with {fault.exit} when it was asked to end")
        if fault.ended_at is not None and (took := fault.ended_at - fault.at) > rules.exit_within:
            yield Violation("exit", fault.target, f"took {took:.1f} s to end")


def _answers(book: Book) -> Iterator[tuple[Request, Answered]]:
    """All that a caller was told, of what was asked."""
    for request in book.requests.values():
        if request.sent is not None:
            for answer in request.answers:
                yield request, answer


RULES: tuple[Callable[[Book, Rules], Iterator[Violation]], ...] = (
    _one_answer,
    _in_time,
    _its_own_answer,
    _whole_streams,
    _no_errors,
    _executed_once,
    _made_by_somebody,
    _routed_to_the_fit,
    _sentences_served,
    _judged_by_their_deeds,
    _cancels_arrive,
    _nothing_left,
    _bounded,
    _good_ends,
)
