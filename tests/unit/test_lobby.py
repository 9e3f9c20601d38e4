"""How long, and how many, may wait without a word."""

from __future__ import annotations

from wrk_base.rpc.lobby import MOST, MOST_FROM_ONE_ADDRESS, Lobby


def test_who_says_nothing_is_overdue_and_is_named_once() -> None:
    lobby = Lobby(patience=3.5)
    assert lobby.enter(7, ("10.0.0.9", 4000), now=100.0)
    assert lobby.enter(8, ("10.0.0.9", 4001), now=101.0)
    assert lobby.overdue(103.4) == []
    assert lobby.overdue(103.5) == [(7, ("10.0.0.9", 4000))]
    assert lobby.overdue(103.5) == []
    assert len(lobby) == 1


def test_who_speaks_or_leaves_is_not_waited_for() -> None:
    lobby = Lobby(patience=1.0)
    lobby.enter(7, ("10.0.0.9", 4000), now=0.0)
    lobby.leave(7)
    lobby.leave(7)
    lobby.leave(-1)
    assert lobby.overdue(9.0) == []


def test_a_number_that_comes_back_is_somebody_else() -> None:
    lobby = Lobby(patience=1.0)
    lobby.enter(7, ("10.0.0.9", 4000), now=0.0)
    lobby.enter(7, ("10.0.0.8", 5000), now=0.9)
    assert lobby.overdue(1.5) == []
    assert lobby.overdue(2.0) == [(7, ("10.0.0.8", 5000))]


def test_one_address_does_not_take_all_the_room() -> None:
    lobby = Lobby(patience=1.0)
    entered = [lobby.enter(fd, ("10.0.0.9", fd), now=0.0) for fd in range(MOST_FROM_ONE_ADDRESS + 1)]
    assert entered == [True] * MOST_FROM_ONE_ADDRESS + [False]
    assert lobby.enter(9000, ("10.0.0.8", 1), now=0.0)
    lobby.leave(0)
    assert lobby.enter(9001, ("10.0.0.9", 2), now=0.0)


def test_processes_of_one_machine_are_bounded_together_only() -> None:
    lobby = Lobby(patience=1.0)
    entered = [lobby.enter(fd, ("127.0.0.1", fd), now=0.0) for fd in range(MOST + 1)]
    assert entered == [True] * MOST + [False]
