"""The router: starts the way of each request (`route.py`), and keeps what all of them share.

That is a book for each model (what may be sent again, who waits for a first sign), counts, and the bytes that
streams which could move may keep. It knows the fleet by two questions and two reports.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from wrk_base import contract, errors
from wrk_base.rpc.body import Budget
from wrk_base.rpc.call import Reply
from wrk_base.rpc.client import Peer

from .admission import Admission
from .attempt import Attempt
from .load_balancer import Lease, LoadBalancer
from .model_book import ModelBook
from .model_names import NO_OTHER_NAMES, ModelNames
from .question import Asker, Awaited, Question
from .retry_budget import RetryBudget
from .route import Route
from .telling import most_telling

BOOKS = 1024  # models; beyond it the oldest book starts anew


class Links(Protocol):
    """What routing needs of the fleet."""

    def peer(self, worker_id: str) -> Peer | None: ...

    def note_cold(self, worker_id: str, model_id: str) -> None: ...

    def note_outcome(self, worker_id: str, error: errors.WrkError | None, elapsed: float) -> None: ...


class Router:
    """Routes inference over the workers that the balancer offers.

    Of each stream that could move `resume_bytes` are kept, of all of them `resume_total`; `hedge_share` is
    how many requests may be sent to a second worker before the first has failed.
    """

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
        hedge_share: float = 0.0,
        resume_bytes: int = 0,
        resume_total: int = 0,
        names: ModelNames = NO_OTHER_NAMES,
    ) -> None:
        self.names = names
        self.stream_idle = stream_idle
        self.balancer, self.links, self.admission = balancer, links, admission
        self.attempts_allowed = 1 + (max_retries if enable_failover else 0)
        self.hedge_share = hedge_share if self.attempts_allowed > 1 else 0.0
        self.resume_bytes = resume_bytes if self.attempts_allowed > 1 else 0
        self.kept = Budget(resume_total, "routing.resumeTotal")
        self.loop = asyncio.get_running_loop()
        self.counters = {"routed": 0, "failed": 0, "retried": 0, "moved": 0, "hedged": 0}
        self._budget_terms = (budget_share, budget_floor)
        self._books: dict[str, ModelBook] = {}

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
        awaited = Awaited(loop=self.loop)
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
        raise most_telling(refusals)

    def leave(self, worker_id: str) -> None:
        """The worker is silent. What it has not answered goes on elsewhere where that is possible at once;
        all else still waits for it."""
        peer = self.links.peer(worker_id)
        for call in peer.under_way if peer is not None else ():
            if isinstance(call, Attempt):
                call.route.leave(call)

    def book(self, model_id: str) -> ModelBook:
        book = self._books.get(model_id)
        if book is None:
            if len(self._books) >= BOOKS:
                self._books.pop(next(iter(self._books))).close()
            book = self._books[model_id] = ModelBook(RetryBudget(*self._budget_terms), self.hedge_share)
        return book

    def close(self) -> None:
        """Leave no timer."""
        for book in self._books.values():
            book.close()
