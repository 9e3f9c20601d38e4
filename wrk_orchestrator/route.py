"""One request's way: admit, pick, call, and another worker where that is safe; or an error that says why.

The payload is never decoded here. A worker is tried at most once for a model. Again is only sent what
was not started, or what was lost on the way and may be repeated, within `maxRetries`, the retry budget
and the deadline. What a handler raised is the answer, not a reason to ask elsewhere. Where no worker is
left for a model, the request goes to the next one that the settings name for it, by the same rules.

With an idempotency key, the worker that it belongs to is asked first, though it may be full: it may have the
result. That it has none, and no room, is no attempt. Such a request gets no rival: who loses would run on.

A worker that is silent is left for another one before it is given up, and a late one gets a rival. A stream
that has begun goes on elsewhere where its worker's kind can do that. The invariant: its asker is told one
outcome, items in order without gap or repeat before it, and no lease is left then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from wrk_base import contract, errors
from wrk_base.rpc import wire
from wrk_base.rpc.calls import INFINITY
from wrk_base.rpc.stream import FIRST_BYTES, FIRST_ITEMS

from .account import Account
from .attempt import Attempt
from .fair_queue import Wish
from .hedges import Watch
from .kept_items import KeptItems
from .load_balancer import Lease
from .model_queue import Waiter
from .pools import want_of
from .question import Asker, Question
from .telling import facts_of, load_told, most_telling, not_loaded, routed

if TYPE_CHECKING:
    from .routing import Router

FIRST_GRANT = (FIRST_ITEMS, FIRST_BYTES)
BY_KEY = "idempotency-key"  # what goes before every strategy
LONG = wire.MAX_REMAINING_MS / 1000
MOST_TURNED_AWAY = 100  # times that workers were full of others' requests; then it counts as tried
A_MOMENT = 0.05  # seconds; a caller's CANCEL comes that much before its deadline here, by rounding and jitter


class Route:
    """A request under way, until its asker was told an outcome. At most two attempts are open at a time.

    `_attempt` is the one that is waited for, `_rival` a second one while neither has given a sign. `_tried`
    are workers that were tried for the model of the moment, `_earlier` those for models before it;
    `_pardoned` had it not loaded then and may be tried again. `_kept` is what was delivered of a stream that
    could move, `_granted` what its caller takes of it in all. `deadline` is for what is waited for now,
    `all_by` for all of a stream. `waited` is how many seconds it was in queues, `worker` who answers as far
    as one can tell, `idempotency` what that said of a request with a key (contract.py).
    """

    __slots__ = (
        "_account",
        "_affinity",
        "_asker",
        "_attempt",
        "_earlier",
        "_granted",
        "_inquired",
        "_inquiring",
        "_kept",
        "_key",
        "_last",
        "_later",
        "_may_have_run",
        "_model",
        "_needs",
        "_packed_head",
        "_pardoned",
        "_place",
        "_question",
        "_refusals",
        "_rival",
        "_router",
        "_tried",
        "_turned_away",
        "_watch",
        "all_by",
        "deadline",
        "idempotency",
        "waited",
        "worker",
    )

    def __init__(self, router: Router, question: Question, asker: Asker) -> None:
        self._router, self._question, self._asker = router, question, asker
        options = question.head.options
        self._key = options.idempotency_key
        self._affinity = router.balancer.affinity(options.session_id or "", question.prompt, self._key)
        self._inquiring = False
        self.idempotency = ""
        self._earlier: tuple[str, ...] = ()
        self._refusals: dict[str, errors.WrkError] = {}
        self._last: errors.WrkError | None = None
        self._attempt: Attempt | None = None
        self._rival: Attempt | None = None
        self._watch: Watch | None = None
        self._kept: KeptItems | None = None
        self._place: Waiter[Lease] | None = None
        self._may_have_run = False
        self._turned_away = 0
        self._granted = FIRST_GRANT
        self.deadline = question.deadline
        self.all_by = question.deadline if question.flags & wire.WHOLE else INFINITY
        self.waited = 0.0
        self.worker = ""
        self._account: Account | None = None
        if options.explain:
            strategy = router.balancer.strategy if self._key is None else BY_KEY
            self._account = Account(strategy, router.loop.time())
        self._turn_to(question.models or router.names.chain(question.head.model_id))

    def _turn_to(self, models: tuple[str, ...]) -> None:
        """From now on it is a request for the first of these; the others may answer in its place."""
        question, head = self._question, self._question.head
        self._tried: list[str] = []
        self._pardoned: tuple[str, ...] = ()
        self._inquired = False
        model, self._later = models[0], models[1:]
        self._model, self._packed_head = model, question.packed_head
        if model != head.model_id:
            self._packed_head = contract.with_model(question.packed_head, model)
        self._needs = head.options.requirements
        if question.hints:
            self._needs = self._router.balancer.narrowed(model, self._needs, question.hints)

    def advance(self) -> None:
        """Send it to a worker that was not tried yet, or have it wait for one."""
        if self._account is not None:
            self._look(self._account)
        if self._key is not None and not self._inquired and self._inquire():
            return
        try:
            lease = self._router.admission.admit(self._model, self)
        except errors.WrkError as error:
            self._nobody(error)
            return
        if lease is not None:
            self._send(lease)

    def _inquire(self) -> bool:
        """Whether the worker that its key belongs to is asked although it is full. Once for a model."""
        self._inquired = True
        balancer = self._router.balancer
        lease = balancer.pick_full(self._model, self._needs, self._tried, self.now, self._affinity)
        if lease is None:
            return False
        self._inquiring = True
        self._send(lease)
        return True

    def cancel(self, verdict: errors.WrkError) -> None:
        """Stop it, all the way to the worker; its asker is told the verdict."""
        if self._place is not None:
            self._router.admission.leave(self._place)
            self._place = None
        elif self._attempt is None:
            return
        open_ones = (self._attempt, self._rival)
        self._close()
        for attempt in open_ones:
            if attempt is not None:
                self._give_up(attempt)
        self._asker.fail(verdict)

    def _look(self, account: Account) -> None:
        now = self.now
        seen = self._router.balancer.explain(self._model, self._needs, self._tried, now, self._affinity)
        account.looked(self._model, seen, now)

    # What admission asks, and tells.

    @property
    def caller(self) -> str:
        return self._question.caller

    @property
    def priority(self) -> str:
        return self._question.head.options.priority

    def pick(self) -> Lease:
        router = self._router
        time, avoided = router.loop.time(), self._avoided() if self._pardoned else self._tried
        return router.balancer.pick(self._model, self._needs, avoided, time, self._affinity)

    def wish(self) -> Wish:
        return Wish(want_of(self._model, self._needs), frozenset(self._avoided()))

    def _avoided(self) -> list[str]:
        return [worker_id for worker_id in self._tried if worker_id not in self._pardoned]

    def queued(self, waiter: Waiter[Lease]) -> None:
        self._place = waiter

    def granted(self, lease: Lease, waited: float) -> None:
        self._place = None
        self.waited += waited
        self._send(lease)

    def refused(self, error: errors.WrkError, waited: float) -> None:
        self._place = None
        self.waited += waited
        self._nobody(error)

    def _nobody(self, refusal: errors.WrkError) -> None:
        self._refusals[self._model] = refusal
        if self._later and self.now < self.deadline - A_MOMENT:
            self._earlier += tuple(self._tried)
            self._turn_to(self._later)
            self.advance()
            return
        refusal = most_telling(self._refusals)
        last = self._last
        if last is None or (not_loaded(last) and not self._may_have_run):
            refusal.not_started = True
            self._fail(refusal)
        else:  # what the last one said tells more than that there are no more
            self._fail(last, left=refusal.message)

    # What is sent, and left.

    def _send(self, lease: Lease) -> None:
        router, question = self._router, self._question
        now = router.loop.time()
        worker_id = self.worker = lease.worker.worker_id
        if not (self._tried or self._earlier or self._turned_away):
            self._note_request(now)  # not before: callers make up names, and only served models get a book
        self._tried.append(worker_id)
        if self._pardoned:
            self._pardoned = tuple(other for other in self._pardoned if other != worker_id)
        if self._account is not None:
            self._account.sent(worker_id, self._model, now)
        attempt, head, by = Attempt(self, lease, now), self._packed_head, self.deadline
        if self._attempt is None:
            self._attempt = attempt
        else:
            self._rival = attempt
        if self._kept is not None:
            head = self._going_on(attempt, self._kept)
            if not attempt.is_waited_for:  # until its reader has read on
                by = min(self.all_by, now + LONG)
        peer = router.links.peer(worker_id)
        try:
            if peer is None or not peer.ready:
                raise errors.Unavailable(f"the link to {worker_id} is down", not_started=True)
            attempt.peer = peer
            peer.start(
                attempt,
                by,
                ("runInference", question.flags, head, question.content_type, question.payload),
            )
        except errors.WrkError as error:
            attempt.failed(error)

    def _note_request(self, now: float) -> None:
        router = self._router
        book = router.book(self._model)
        book.budget.note_request(now)
        if router.hedge_share:
            self._watch = book.watch(self._question.flags)
            self._watch.begin(self, now)

    def _going_on(self, attempt: Attempt, kept: KeptItems) -> bytes:
        """The head for a worker that goes on with the stream."""
        progress = kept.progress(*self._granted)
        attempt.go_on_from(kept.count, kept.size, progress.granted_items)
        return contract.with_progress(self._packed_head, progress)

    def hedge(self) -> None:
        """It waits longer than nearly all: a second worker is asked, too, if there is room to spare."""
        router, self._watch = self._router, None
        first = self._attempt
        if first is None or self._rival is not None or first.delivered or self._key is not None:
            return
        if not self._may_run_twice():
            return
        if not router.balancer.has_spare(want_of(self._model, self._needs)):
            return
        lease = self._another()
        if lease is None:
            return
        book = router.book(self._model)
        if not (book.watch(self._question.flags).patience.spend() and book.budget.spend(self.now)):
            lease.release()
            return
        router.counters["hedged"] += 1
        self._send(lease)

    def leave(self, attempt: Attempt) -> None:
        """The worker of this attempt is silent: go on without it, if that can be at once."""
        if self._rival is not None:
            self._drop(attempt)
            return
        begun = attempt.delivered > 0
        if begun:
            if not (attempt.is_waited_for and self._can_go_on()):
                return
            self._seek_successor(attempt)
        elif not self._may_run_twice():
            return
        lease = self._another()
        if lease is None:
            return
        if not self._spend(begun):
            lease.release()
            return
        self._router.counters["moved"] += 1
        self._drop(attempt)
        self._send(lease)

    def _another(self) -> Lease | None:
        """A worker that is free now."""
        try:
            return self._router.balancer.pick(self._model, self._needs, self._tried, self.now, self._affinity)
        except errors.WrkError:
            return None

    def _drop(self, attempt: Attempt) -> None:
        """Nobody waits for this attempt any more; what its worker did is not known."""
        if attempt is self._attempt:
            self._attempt = self._rival
        self._rival = None
        self._inquiring = False
        if self._attempt is not None:
            self.worker = self._attempt.worker_id
        self._may_have_run = True
        self._leave_watch()
        self._give_up(attempt)

    def _may_run_twice(self) -> bool:
        return self._question.head.options.repeatable and self._has_attempts_left()

    def _has_attempts_left(self) -> bool:
        until = self.deadline if self._kept is None else self.all_by
        return len(self.tried) < self._router.attempts_allowed and self.now < until

    def _can_go_on(self) -> bool:
        """Whether a stream that has begun could move."""
        return self._kept is not None and self._kept.complete and self._has_attempts_left()

    def _seek_successor(self, attempt: Attempt) -> None:
        """From now on it is a request for one who can go on with this worker's stream."""
        self._needs = replace(self._needs, resumes=attempt.lease.worker.type)
        self._later = ()
        self.deadline = self.until(idle=True)

    def _spend(self, begun: bool) -> bool:
        """A stream that has begun brings no more load than its worker had: it is counted, not refused."""
        budget, now = self._router.book(self._model).budget, self.now
        if begun:
            budget.overdraw(now)
            return True
        return budget.spend(now)

    # What its attempts tell.

    def begins(self, attempt: Attempt, content_type: int) -> bool:
        """Its first item is here; False when it does not follow what was delivered."""
        kept, worker = self._kept, attempt.lease.worker
        if kept is not None and not kept.fits(content_type):
            return False
        attempt.first_at = now = self.now
        self._lead(attempt, now)
        if kept is None and worker.resumable and worker.type and self._question.head.options.repeatable:
            router = self._router
            self._kept = KeptItems(router.resume_bytes, router.kept) if router.resume_bytes else None
        return True

    def forward(self, content_type: int, payloads: tuple[bytes, ...]) -> None:
        if self._kept is not None:
            self._kept.add(content_type, payloads)
        self._asker.send_items(content_type, payloads)

    def answered(
        self, attempt: Attempt, head: bytes | None, content_type: int, payload: wire.Payload
    ) -> None:
        now = self._router.loop.time()
        self._lead(attempt, now)
        self._settle(attempt, None, now)
        self._note_won(head)
        asker = self._asker
        told = wire.pack_head(self._won()) if asker.reads_heads else None
        asker.answer(told, content_type, payload)

    def ended(self, attempt: Attempt, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        now = self._router.loop.time()
        self._lead(attempt, now)
        self._settle(attempt, None, now)
        self._note_won(head)
        asker = self._asker
        told = wire.pack_head({**facts_of(head), **self._won()}) if asker.reads_heads else None
        asker.end_stream(told, content_type, payload)

    def failed(self, attempt: Attempt, error: errors.WrkError) -> None:
        """Another worker where that is safe, else the error is the outcome; unless a rival still tries."""
        self._settle(attempt, error, self.now)
        # An attempt that never started does not take back one that may have.
        self._may_have_run = self._may_have_run or not error.not_started
        self._leave_watch()
        if self._rival is not None:
            self._attempt = self._rival if attempt is self._attempt else self._attempt
            self._rival = None
            self.worker = self._attempt.worker_id if self._attempt is not None else ""
            return
        self._attempt = None
        if self._inquiring:
            self._inquiring = False
            if error.not_started and isinstance(error, errors.CapacityExceeded):
                self._tried.pop()
                self.advance()
                return
        if not attempt.received and self._may_wait_for_others(error):
            self._turned_away += 1
            self._tried.remove(attempt.worker_id)
            self.advance()
            return
        self._last = error
        begun = attempt.delivered > 0
        again = self._may_go_on(error) if begun else self._may_try_again(error)
        error.not_started = not self._may_have_run
        if not again:
            self._fail(error)
            return
        self._router.counters["moved" if begun else "retried"] += 1
        if begun:
            self._seek_successor(attempt)
        self.advance()

    def _lead(self, attempt: Attempt, now: float) -> None:
        """This one gave the first sign: nobody else is waited for."""
        if self._watch is not None:
            self._watch.answered(self, now)
            self._watch = None
        if self._rival is not None:
            rival = self._rival if attempt is self._attempt else self._attempt
            assert rival is not None
            self._drop(rival)

    def _may_wait_for_others(self, error: errors.WrkError) -> bool:
        """The worker ran nothing, being full of what others have sent there: it was not tried, and there is
        no failure to spend the budget on. It has room again when it says so."""
        left = self._turned_away < MOST_TURNED_AWAY and self.now < self.deadline
        return left and load_told(error) is not None

    def _may_go_on(self, error: errors.WrkError) -> bool:
        return _elsewhere(error, repeatable=True) and self._can_go_on() and self._spend(begun=True)

    def _may_try_again(self, error: errors.WrkError) -> bool:
        if not self._has_attempts_left():
            return False
        if not_loaded(error):  # it did no work, and nobody is asked blindly: no storm to guard against
            return True
        return _elsewhere(error, self._question.head.options.repeatable) and self._spend(begun=False)

    def _settle(self, attempt: Attempt, error: errors.WrkError | None, now: float) -> None:
        """Give the lease back with its outcome, and say who may use the slot and what was learnt.

        Of a stream the time to the first item counts: the rest is as long as the answer.
        """
        router, lease, started = self._router, attempt.lease, attempt.started
        worker_id = lease.worker.worker_id
        if self._account is not None:
            self._account.ended(worker_id, "ok" if error is None else error.name, now)
        elapsed = (attempt.first_at or now) - started
        full = None if error is None else load_told(error)
        if full is None:
            lease.done(ok=error is None, now=now, elapsed_s=elapsed)
        else:
            lease.release()
            router.balancer.report_load(worker_id, *full, now)
        if error is None:
            router.admission.answered(self._model, elapsed)
        router.links.note_outcome(worker_id, error, now - started)
        if error is not None and not_loaded(error):
            self._pardoned = (*self._pardoned, worker_id)
            router.links.note_cold(worker_id, self._model)
        router.admission.wake(worker_id)

    def _give_up(self, attempt: Attempt) -> None:
        """The same without an outcome: of it nothing is learnt, unless it was at its deadline."""
        attempt.give_up()
        now = self.now
        if now >= attempt.deadline - A_MOMENT:
            self._settle(attempt, errors.DeadlineExceeded(), now)
            return
        if self._account is not None:
            self._account.ended(attempt.worker_id, "left", now)
        attempt.lease.release()
        self._router.admission.wake(attempt.worker_id)

    # How it ends.

    def _note_won(self, head: bytes | None) -> None:
        self._attempt = None
        if self._key is not None:
            said = facts_of(head).get(contract.IDEMPOTENCY)
            self.idempotency = said if said in contract.IDEMPOTENCY_SAYS else ""
        self._router.counters["routed"] += 1
        if self._kept is not None:
            self._kept.free()

    def _won(self) -> dict[str, Any]:
        facts = routed(self.worker, len(self.tried))
        if self.idempotency:
            facts[contract.IDEMPOTENCY] = self.idempotency
        if self._account is not None:
            facts["explain"] = self.explained
        return {**facts, "modelId": self._model} if self.other_model else facts

    def _fail(self, error: errors.WrkError, **more: Any) -> None:
        self._close()
        self._router.counters["failed"] += 1
        error.data = {**error.data, **self._facts(), **more}
        self._asker.fail(error)

    def _facts(self) -> dict[str, Any]:
        facts = {"attempts": len(self.tried), "workers": list(self.tried)} if self.tried else {}
        return facts if self._account is None else {**facts, "explain": self.explained}

    def _close(self) -> None:
        """Let go of all that knows it, and of what it keeps."""
        self._attempt = self._rival = None
        self._leave_watch()
        if self._kept is not None:
            self._kept.free()

    def _leave_watch(self) -> None:
        if self._watch is not None:
            self._watch.forget(self)
            self._watch = None

    # What may be asked of it.

    def grant(self, items: int, size: int) -> None:
        """Its reader takes so many items in all: exactly that is granted to the worker."""
        self._granted = (items, size)
        if self._attempt is not None:
            self._attempt.grant(items, size)

    @property
    def tried(self) -> list[str]:
        """The workers that it was sent to, the last one last."""
        return [*self._earlier, *self._tried] if self._earlier else self._tried

    @property
    def other_model(self) -> str:
        """The model that it goes to in the place of the one named; empty while it is that one."""
        return "" if self._model == self._question.head.model_id else self._model

    @property
    def explained(self) -> dict[str, Any] | None:
        """Who was looked at, where it waited and went, if its caller wants to know."""
        return None if self._account is None else self._account.told(self.waited)

    @property
    def now(self) -> float:
        return self._router.loop.time()

    def until(self, *, idle: bool) -> float:
        """When its next item must be there, if one is waited for."""
        return min(self.all_by, self.now + self._router.stream_idle) if idle else self.all_by


def _elsewhere(error: errors.WrkError, repeatable: bool) -> bool:
    """Whether another worker may be asked: this one did nothing, or what it did may be repeated."""
    lost = isinstance(error, errors.Unavailable) and repeatable
    return (error.not_started or lost) and not isinstance(error, errors.DeadlineExceeded | errors.BadRequest)
