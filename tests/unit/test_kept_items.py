"""What is kept of a stream that could move: up to its bound and that of all, and nothing beyond."""

from __future__ import annotations

from wrk_base.rpc import wire
from wrk_base.rpc.body import Budget
from wrk_orchestrator.kept_items import ITEM_COST, KeptItems


def test_it_hands_on_what_came_and_what_its_caller_still_takes() -> None:
    kept = KeptItems(1000, Budget(1000, "all"))
    kept.add(wire.JSON, (b"one", b"two"))
    kept.add(wire.JSON, (b"three",))
    told = kept.progress(32, 100)
    assert (told.content_type, told.items) == (wire.JSON, [b"one", b"two", b"three"])
    assert (told.granted_items, told.granted_bytes) == (29, 89)
    assert kept.progress(2, 5).granted_items == kept.progress(2, 5).granted_bytes == 0


def test_items_of_another_type_do_not_follow() -> None:
    kept = KeptItems(1000, Budget(1000, "all"))
    assert kept.fits(wire.OCTETS)
    kept.add(wire.JSON, (b"1",))
    assert kept.fits(wire.JSON)
    assert not kept.fits(wire.OCTETS)


def test_a_stream_beyond_its_bound_keeps_nothing_from_then_on() -> None:
    everything = Budget(10_000, "all")
    kept = KeptItems(2 * (ITEM_COST + 10), everything)
    kept.add(wire.JSON, (bytes(10), bytes(10)))
    assert everything.used == 2 * (ITEM_COST + 10)
    assert kept.complete
    kept.add(wire.JSON, (b"",))
    assert not kept.complete
    assert everything.used == 0
    kept.add(wire.JSON, (b"",))
    assert everything.used == 0
    assert (kept.count, kept.size) == (4, 20)


def test_many_small_items_are_no_way_around_the_bound() -> None:
    kept = KeptItems(1000, Budget(10_000, "all"))
    kept.add(wire.JSON, (b"",) * (1000 // ITEM_COST + 1))
    assert not kept.complete


def test_the_stream_that_would_go_beyond_the_bound_of_all_gives_its_copy_up() -> None:
    everything = Budget(3 * (ITEM_COST + 10), "all")
    first, second = KeptItems(1000, everything), KeptItems(1000, everything)
    first.add(wire.JSON, (bytes(10), bytes(10)))
    second.add(wire.JSON, (bytes(10),))
    second.add(wire.JSON, (bytes(10),))
    assert first.complete
    assert not second.complete
    first.free()
    first.free()
    assert everything.used == 0
