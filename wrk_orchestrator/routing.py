"""One request's way: admit, pick, call, and another worker where that is safe; or an error that says why.

The payload is never decoded here. A worker is tried at most once a request. Again is only sent what
was not started, or what was lost on the way and may be repeated, within `maxRetries`, the retry budget
and the deadline. What a handler raised is the answer, not a reason to ask elsewhere.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from wrk_base import clock, contract, errors
from wrk_base.rpc import wire
from wrk_base.rpc.client import Peer, Reply

from .admission import Admission
from .load_balancer import Lease, LoadBalancer
from .retry_budget import RetryBudget

MODELS_WITH_A_BUDGET = 1024  # beyond it the oldest budget starts anew
A_MOMENT = 0.05  # seconds; a caller's CANCEL comes that much before its deadline here, by rounding and jitter


class Links(Protocol):
    """What routing needs of the fleet."""

    def peer(self, worker_id: str) -> Peer | None: ...

    def note_outcome(self, worker_id: str, error: errors.WrkError | None, elapsed: float) -> None: ...


class Router:
    """Routes inference over the workers that the balancer offers."""

    def __init__(
        self,
        balancer: LoadBalancer,
        links: Links,
        admission: Admission,
        *,
        max_retries: int,
        enable_failover: bool,
        budget_share: float,
        budget_floor: float,
    ) -> None:
        self._balancer, self._links, self._admission = balancer, links, admission
        self._attempts_allowed = 1 + (max_retries if enable_failover else 0)
        self._budget_terms = (budget_share, budget_floor)
        self._budgets: dict[str, RetryBudget] = {}
        self._loop = asyncio.get_running_loop()
        self.counters = {"routed": 0, "failed": 0, "retried": 0}

    async def route(
        self,
        head: contract.InferenceHead,
        wire_head: dict[str, Any],
        payload: bytes,
        content_type: int,
        deadline: float,
    ) -> Reply:
        """The answer of some worker, with `workerId`, `routedAt` and `attempts` in its head."""
        tried: list[str] = []
        last: errors.WrkError | None = None
        while True:
            lease = await self._lease(head, tried, deadline, last)
            if last is None:  # not before: callers make up names, and none but served models get a budget
                self._budget(head.model_id).note_request(self._loop.time())
            tried.append(lease.worker.worker_id)
            try:
                return await self._attempt(lease, wire_head, payload, content_type, deadline, len(tried))
            except errors.WrkError as error:
                again = self._may_try_again(error, head, len(tried), deadline)
                # An attempt that never started does not take back one that may have.
                error.not_started = error.not_started and (last is None or last.not_started)
                last = error
                if not again:
                    self.counters["failed"] += 1
                    error.data = {**error.data, "attempts": len(tried), "workers": list(tried)}
                    raise
                self.counters["retried"] += 1
            finally:
                self._admission.wake(lease.worker.models)

    def find(self, want: contract.FindWorker) -> str:
        """The id of the worker that a request would get now; the caller then talks to it directly."""
        with self._balancer.pick(want.model_id, want.requirements, (), self._loop.time()) as lease:
            return lease.worker.worker_id

    async def _lease(
        self, head: contract.InferenceHead, tried: list[str], deadline: float, last: errors.WrkError | None
    ) -> Lease:
        requirements = head.options.requirements
        try:
            return await self._admission.admit(
                head.model_id,
                (requirements, tried),
                lambda: self._balancer.pick(head.model_id, requirements, tried, self._loop.time()),
                deadline,
            )
        except errors.WrkError as error:
            self.counters["failed"] += 1
            if last is None:
                raise
            # Nobody is left: what the last one said tells more than that there are no more.
            last.data = {**last.data, "attempts": len(tried), "workers": list(tried), "left": error.message}
            raise last from None

    async def _attempt(
        self,
        lease: Lease,
        head: dict[str, Any],
        payload: bytes,
        content_type: int,
        deadline: float,
        attempts: int,
    ) -> Reply:
        worker_id = lease.worker.worker_id
        started = self._loop.time()
        with lease:
            try:
                peer = self._links.peer(worker_id)
                if peer is None or not peer.ready:
                    raise errors.Unavailable(f"the link to {worker_id} is down", not_started=True)
                reply = await peer.call(
                    "runInference", payload, deadline=deadline, head=head, content_type=content_type
                )
            except errors.WrkError as error:
                self._note_failure(lease, error, started)
                raise
            except asyncio.CancelledError:
                if self._loop.time() >= deadline - A_MOMENT:  # its caller waited in vain, to the end
                    self._note_failure(lease, errors.DeadlineExceeded(), started)
                raise
            now = self._loop.time()
            lease.done(ok=True, now=now, elapsed_s=now - started)
        self._links.note_outcome(worker_id, None, now - started)
        self.counters["routed"] += 1
        reply.head = {
            "success": True,
            "workerId": worker_id,
            "routedAt": clock.wall_ms(),
            "attempts": attempts,
        }
        reply.extras = None
        return reply

    def _note_failure(self, lease: Lease, error: errors.WrkError, started: float) -> None:
        now = self._loop.time()
        lease.done(ok=False, now=now, elapsed_s=now - started)
        self._links.note_outcome(lease.worker.worker_id, error, now - started)

    def _may_try_again(
        self, error: errors.WrkError, head: contract.InferenceHead, attempts: int, deadline: float
    ) -> bool:
        if attempts >= self._attempts_allowed or self._loop.time() >= deadline:
            return False
        lost = isinstance(error, errors.Unavailable) and head.options.repeatable
        if not (error.not_started or lost) or isinstance(error, errors.DeadlineExceeded | errors.BadRequest):
            return False
        return self._budget(head.model_id).spend(self._loop.time())

    def _budget(self, model_id: str) -> RetryBudget:
        budget = self._budgets.get(model_id)
        if budget is None:
            if len(self._budgets) >= MODELS_WITH_A_BUDGET:
                del self._budgets[next(iter(self._budgets))]
            budget = self._budgets[model_id] = RetryBudget(*self._budget_terms)
        return budget


def simulated(head: contract.InferenceHead, payload: bytes, worker_id: str) -> Reply:
    """An answer without any rack, for trying a client out; it says what it is."""
    result = {
        "simulated": True,
        "modelId": head.model_id,
        "task": head.options.task,
        "inputBytes": len(payload),
        "text": f"simulated answer of {head.model_id}",
    }
    facts = {
        "success": True,
        "simulated": True,
        "workerId": worker_id,
        "routedAt": clock.wall_ms(),
        "attempts": 0,
    }
    return Reply(facts, wire.MSGPACK, wire.pack_body(result), None)
