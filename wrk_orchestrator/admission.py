"""The way in: a worker now, or a bounded wait for one, or a refusal.

Who finds everything full waits by model, up to `routing.queueLimit` each and `routing.queueTotal` in all;
where there is no room, whoever has most waiting gives way (fair_queue.py says who, and who is next). Who
could not be answered in time is refused at once (prospect.py). Only a full mesh makes anybody wait: that
nobody serves a model is said at once. Whoever frees a slot says so by `wake`, which hands it on in the same
call; a request that waits is an entry here and no task.

Invariants: no slot stays free beside a request that it fits; a request that was queued hears `granted` or
`refused` once, unless it leaves before, and nothing of it is kept afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from heapq import nlargest
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from wrk_base import errors

from .fair_queue import MAX_LINES, Wish
from .model_queue import Applicant, ModelQueue, Waiter, first_guess
from .prospect import AnswerTime, latest, too_late
from .records import Want, WorkerRecord
from .wait_estimate import Pace, Paces

RETURN_S = 2.0  # a rack that is started again is back by then; who waits longer is better told to come again
MODELS_TIMED = 1024  # beyond it the one that answered first is timed anew
QUEUES_SHOWN = 50

T = TypeVar("T")


class Workers(Protocol):
    """What is asked of the balancer."""

    def with_room(self, worker_id: str) -> WorkerRecord | None: ...

    def in_service(self, want: Want, tried: Collection[str] = ()) -> bool: ...

    def offered(self, want: Want, tried: Collection[str] = ()) -> bool: ...


class Loads(Protocol):
    """What is asked of who has models loaded that nobody serves (model_loader.py)."""

    def begin(self, wish: Wish, refusal: errors.WrkError) -> errors.WrkError | None: ...

    def spread(self, wish: Wish, wait: float) -> None: ...

    def seconds_left(self, model: str) -> float: ...

    def patience(self, model: str) -> float: ...


class Limits(NamedTuple):
    """`per_model` and `total` requests wait, for at most `timeout` seconds."""

    per_model: int
    total: int
    timeout: float


class Admission(Generic[T]):
    """All queues. `limits.per_model` 0 refuses at once."""

    def __init__(self, limits: Limits, workers: Workers, loads: Loads) -> None:
        self._limits, self._workers, self._loads = limits, workers, loads
        self._loop = asyncio.get_running_loop()
        self._queues: dict[str, ModelQueue[T]] = {}
        self._paces: Paces[str] = Paces()  # of whole queues
        self._line_paces: Paces[Want] = Paces()
        self._answer_times: dict[str, AnswerTime] = {}
        self._turn = 0
        self._roomy: dict[str, None] = {}
        self._waking = False
        self.waiting = 0

    # --- a request

    def admit(self, model_id: str, applicant: Applicant[T]) -> T | None:
        """What `pick` returns, or None where it waits and will be called back. Raises what refuses it."""
        queue = self._queues.get(model_id)
        refusal: errors.WrkError | None = None
        if queue is None or not queue.has(applicant.wish()):
            try:
                return applicant.pick()
            except errors.CapacityExceeded as full:
                refusal = full
            except (errors.NoWorkersAvailable, errors.NoWorkersMatch) as nobody:
                verdict = self._loads.begin(applicant.wish(), nobody)
                if verdict is not None:
                    raise verdict from None
                refusal = nobody
                refusal.retry_after_ms = round(self._loads.seconds_left(model_id) * 1000)
        try:
            if refusal is not None and not self._limits.per_model:
                raise refusal
            self._enqueue(Waiter(applicant, model_id, applicant.wish(), self._loop.time()), refusal)
        finally:
            refusal = None  # it knows this frame: together they would wait for the garbage collector
        return None

    def leave(self, waiter: Waiter[T]) -> None:
        """It does not want to wait any more; it hears nothing."""
        if waiter.timer is not None:
            self._queues[waiter.model_id].leave(waiter)
            self._forget(waiter)

    def _enqueue(self, waiter: Waiter[T], refusal: errors.WrkError | None) -> None:
        model_id, now = waiter.model_id, waiter.since
        queue = self._queues.get(model_id) or self._new_queue(model_id, refusal, now)
        pace = self._line_pace(queue, waiter.wish, refusal, now)
        until = self._until(waiter)
        self._check_prospect(queue, waiter, pace, until)
        ousted = self._make_room(queue, waiter)
        self._queues[model_id] = queue
        queue.join(waiter, self._turn + 1)
        self.waiting += 1
        waiter.timer = self._loop.call_at(until, self._late, waiter)
        waiter.applicant.queued(waiter)
        if ousted is not None:
            error = self._full(queue, "requests of others, who have fewer, go before", now)
            ousted.applicant.refused(error, now - ousted.since)
        self._loads.spread(waiter.wish, queue.pace.seconds(len(queue), now))

    def _new_queue(self, model_id: str, refusal: errors.WrkError | None, now: float) -> ModelQueue[T]:
        pace = self._paces.of(model_id, first_guess(refusal))
        _begin(pace, refusal, now)
        return ModelQueue(model_id, self._turn + 1, pace)

    def _line_pace(
        self, queue: ModelQueue[T], wish: Wish, refusal: errors.WrkError | None, now: float
    ) -> Pace:
        pace = self._line_paces.of(wish.want, first_guess(refusal))
        if not queue.has(wish):
            _begin(pace, refusal, now)
        return pace

    def _until(self, waiter: Waiter[T]) -> float:
        """When it gives up: later nobody waits, or no answer would come in time."""
        timed = self._answer_times.get(waiter.model_id)
        patience = self._limits.timeout + self._loads.patience(waiter.model_id)
        likely = 0.0 if timed is None else timed.likely
        return min(latest(waiter.since, waiter.applicant.deadline, likely), waiter.since + patience)

    def _check_prospect(self, queue: ModelQueue[T], waiter: Waiter[T], pace: Pace, until: float) -> None:
        """Raises `CapacityExceeded` for who would wait longer than it can; never for the first of a line."""
        before, now = queue.before(waiter), waiter.since
        wait = pace.measured(before + 1, now) if before else 0.0
        if wait and too_late(now, wait, until):
            left = waiter.applicant.deadline - now
            reason = f"it would wait about {wait:.3g} s, too long for an answer within {left:.3g} s"
            raise self._full(queue, reason, now)

    def answered(self, model_id: str, seconds: float) -> None:
        """An answer came, or the first item of one, so many seconds after it was asked for."""
        timed = self._answer_times.get(model_id)
        if timed is None:
            if len(self._answer_times) >= MODELS_TIMED:
                del self._answer_times[next(iter(self._answer_times))]
            timed = self._answer_times[model_id] = AnswerTime()
        timed.observe(seconds)

    def _make_room(self, queue: ModelQueue[T], waiter: Waiter[T]) -> Waiter[T] | None:
        """Who gave way, if anybody had to; raises `CapacityExceeded` where nobody does."""
        now, ousted = waiter.since, None
        if not queue.takes(waiter.wish):
            reason = f"requests with {MAX_LINES} different requirements wait, and no further ones may"
            raise self._full(queue, reason, now)
        if len(queue) >= self._limits.per_model:
            ousted = queue.crowding(waiter)
            if ousted is None:
                reason = f"{len(queue)} requests wait, all that routing.queueLimit allows"
                raise self._full(queue, reason, now)
            self.leave(ousted)
        elif self.waiting >= self._limits.total:
            reason = f"{self.waiting} requests wait for all models, as many as routing.queueTotal allows"
            raise self._full(queue, reason, now)
        return ousted

    def _full(self, queue: ModelQueue[T], reason: str, now: float) -> errors.CapacityExceeded:
        return queue.full(reason, now, self._loads.seconds_left(queue.model_id))

    def _late(self, waiter: Waiter[T]) -> None:
        queue, now = self._queues[waiter.model_id], self._loop.time()
        self.leave(waiter)
        waited = now - waiter.since
        error = queue.late(waited, now, self._loads.seconds_left(waiter.model_id))
        waiter.applicant.refused(error, waited)

    # --- slots

    def wake(self, worker_id: str) -> None:
        """This worker may have room: whoever it fits gets it, in turn, before anybody else can ask.

        A request that got a slot may fail at once and free it again; that wakes from within, and is dealt
        with by the call that is already at it.
        """
        if not self._queues:
            return
        self._roomy[worker_id] = None
        if self._waking:
            return
        self._waking = True
        try:
            while self._roomy:
                self._hand_out(self._roomy.popitem()[0])
        finally:
            self._waking = False

    def _hand_out(self, worker_id: str) -> None:
        while (worker := self._workers.with_room(worker_id)) is not None:
            waiter = self._next_for(worker)
            if waiter is None or not self._look(waiter):
                return

    def _next_for(self, worker: WorkerRecord) -> Waiter[T] | None:
        """Among all models of the worker, whoever's turn it is most."""
        turn = self._turn + 1
        best, most = None, 0
        for model_id in worker.models:
            queue = self._queues.get(model_id)
            if queue is not None:
                for waiter in queue.heads(worker):
                    claim = queue.claim(waiter, turn)
                    if claim > most:
                        best, most = waiter, claim
        return best

    def _look(self, waiter: Waiter[T]) -> bool:
        """Whether it waits no more: it has a worker, or its refusal."""
        try:
            lease = waiter.applicant.pick()
        except errors.CapacityExceeded:
            return False
        except errors.WrkError as error:
            self._refuse(waiter, error)
        else:
            self._grant(waiter, lease)
        return True

    def _grant(self, waiter: Waiter[T], lease: T) -> None:
        now = self._loop.time()
        self._turn += 1
        queue = self._queues[waiter.model_id]
        queue.served(waiter, self._turn)
        queue.pace.moved(now)
        self._line_paces.of(waiter.wish.want, first_guess(None)).moved(now)
        self._forget(waiter)
        waiter.applicant.granted(lease, now - waiter.since)

    def review(self, models: Iterable[str]) -> None:
        """Other workers serve these models than did before, or a load has ended.

        What nobody serves now is loaded again; for whom nobody is left at all is told. One that is listed
        and out of service may return in time, and is waited for, but not longer than `RETURN_S`.
        """
        for model_id in models if self._queues else ():
            queue = self._queues.get(model_id)
            if queue is not None:
                for wish in queue.wishes():
                    if not self._workers.in_service(*wish):
                        self._reconsider(queue, wish)

    def review_all(self) -> None:
        """Look at everybody who waits once more."""
        self.review(list(self._queues))

    def _reconsider(self, queue: ModelQueue[T], wish: Wish, *, patient: bool = True) -> None:
        queue.pace.pause()
        self._line_paces.of(wish.want, first_guess(None)).pause()
        for waiter in queue.standing(wish):
            if waiter.timer is None:
                continue
            try:
                self._grant(waiter, waiter.applicant.pick())
            except errors.CapacityExceeded:
                return
            except errors.WrkError as nobody:
                error = self._loads.begin(wish, nobody)
                if error is None or (patient and self._wait_for_return(queue, wish)):
                    return
                self._refuse(waiter, error)

    def _wait_for_return(self, queue: ModelQueue[T], wish: Wish) -> bool:
        """Whether a worker that is out of service may come back to this; somebody looks again then."""
        if not self._workers.offered(*wish):
            return False
        if queue.stranded is None:
            queue.stranded = self._loop.call_later(RETURN_S, self._nobody_returned, queue)
        return True

    def _nobody_returned(self, queue: ModelQueue[T]) -> None:
        queue.stranded = None
        for wish in queue.wishes():
            if not self._workers.in_service(*wish):
                self._reconsider(queue, wish, patient=False)

    # --- what is kept

    def queues(self) -> list[dict[str, Any]]:
        """The longest queues, for people."""
        now = self._loop.time()
        longest = nlargest(QUEUES_SHOWN, self._queues.values(), key=len)
        return [queue.shown(now, self._loads.seconds_left(queue.model_id)) for queue in longest]

    def _refuse(self, waiter: Waiter[T], error: errors.WrkError) -> None:
        self.leave(waiter)
        waiter.applicant.refused(error, self._loop.time() - waiter.since)

    def _forget(self, waiter: Waiter[T]) -> None:
        assert waiter.timer is not None
        waiter.timer.cancel()
        waiter.timer = None
        self.waiting -= 1
        queue = self._queues[waiter.model_id]
        if not queue:
            if queue.stranded is not None:
                queue.stranded.cancel()
            del self._queues[waiter.model_id]


def _begin(pace: Pace, refusal: errors.WrkError | None, now: float) -> None:
    """Somebody waits: for a free worker, or for one to come into service."""
    if isinstance(refusal, errors.CapacityExceeded):
        pace.begin(now)
    else:
        pace.pause()
