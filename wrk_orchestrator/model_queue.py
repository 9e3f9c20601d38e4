"""One model's queue of requests: who waits, how fast it moves, and what callers are told of it. Pure.

The order is that of fair_queue.py. Estimates are honest rather than kind: they count everybody who waits, at
the pace that was measured, or before that at the time of one answer that the refusal of the balancer tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from wrk_base import errors

from .fair_queue import CLASSES, DEFAULT, RANKS, FairQueue, Place, Wish
from .wait_estimate import Pace

if TYPE_CHECKING:
    import asyncio

FIRST_GUESS_S = 1.0  # of one answer, when nothing is known of the model

T = TypeVar("T")


class Applicant(Protocol[T]):
    """A request that wants in. `waited` is in seconds, `deadline` in the loop's time."""

    @property
    def caller(self) -> str: ...

    @property
    def priority(self) -> str: ...

    @property
    def deadline(self) -> float: ...

    def pick(self) -> T:
        """Take a worker. Raises `CapacityExceeded` where all that could answer are full."""

    def wish(self) -> Wish: ...

    def queued(self, waiter: Waiter[T]) -> None: ...

    def granted(self, lease: T, waited: float) -> None: ...

    def refused(self, error: errors.WrkError, waited: float) -> None: ...


class Waiter(Place, Generic[T]):
    """An applicant's place in the queue of `model_id`."""

    __slots__ = ("applicant", "model_id", "timer")

    def __init__(self, applicant: Applicant[T], model_id: str, wish: Wish, now: float) -> None:
        super().__init__(wish, RANKS.get(applicant.priority, DEFAULT), applicant.caller, now)
        self.applicant, self.model_id = applicant, model_id
        self.timer: asyncio.TimerHandle | None = None


class ModelQueue(FairQueue[Waiter[T]]):
    """Those who wait for `model_id`, and how fast that goes. `loading`: seconds until the model is loaded, 0
    where nobody loads it."""

    def __init__(self, model_id: str, turn: int, pace: Pace) -> None:
        super().__init__(turn)
        self.model_id, self.pace = model_id, pace
        self.stranded: asyncio.TimerHandle | None = None  # while none that could is in service

    def retry_ms(self, now: float, loading: float) -> int:
        """When one who came now, behind all that wait, would get a worker."""
        return round((loading + self.pace.seconds(len(self) + 1, now)) * 1000)

    def full(self, reason: str, now: float, loading: float) -> errors.CapacityExceeded:
        data = {"model": self.model_id, "waiting": len(self)}
        text = f"model {self.model_id}: {reason}"
        return errors.CapacityExceeded(text, data=data, retry_after_ms=self.retry_ms(now, loading))

    def late(self, waited: float, now: float, loading: float) -> errors.QueueTimeout:
        data = {"model": self.model_id, "waiting": len(self)}
        what = "it was not loaded" if loading else "no worker came free"
        text = f"model {self.model_id}: {what} within {waited:.3g} s"
        return errors.QueueTimeout(text, data=data, retry_after_ms=self.retry_ms(now, loading))

    def shown(self, now: float, loading: float) -> dict[str, Any]:
        """For people."""
        return {
            "model": self.model_id,
            "waiting": len(self),
            "byClass": dict(zip(CLASSES, self.counts, strict=True)),
            "oldestMs": round((now - self.oldest()) * 1000),
            "estimateMs": self.retry_ms(now, loading),
        }


def first_guess(refusal: errors.WrkError | None) -> float:
    """Seconds for each that waits: one answer of one of the workers, as a refusal tells them."""
    if not isinstance(refusal, errors.CapacityExceeded) or refusal.retry_after_ms is None:
        return FIRST_GUESS_S
    workers: int = refusal.data.get("workers", 1)
    return refusal.retry_after_ms / 1000 / max(1, workers)
