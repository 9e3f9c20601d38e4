"""A worker id stays with the machine whose worker had it first, over restarts, until an operator frees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.mesh import MeshHouse
from wrk_base import errors
from wrk_base.rpc.identity import PeerInfo
from wrk_base.store import Store
from wrk_orchestrator.owners import KIND, MOST, Owners


class Book:
    """Owners with a store that can be opened again, as a restart does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.restart()

    def restart(self) -> None:
        self.close()
        self._store = Store(self._path)
        self.owners = Owners("orc-1")
        self.owners.open(self._store)

    def close(self) -> None:
        store = getattr(self, "_store", None)
        if store is not None:
            store.close()

    def kept(self) -> set[str]:
        return {record.id for record in self._store.all(KIND)}


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    made = Book(tmp_path / "orc.sqlite")
    yield made
    made.close()


@pytest.fixture
def desk(tmp_path: Path) -> MeshHouse:
    return MeshHouse(tmp_path / "desk")


@pytest.fixture
def attic(desk: MeshHouse, tmp_path: Path) -> MeshHouse:
    return desk.invited(tmp_path / "attic", "attic", "rack")


def worker(machine: MeshHouse, worker_id: str, epoch: int = 1) -> PeerInfo:
    """What a worker of this machine proves in its greeting, with a key of its own each time."""
    return PeerInfo(worker_id, epoch, "rack", member=machine.member(worker_id, "rack").own)


def test_an_id_belongs_to_the_machine_that_had_it_first(
    book: Book, desk: MeshHouse, attic: MeshHouse
) -> None:
    book.owners.claim(worker(desk, "r1"))
    book.owners.claim(worker(attic, "r2"))
    with pytest.raises(errors.PermissionDenied, match="r1 belongs to another machine than attic"):
        book.owners.claim(worker(attic, "r1"))
    with pytest.raises(errors.PermissionDenied, match="r2 belongs to another machine than first"):
        book.owners.claim(worker(desk, "r2"))


def test_a_worker_may_come_back_with_another_key(book: Book, desk: MeshHouse) -> None:
    first, second = worker(desk, "r1"), worker(desk, "r1", epoch=2)
    assert first.member is not None
    assert second.member is not None
    assert first.member.key != second.member.key
    book.owners.claim(first)
    book.owners.claim(second)


def test_it_is_remembered_over_a_restart(book: Book, desk: MeshHouse, attic: MeshHouse) -> None:
    book.owners.claim(worker(desk, "r1"))
    book.restart()
    assert "r1" in book.owners
    with pytest.raises(errors.PermissionDenied):
        book.owners.claim(worker(attic, "r1"))
    book.owners.claim(worker(desk, "r1"))


def test_an_id_that_was_freed_is_the_next_ones(book: Book, desk: MeshHouse, attic: MeshHouse) -> None:
    book.owners.claim(worker(desk, "r1"))
    book.owners.forget("r1")
    book.owners.forget("never-seen")
    book.restart()
    assert "r1" not in book.owners
    book.owners.claim(worker(attic, "r1"))
    with pytest.raises(errors.PermissionDenied):
        book.owners.claim(worker(desk, "r1"))


def test_a_machine_that_was_revoked_and_joins_again_is_another_one(
    book: Book, desk: MeshHouse, attic: MeshHouse, tmp_path: Path
) -> None:
    """Its old key may be a thief's, so its old ids do not come back by themselves."""
    book.owners.claim(worker(attic, "r1"))
    desk.files.revoke("attic", desk.wall.now)
    again = desk.invited(tmp_path / "attic-again", "attic", "rack")
    with pytest.raises(errors.PermissionDenied, match="forgetRacks"):
        book.owners.claim(worker(again, "r1"))


def test_on_an_open_network_nobody_owns_anything(book: Book) -> None:
    book.owners.claim(PeerInfo("r1", 1, "rack"))
    assert "r1" not in book.owners
    assert book.kept() == set()


def test_so_many_are_remembered_and_then_the_oldest_goes(
    book: Book, desk: MeshHouse, attic: MeshHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST >= 10_000
    monkeypatch.setattr("wrk_orchestrator.owners.MOST", 3)
    for number in range(4):
        book.owners.claim(worker(desk, f"r{number}"))
    assert book.kept() == {"r1", "r2", "r3"}
    book.owners.claim(worker(attic, "r0"))
    with pytest.raises(errors.PermissionDenied):
        book.owners.claim(worker(attic, "r3"))
