"""Has workers load models that they list as cold, when somebody asks for one that nobody serves.

Warm workers first: nothing is loaded while one that meets the request is in service, but a further copy on an
idle worker where the queue would take longer than that. The request waits meanwhile in the queue of its model
(admission.py), which is looked at again whenever a load ends, well or not.

Invariant: whoever was told to wait is reviewed when the load that it waits for has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

import structlog

from wrk_base import errors

from .fair_queue import Wish
from .load_balancer import LoadBalancer
from .load_book import LoadBook
from .records import WorkerRecord
from .service_registry import ServiceRegistry

TOLD = 10  # failures named in one refusal


class Racks(Protocol):
    """What is asked of the fleet."""

    def is_ready(self, worker_id: str) -> bool: ...

    async def load_model(self, worker_id: str, model_id: str, timeout: float) -> None:
        """Returns when the worker has loaded it and its offer was read anew; raises `WrkError`."""


class ModelLoader:
    """`timeout` seconds are for one load; `on_end` is told the models that may be worth another look."""

    def __init__(
        self,
        registry: ServiceRegistry,
        balancer: LoadBalancer,
        racks: Callable[[], Racks],
        *,
        timeout: float,
        spawn: Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]],
        on_end: Callable[[Iterable[str]], None],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._registry, self._balancer, self._racks = registry, balancer, racks
        self._timeout, self._spawn, self._on_end, self._log = timeout, spawn, on_end, log
        self._loop = asyncio.get_running_loop()
        self._book = LoadBook()
        self._behind: dict[str, None] = {}  # models that wait for a worker which loads another one

    # --- what admission asks

    def begin(self, wish: Wish, refusal: errors.WrkError) -> errors.WrkError | None:
        """None: a worker loads the model, or will; else what to tell who asked, `refusal` unless there is
        more to say."""
        model = wish.want.model
        racks = [rack for rack in self._registry.could_load(model) if wish.fits(rack)]
        if not racks or self._balancer.in_service(wish.want):
            return refusal
        if model in self._book.under_way:
            return None
        failures = self._book.failures(model, self._loop.time())
        able = [rack for rack in racks if rack.worker_id not in failures and self._is_well(rack)]
        busy = self._book.busy()
        idle = [rack for rack in able if rack.worker_id not in busy]
        if idle:
            self._start(model, min(idle, key=self._order))
        elif able:
            self._behind[model] = None
        else:
            return self._explained(model, refusal)
        return None

    def spread(self, wish: Wish, wait: float) -> None:
        """Those who want this wait so long: one more copy, where that is sooner and costs nobody anything."""
        model = wish.want.model
        racks = self._registry.could_load(model)
        if not racks or model in self._book.under_way or wait <= self._book.seconds(model):
            return
        barred = {*self._book.busy(), *self._book.failures(model, self._loop.time())}
        idle = [
            rack
            for rack in racks
            if rack.worker_id not in barred
            and not self._balancer.load(rack.worker_id)
            and wish.fits(rack)
            and self._is_well(rack)
        ]
        if idle:
            self._start(model, min(idle, key=self._order))

    def seconds_left(self, model: str) -> float:
        """Until the model is loaded; 0 where nobody loads it."""
        if model in self._behind and model not in self._book.under_way:
            now = self._loop.time()
            others = [self._book.seconds_left(other, now) for other in self._book.under_way]
            return min(others, default=0.0) + self._book.seconds(model)
        return self._book.seconds_left(model, self._loop.time())

    def patience(self, model: str) -> float:
        """How many seconds more than for a free worker a request waits for the model to be loaded."""
        return self._timeout if model in self._book.under_way or model in self._behind else 0.0

    # --- loading

    @property
    def under_way(self) -> dict[str, str]:
        """Model -> the worker that loads it."""
        return {model: load.worker_id for model, load in self._book.under_way.items()}

    def _is_well(self, rack: WorkerRecord) -> bool:
        return self._balancer.limit(rack.worker_id) > 0 and self._racks().is_ready(rack.worker_id)

    def _order(self, rack: WorkerRecord) -> tuple[float, int, str]:
        """The least loaded first, then the one with fewest models that it might have to put out."""
        load = self._balancer.load(rack.worker_id) / self._balancer.limit(rack.worker_id)
        return load, len(rack.models), rack.worker_id

    def _start(self, model: str, rack: WorkerRecord) -> None:
        self._behind.pop(model, None)
        self._book.begin(model, rack.worker_id, self._loop.time())
        self._spawn(self._load(model, rack.worker_id), "load a model")

    async def _load(self, model: str, worker_id: str) -> None:
        self._log.info("model.loading", model=model, worker=worker_id)
        reason = ""
        try:
            await self._racks().load_model(worker_id, model, self._timeout)
        except errors.WrkError as error:
            reason = error.message
        else:
            record = self._registry.get(worker_id)
            if record is None or model not in record.models:
                reason = "it said that it did, and does not offer it"
        took = self._book.end(model, reason, self._loop.time())
        if reason:
            self._log.warning("model.not_loaded", model=model, worker=worker_id, reason=reason)
        else:
            self._log.info("model.loaded", model=model, worker=worker_id, seconds=round(took, 3))
        behind, self._behind = self._behind, {}
        self._on_end((model, *behind))

    def _explained(self, model: str, refusal: errors.WrkError) -> errors.WrkError:
        """Why nobody loads it, if the reason is that those who could have failed."""
        now = self._loop.time()
        failures = self._book.failures(model, now)
        if not failures:
            return refusal
        told = dict(list(failures.items())[:TOLD])
        reasons = "; ".join(f"{worker}: {failure.reason}" for worker, failure in told.items())
        return errors.NoWorkersAvailable(
            f"model {model}: no worker serves it, and it could not be loaded ({reasons})",
            data={"model": model, "modelSeen": True, "failures": {w: f.reason for w, f in told.items()}},
            retry_after_ms=round((min(failure.until for failure in failures.values()) - now) * 1000),
        )
