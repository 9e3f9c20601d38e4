"""One call of one worker on behalf of a route, and the lease on that worker.

It counts in its own worker's sequence: what a caller had before from another worker is `base` items of
`base_bytes`, and only the route knows of them. The invariant: its lease is given back once, by whichever of
its outcome and its being given up comes first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.call import StreamCall
from wrk_base.rpc.client import Peer
from wrk_base.rpc.stream import FIRST_ITEMS

from .load_balancer import Lease

if TYPE_CHECKING:
    from .route import Route


class Attempt(StreamCall):
    """`granted` is how many items its worker may send in all, `first_at` when its first came (0: none)."""

    __slots__ = ("base", "base_bytes", "first_at", "granted", "lease", "peer", "route", "started")

    def __init__(self, route: Route, lease: Lease, started: float) -> None:
        super().__init__()
        self.until, self.deadline = route.all_by, route.deadline
        self.route, self.lease, self.started = route, lease, started
        self.granted = FIRST_ITEMS
        self.first_at = 0.0
        self.base = self.base_bytes = 0
        self.peer: Peer | None = None

    @property
    def worker_id(self) -> str:
        return self.lease.worker.worker_id

    @property
    def delivered(self) -> int:
        """How many items its caller has, of this worker's and of those before it."""
        return self.base + self.received

    # --- what its worker says

    def answered(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        if self.base:
            self.failed(self._broken())
        else:
            self.route.answered(self, head, content_type, payload)

    def items(self, first: int, content_type: int, payloads: tuple[bytes, ...]) -> bool:
        count = len(payloads)
        if first != self.received or first + count > self.granted:
            return False
        if not first and not self.route.begins(self, content_type):
            return False
        self.received += count
        self.wait_for_more()
        self.route.forward(content_type, payloads)
        return True

    def ended(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self.route.ended(self, head, content_type, payload)

    def failed(self, error: errors.WrkError) -> None:
        if self.delivered:
            error.data = {**error.data, "items": self.delivered}
        self.route.failed(self, error)

    def _broken(self) -> errors.WrkError:
        return errors.Internal(f"{self.worker_id} was to go on with a stream, and gave a whole answer")

    # --- what its route says

    def go_on_from(self, items: int, size: int, granted: int) -> None:
        """Its caller has so many items of so many bytes already, and room for `granted` more."""
        self.base, self.base_bytes, self.granted = items, size, granted

    def grant(self, items: int, size: int) -> None:
        """The caller takes so many in all."""
        items, size = items - self.base, max(0, size - self.base_bytes)
        if items > self.granted:
            self.granted = items
        if self.peer is not None:
            self.peer.grant(self, self.granted, size)
            if self.delivered:
                self.wait_for_more()

    def give_up(self) -> None:
        """Its worker is told that nobody waits for it; what it still says is counted and dropped."""
        if self.peer is not None:
            self.peer.give_up(self)

    def wait_for_more(self) -> None:
        """A worker that may send and does not is waited for; one whose reader is slow is not to blame."""
        assert self.peer is not None
        self.peer.expect(self, self.route.until(idle=self.is_waited_for))

    @property
    def is_waited_for(self) -> bool:
        """Whether its worker has something to send that its caller has room for."""
        return self.received < self.granted
