"""What a process makes of the limits that it was started under, by arithmetic."""

from __future__ import annotations

import resource

import pytest

from wrk_base import descriptors, memory
from wrk_base.config import Settings

MIB = 2**20


def test_number_of_a_descriptor_tells_how_many_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (128, 128))
    assert descriptors.limit() == 128
    assert [descriptors.is_short(number, 32) for number in (3, 95, 96, 127)] == [False, False, True, True]


def test_no_limit_of_descriptors_is_taken_for_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert descriptors.limit() == descriptors.WANTED
    assert not descriptors.is_short(3, 64)


def test_who_gets_the_last_descriptors() -> None:
    assert descriptors.KEPT_FROM_HTTP > descriptors.KEPT_FROM_CALLERS > descriptors.KEPT_FROM_LINKS > 0


def test_memory_without_a_limit_changes_nothing() -> None:
    assert memory.within(Settings(), None) == Settings()
    assert memory.within(Settings(), 2**40) == Settings()


@pytest.mark.parametrize(("spare", "held"), [(400 * MIB, 50 * MIB), (4 * MIB, MIB), (0, MIB)])
def test_bodies_get_a_share_of_the_memory_that_is_there(spare: int, held: int) -> None:
    rpc = memory.within(Settings(), spare).rpc
    assert (rpc.process_bytes, rpc.peer_bytes) == (held, held)
