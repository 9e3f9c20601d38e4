"""The checker itself is tested: twelve defects are planted in real parts of a small mesh, and it finds each.

The day that is played is always the same; without a defect its history is clean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.watched_mesh import RULES, DiaryRack, told
from wrk_base import errors
from wrk_base.rpc import wire
from wrk_base.rpc.calls import CallTable
from wrk_base.rpc.client import Peer
from wrk_orchestrator import health_record
from wrk_orchestrator.admission import Admission, Limits
from wrk_orchestrator.chaos.checker import check
from wrk_orchestrator.chaos.validity import void
from wrk_orchestrator.fleet import Fleet
from wrk_orchestrator.load_balancer import Lease
from wrk_orchestrator.routing import Asker, Router

NTH = 20  # a defect that shows once in a while, as they do

Plant = Callable[[pytest.MonkeyPatch], None]


class Between:
    """An asker that stands before the real one and passes on what it is told."""

    reads_heads = True

    def __init__(self, asker: Asker) -> None:
        self.asker = asker

    def __getattr__(self, name: str) -> Any:
        return getattr(self.asker, name)

    def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
        self.asker.answer(head, content_type, payload)

    def fail(self, error: BaseException) -> None:
        self.asker.fail(error)


def among_askers(patch: pytest.MonkeyPatch, kind: type[Between]) -> None:
    """Every n-th request gets an asker of this kind between."""
    start, asked = Router.start, 0

    def broken(router: Router, question: Any, asker: Asker) -> Any:
        nonlocal asked
        asked += 1
        return start(router, question, kind(asker) if asked % NTH == 0 else asker)

    patch.setattr(Router, "start", broken)


def every_nth(patch: pytest.MonkeyPatch, owner: type, name: str, broken: Callable[..., Any]) -> None:
    """Every n-th call of a method is of `broken`, which gets the sound one first."""
    sound, calls = getattr(owner, name), 0

    def method(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        return broken(sound, *args, **more) if calls % NTH == 0 else sound(*args, **more)

    patch.setattr(owner, name, method)


def drop_a_reply(patch: pytest.MonkeyPatch) -> None:
    class Drop(Between):
        def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
            """Not passed on."""

    among_askers(patch, Drop)


def answer_twice(patch: pytest.MonkeyPatch) -> None:
    class Twice(Between):
        def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
            self.asker.answer(head, content_type, payload)
            self.asker.answer(head, content_type, payload)

    among_askers(patch, Twice)


def answer_late(patch: pytest.MonkeyPatch) -> None:
    class Late(Between):
        def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
            asyncio.get_running_loop().call_later(2.1, self.asker.answer, head, content_type, payload)

    among_askers(patch, Late)


def swap_two_answers(patch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[Asker, tuple[Any, ...]]] = []

    class Swap(Between):
        def answer(self, head: bytes | None, content_type: int, payload: wire.Payload) -> None:
            kept.append((self.asker, (head, content_type, payload)))
            if len(kept) == 2:
                (one, first), (other, second) = kept
                kept.clear()
                one.answer(*second)
                other.answer(*first)

    among_askers(patch, Swap)


def leak_a_pending_call(patch: pytest.MonkeyPatch) -> None:
    class Forgotten:
        deadline = float("inf")
        sent, id, parts = True, 0, ("", 0, None, 0, b"")

        def failed(self, error: errors.WrkError) -> None:
            """Nobody waits for it."""

    def broken(sound: Any, table: CallTable[Any, Any], key: Any) -> Any:
        table.entries[f"forgotten {key}"] = Forgotten()
        return sound(table, key)

    every_nth(patch, CallTable, "pop", broken)


def execute_twice(patch: pytest.MonkeyPatch) -> None:
    async def broken(sound: Any, rack: DiaryRack, *given: Any) -> Any:
        await sound(rack, *given)
        return await sound(rack, *given)

    every_nth(patch, DiaryRack, "infer", broken)


def forget_a_decrement(patch: pytest.MonkeyPatch) -> None:
    every_nth(patch, Lease, "done", lambda sound, lease, **outcome: None)


def route_to_a_quarantined_worker(patch: pytest.MonkeyPatch) -> None:
    sound = Fleet._set_limit
    patch.setattr(Fleet, "_set_limit", lambda fleet, name, limit: sound(fleet, name, limit or 8))


def readmit_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(health_record, "quarantine_length", lambda strikes, shortest, longest: 1.0)


def lose_a_cancel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Peer, "_tell_cancel", lambda peer, call: None)


def let_a_queue_grow(patch: pytest.MonkeyPatch) -> None:
    sound = Admission.__init__

    def broken(admission: Any, limits: Limits, *rest: Any) -> None:
        sound(admission, Limits(10_000, 10_000, limits.timeout), *rest)

    patch.setattr(Admission, "__init__", broken)


def swallow_an_error(patch: pytest.MonkeyPatch) -> None:
    start = Router.start

    class Swallow(Between):
        def fail(self, error: BaseException) -> None:
            if isinstance(error, errors.Internal):
                self.asker.answer(None, wire.MSGPACK, wire.pack_body({"digest": self.asker.name}))  # type: ignore[attr-defined]
            else:
                self.asker.fail(error)

    patch.setattr(Router, "start", lambda router, question, asker: start(router, question, Swallow(asker)))


DEFECTS: list[tuple[Plant, str]] = [
    (drop_a_reply, "lost"),
    (answer_twice, "twice"),
    (answer_late, "late"),
    (swap_two_answers, "swapped"),
    (leak_a_pending_call, "leak"),
    (execute_twice, "doubled"),
    (forget_a_decrement, "leak"),
    (route_to_a_quarantined_worker, "misrouted"),
    (readmit_early, "readmitted"),
    (lose_a_cancel, "runaway"),
    (let_a_queue_grow, "unbounded"),
    (swallow_an_error, "swallowed"),
]


def test_a_day_without_a_defect_is_clean(tmp_path: Path) -> None:
    events = told(tmp_path)
    assert check(events, RULES) == []
    assert void(events) == []


@pytest.mark.parametrize(("plant", "kind"), DEFECTS, ids=[plant.__name__ for plant, _ in DEFECTS])
def test_it_finds(plant: Plant, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    found = {violation.kind for violation in check(told(tmp_path), RULES)}
    assert kind in found, f"found {found or 'nothing'}"
