"""One request's way: admit, pick, call, and another worker where that is safe; or an error that says why.

The payload is never decoded here. A worker is tried at most once for a model. Again is only sent what
was not started, or what was lost on the way and may be repeated, within `maxRetries`, the retry budget
and the deadline. What a handler raised is the answer, not a reason to ask elsewhere. Where no worker is
left for a model, the request goes to the next one that the settings name for it, by the same rules.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from wrk_base import clock, contract, errors
from wrk_base.rpc import wire
from wrk_base.rpc.call import Reply, StreamCall
from wrk_base.rpc.calls import INFINITY
from wrk_base.rpc.client import Peer
from wrk_base.rpc.stream import FIRST_ITEMS

from .account import Account
from .admission import Admission
from .fair_queue import Wish
from .load_balancer import Lease, LoadBalancer
from .model_names import NO_OTHER_NAMES, ModelNames
from .model_queue import Waiter
from .pools import want_of
from .retry_budget import RetryBudget

MODELS_WITH_A_BUDGET = 1024  # beyond it the oldest budget starts anew
A_MOMENT = 0.05  # seconds; a caller's CANCEL comes that much before its deadline here, by rounding and jitter


class Links(Protocol):
    """What routing needs of the fleet."""

    def peer(self, worker_id: str) -> Peer | None: ...

    def note_cold(self, worker_id: str, model_id: str) -> None: ...

    def note_outcome(self, worker_id: str, error: errors.WrkError | None, elapsed: float) -> None: ...


class Asker(Protocol):
    """Who asked, and is told the one outcome; perhaps before `Router.start` has returned.

    Who does not read heads, and asks the route instead, spares it to make them.
    """

    @property
    def reads_heads(self) -> bool: ...

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None: ...

    def send_items(self, content_type: int, payloads: tuple[bytes, ...]) -> None: ...

    def end_stream(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None: ...

    def fail(self, error: BaseException) -> None: ...


class Router:
    """Routes inference over the workers that the balancer offers."""

    def __init__(
        self,
        balancer: LoadBalancer,
        links: Links,
        admission: Admission[Lease],
        *,
        max_retries: int,
        enable_failover: bool,
        budget_share: float,
        budget_floor: float,
        stream_idle: float,
        names: ModelNames = NO_OTHER_NAMES,
    ) -> None:
        self.names = names
        self.stream_idle = stream_idle
        self.balancer, self.links, self.admission = balancer, links, admission
        self.attempts_allowed = 1 + (max_retries if enable_failover else 0)
        self.loop = asyncio.get_running_loop()
        self.counters = {"routed": 0, "failed": 0, "retried": 0}
        self._budget_terms = (budget_share, budget_floor)
        self._budgets: dict[str, RetryBudget] = {}

    def start(self, question: Question, asker: Asker) -> Route:
        """Route a request; `asker` is told its outcome: some worker's answer, or a `WrkError`."""
        route = self.open(question, asker)
        route.advance()
        return route

    def open(self, question: Question, asker: Asker) -> Route:
        """The same, still to be begun by `advance`: so its asker can know it before it is told anything."""
        return Route(self, question, asker)

    async def route(self, question: Question) -> Reply:
        """The answer of some worker, with `workerId`, `routedAt` and `attempts` in its head; and `modelId`
        where another model answered than the one named."""
        awaited = _Awaited(loop=self.loop)
        route = self.start(question, awaited)
        try:
            return await awaited
        except asyncio.CancelledError:
            route.cancel(errors.Cancelled("its caller left"))
            raise

    def find(self, want: contract.FindWorker, models: tuple[str, ...] | None = None) -> tuple[str, str]:
        """The worker that a request would get now, and for which model; the caller then talks to it directly.

        `models` is that of a `Question`.
        """
        refusals: dict[str, errors.WrkError] = {}
        for model in models or self.names.chain(want.model_id):
            try:
                with self.balancer.pick(model, want.requirements, (), self.loop.time()) as lease:
                    return lease.worker.worker_id, model
            except errors.WrkError as error:
                refusals[model] = error
        raise _most_telling(refusals)

    def budget(self, model_id: str) -> RetryBudget:
        budget = self._budgets.get(model_id)
        if budget is None:
            if len(self._budgets) >= MODELS_WITH_A_BUDGET:
                del self._budgets[next(iter(self._budgets))]
            budget = self._budgets[model_id] = RetryBudget(*self._budget_terms)
        return budget


@dataclass(slots=True)
class Question:
    """One request, to be forwarded as it is packed. `deadline` is in the loop's time.

    `flags` are those of its envelope: whether a stream is wanted, and whether the deadline is for all of it
    or for its first item. `caller` is whose share of the queue it takes, `prompt` what prefixes are compared
    of: the bytes that the model reads, as they came. `models` may answer it, in this order; None: those that
    the settings name. `hints` are capabilities that it seems to need: they bind where workers tell them.
    """

    head: contract.InferenceHead
    packed_head: bytes | None
    content_type: int
    payload: wire.Payload
    deadline: float
    flags: int = 0
    caller: str = ""
    prompt: wire.Payload = b""
    models: tuple[str, ...] | None = None
    hints: tuple[str, ...] = ()


class Route:
    """A request under way: one attempt after the other until its asker was told an outcome.

    `_tried` are workers that were tried for the model of the moment, `_earlier` those for models before it;
    `_pardoned` had it not loaded then and may be tried again; `waited` is how many seconds it was in queues.
    """

    __slots__ = (
        "_account",
        "_affinity",
        "_asker",
        "_attempt",
        "_earlier",
        "_last",
        "_later",
        "_model",
        "_needs",
        "_packed_head",
        "_pardoned",
        "_place",
        "_question",
        "_refusals",
        "_router",
        "_tried",
        "waited",
    )

    def __init__(self, router: Router, question: Question, asker: Asker) -> None:
        self._router, self._question, self._asker = router, question, asker
        self._affinity = router.balancer.affinity(question.head.options.session_id or "", question.prompt)
        self._earlier: tuple[str, ...] = ()
        self._refusals: dict[str, errors.WrkError] = {}
        self._last: errors.WrkError | None = None
        self._attempt: Attempt | None = None
        self._place: Waiter[Lease] | None = None
        self.waited = 0.0
        self._account: Account | None = None
        if question.head.options.explain:
            self._account = Account(router.balancer.strategy, router.loop.time())
        self._turn_to(question.models or router.names.chain(question.head.model_id))

    def _turn_to(self, models: tuple[str, ...]) -> None:
        """From now on it is a request for the first of these; the others may answer in its place."""
        question, head = self._question, self._question.head
        self._tried: list[str] = []
        self._pardoned: tuple[str, ...] = ()
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
        try:
            lease = self._router.admission.admit(self._model, self)
        except errors.WrkError as error:
            self._nobody(error)
            return
        if lease is not None:
            self._send(lease)

    def cancel(self, verdict: errors.WrkError) -> None:
        """Stop it, all the way to the worker; its asker is told the verdict."""
        if self._place is not None:
            self._router.admission.leave(self._place)
            self._place = None
            self._asker.fail(verdict)
        elif self._attempt is not None:
            self._attempt.cancel()
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

    # What becomes of it.

    def _nobody(self, refusal: errors.WrkError) -> None:
        self._refusals[self._model] = refusal
        if self._later and self.now < self._question.deadline - A_MOMENT:
            self._earlier += tuple(self._tried)
            self._turn_to(self._later)
            self.advance()
            return
        refusal = _most_telling(self._refusals)
        self._router.counters["failed"] += 1
        last = self._last
        if last is None or _not_loaded(last):
            refusal.not_started = True
            if self._account is not None:
                refusal.data = {**refusal.data, "explain": self.explained}
            if self.tried:
                refusal.data = {**refusal.data, **self._facts()}
            self._asker.fail(refusal)
            return
        # Nobody is left: what the last one said tells more than that there are no more.
        last.data = {**last.data, **self._facts(), "left": refusal.message}
        self._asker.fail(last)

    def _send(self, lease: Lease) -> None:
        router, question = self._router, self._question
        now = router.loop.time()
        if self._last is None:  # not before: callers make up names, and none but served models get a budget
            router.budget(self._model).note_request(now)
        worker_id = lease.worker.worker_id
        self._tried.append(worker_id)
        if self._pardoned:
            self._pardoned = tuple(other for other in self._pardoned if other != worker_id)
        if self._account is not None:
            self._account.sent(worker_id, self._model, now)
        attempt = self._attempt = Attempt(self, lease, now)
        peer = router.links.peer(worker_id)
        try:
            if peer is None or not peer.ready:
                raise errors.Unavailable(f"the link to {worker_id} is down", not_started=True)
            attempt.peer = peer
            peer.start(
                attempt,
                question.deadline,
                (
                    "runInference",
                    question.flags,
                    self._packed_head,
                    question.content_type,
                    question.payload,
                ),
            )
        except errors.WrkError as error:
            attempt.failed(error)

    @property
    def tried(self) -> list[str]:
        """The workers that it was sent to, the last one last."""
        return [*self._earlier, *self._tried] if self._earlier else self._tried

    @property
    def other_model(self) -> str:
        """The model that it goes to in the place of the one named; empty while it is that one."""
        return "" if self._model == self._question.head.model_id else self._model

    def grant(self, items: int, size: int) -> None:
        """Its reader takes so many items in all: exactly that is granted to the worker."""
        if self._attempt is not None:
            self._attempt.grant(items, size)

    def forward(self, content_type: int, payloads: tuple[bytes, ...]) -> None:
        self._asker.send_items(content_type, payloads)

    def won(self, lease: Lease, content_type: int, payload: wire.Payload) -> None:
        self._note_won()
        asker = self._asker
        head = wire.pack_head(self._won(lease)) if asker.reads_heads else None
        asker.answer(head, content_type, payload)

    def won_stream(self, lease: Lease, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self._note_won()
        asker = self._asker
        told = wire.pack_head({**_facts_of(head), **self._won(lease)}) if asker.reads_heads else None
        asker.end_stream(told, content_type, payload)

    def _note_won(self) -> None:
        self._attempt = None
        self._router.counters["routed"] += 1

    def _won(self, lease: Lease) -> dict[str, Any]:
        facts = _routed(lease.worker.worker_id, len(self.tried))
        if self._account is not None:
            facts["explain"] = self.explained
        return {**facts, "modelId": self._model} if self.other_model else facts

    def lost(self, error: errors.WrkError, items: int) -> None:
        """An attempt failed: another worker where that is safe, else the error is the outcome."""
        self._attempt = None
        again = not items and self._may_try_again(error)
        # An attempt that never started does not take back one that may have.
        error.not_started = error.not_started and (self._last is None or self._last.not_started)
        self._last = error
        if again:
            self._router.counters["retried"] += 1
            self.advance()
            return
        self._router.counters["failed"] += 1
        error.data = {**error.data, **self._facts()}
        self._asker.fail(error)

    @property
    def deadline(self) -> float:
        return self._question.deadline

    @property
    def now(self) -> float:
        return self._router.loop.time()

    def until(self, *, idle: bool) -> float:
        """The deadline of a stream that has begun."""
        total = self._question.deadline if self._question.flags & wire.WHOLE else INFINITY
        return min(total, self.now + self._router.stream_idle) if idle else total

    def _may_try_again(self, error: errors.WrkError) -> bool:
        router, head = self._router, self._question.head
        if len(self.tried) >= router.attempts_allowed or router.loop.time() >= self._question.deadline:
            return False
        if _not_loaded(error):  # it did no work, and nobody is asked blindly: no storm to guard against
            return True
        lost = isinstance(error, errors.Unavailable) and head.options.repeatable
        if not (error.not_started or lost) or isinstance(error, errors.DeadlineExceeded | errors.BadRequest):
            return False
        return router.budget(self._model).spend(router.loop.time())

    def _facts(self) -> dict[str, Any]:
        facts = {"attempts": len(self.tried), "workers": list(self.tried)}
        return facts if self._account is None else {**facts, "explain": self.explained}

    @property
    def explained(self) -> dict[str, Any] | None:
        """Who was looked at, where it waited and went, if its caller wants to know."""
        return None if self._account is None else self._account.told(self.waited)

    def settle(
        self, lease: Lease, error: errors.WrkError | None, started: float, first_at: float = 0.0
    ) -> None:
        """Give the lease back with its outcome, and say who may use the slot and what was learnt.

        Of a stream the time to the first item counts: the rest is as long as the answer.
        """
        router = self._router
        now = router.loop.time()
        if self._account is not None:
            self._account.ended("ok" if error is None else error.name, now)
        lease.done(ok=error is None, now=now, elapsed_s=(first_at or now) - started)
        router.links.note_outcome(lease.worker.worker_id, error, now - started)
        if error is not None and _not_loaded(error):
            self._pardoned = (*self._pardoned, lease.worker.worker_id)
            router.links.note_cold(lease.worker.worker_id, self._model)
        router.admission.wake(lease.worker.worker_id)

    def give_back(self, lease: Lease, started: float) -> None:
        """The same for a call that was cancelled: of it nothing is learnt, unless it was at its deadline."""
        if self._router.loop.time() >= self._question.deadline - A_MOMENT:
            self.settle(lease, errors.DeadlineExceeded(), started)
        else:
            lease.release()
            self._router.admission.wake(lease.worker.worker_id)


class Attempt(StreamCall):
    """One call of one worker, and the lease on it."""

    __slots__ = ("_first_at", "_granted", "_lease", "_route", "_started", "peer")

    def __init__(self, route: Route, lease: Lease, started: float) -> None:
        super().__init__()
        self.until = route.deadline
        self._route, self._lease, self._started = route, lease, started
        self._granted = FIRST_ITEMS
        self._first_at = 0.0
        self.peer: Peer | None = None

    def answered(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self._route.settle(self._lease, None, self._started)
        self._route.won(self._lease, content_type, payload)

    def items(self, first: int, content_type: int, payloads: tuple[bytes, ...]) -> bool:
        count = len(payloads)
        if first != self.received or first + count > self._granted:
            return False
        self.received += count
        if not first:
            self._first_at = self._route.now
        self._wait_for_more()
        self._route.forward(content_type, payloads)
        return True

    def ended(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self._route.settle(self._lease, None, self._started, self._first_at)
        self._route.won_stream(self._lease, head, content_type, payload)

    def failed(self, error: errors.WrkError) -> None:
        if self.received:
            error.data = {**error.data, "items": self.received}
        self._route.settle(self._lease, error, self._started, self._first_at)
        self._route.lost(error, self.received)

    def grant(self, items: int, size: int) -> None:
        self._granted = max(self._granted, items)
        if self.peer is not None:
            self.peer.grant(self, items, size)
            if self.received:
                self._wait_for_more()

    def cancel(self) -> None:
        if self.peer is not None:
            self.peer.give_up(self)
        self._route.give_back(self._lease, self._started)

    def _wait_for_more(self) -> None:
        """A worker that may send and does not is waited for; one whose reader is slow is not to blame."""
        assert self.peer is not None
        idle = self.received < self._granted
        self.peer.expect(self, self._route.until(idle=idle))


class _Awaited(asyncio.Future[Reply]):
    """An asker that awaits one answer, and no stream."""

    reads_heads = True

    def send_items(self, content_type: int, payloads: tuple[bytes, ...]) -> None:
        raise AssertionError("no stream was asked for")

    def end_stream(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        raise AssertionError("no stream was asked for")

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        if not self.done():
            self.set_result(Reply(head, content_type, payload))

    def fail(self, error: BaseException) -> None:
        if not self.done():
            self.set_exception(error)


def _not_loaded(error: errors.WrkError) -> bool:
    return error.not_started and isinstance(error, errors.ModelNotAvailable)


def simulated(question: Question, worker_id: str) -> Reply:
    """An answer without any rack, for trying a client out; it says what it is."""
    head = question.head
    result = {
        "simulated": True,
        "modelId": head.model_id,
        "task": head.options.task,
        "inputBytes": len(question.payload),
        "text": f"simulated answer of {head.model_id}",
    }
    facts = {"simulated": True, **_routed(worker_id, 0)}
    return Reply(wire.pack_head(facts), wire.MSGPACK, wire.pack_body(result))


def _most_telling(refusals: dict[str, errors.WrkError]) -> errors.WrkError:
    """Of why each model in turn could not answer the first, or the first of a model that was ever seen."""
    told = list(refusals.values())
    refusal = next((error for error in told if error.data.get("modelSeen") is not False), told[0])
    if len(told) > 1:
        reasons = {model: error.message for model, error in refusals.items()}
        refusal.data = {**refusal.data, "tried": reasons}
    return refusal


def _facts_of(head: bytes | None) -> dict[str, Any]:
    """What the worker said at the end of its stream; what cannot be read is left out."""
    try:
        return wire.unpack_head(head)
    except ValueError:
        return {}


def _routed(worker_id: str, attempts: int) -> dict[str, Any]:
    return {"success": True, "workerId": worker_id, "routedAt": clock.wall_ms(), "attempts": attempts}
