"""Greetings: who a peer says it is, believed only where it makes sense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrk_base.rpc import wire
from wrk_base.rpc.identity import BadGreeting, Identity, read_greeting

IDENTITY = Identity("r1-0a1b2c3d", epoch=(3 << 32) | 77, role="rack", name="r1")
LIMITS = {"maxMessage": 1_048_576}


def facts(**changes: Any) -> dict[Any, Any]:
    """A greeting as it arrives: packed and unpacked, with some facts changed."""
    greeting = {**IDENTITY.greeting(LIMITS), **changes}
    _, envelopes = wire.decode(wire.encode([(wire.HELLO, 0, 0, greeting)], 0))
    received: dict[Any, Any] = envelopes[0][3]
    return received


@given(
    worker_id=st.text(min_size=1, max_size=128),
    epoch=st.integers(0, 2**64 - 1),
    role=st.text(max_size=32),
    name=st.text(max_size=128),
    limits=st.dictionaries(st.text(), st.integers(0, 2**63)),
)
def test_a_greeting_tells_who_wrote_it(
    worker_id: str, epoch: int, role: str, name: str, limits: dict[str, int]
) -> None:
    sent = [(wire.HELLO, 0, 0, Identity(worker_id, epoch, role, name).greeting(limits))]
    info = read_greeting(wire.decode(wire.encode(sent, 0))[1][0][3])
    assert (info.worker_id, info.epoch, info.role, info.name, info.limits) == (
        worker_id,
        epoch,
        role,
        name,
        limits,
    )


def test_a_greeting_of_a_long_name_is_small_enough_for_a_stranger() -> None:
    greeting = Identity("w" * 128, 2**64 - 1, "orchestrator", "n" * 128).greeting(LIMITS)
    assert len(wire.encode([(wire.HELLO, 0, 0, greeting)], 2**63)) < wire.MAX_GREETING / 4


def test_the_proof_is_there_and_empty() -> None:
    assert facts()["proof"] == b""
    assert facts()["features"] == ()


@pytest.mark.parametrize("versions", [[1, 1], [1, 9], [0, 1], [-3, 2]])
def test_versions_that_overlap_are_fine(versions: list[int]) -> None:
    assert read_greeting(facts(versions=versions)).worker_id == IDENTITY.worker_id


@pytest.mark.parametrize(
    "versions",
    [[2, 3], [0, 0], [3, 1], [1], [1, 1, 1], [], None, 1, "11", [1.0, 1.0], [True, True], {"1": 1}],
)
def test_versions_that_do_not_overlap_or_are_none_are_refused(versions: Any) -> None:
    with pytest.raises(BadGreeting, match="version"):
        read_greeting(facts(versions=versions))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": "w" * 129},
        {"id": None},
        {"id": b"w1"},
        {"id": 7},
        {"epoch": -1},
        {"epoch": 1.0},
        {"epoch": True},
        {"epoch": None},
        {"epoch": "7"},
        {"role": None},
        {"role": "r" * 33},
        {"role": ["rack"]},
    ],
)
def test_a_greeting_without_a_usable_identity_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadGreeting, match="a greeting names"):
        read_greeting(facts(**changes))


def test_facts_that_are_missing_or_unknown_do_no_harm() -> None:
    for optional in ("features", "limits", "name", "proof"):
        received = facts(unheard="of")
        del received[optional]
        assert read_greeting(received).epoch == IDENTITY.epoch
    for needed in ("versions", "id", "epoch", "role"):
        received = facts()
        del received[needed]
        with pytest.raises(BadGreeting):
            read_greeting(received)


@pytest.mark.parametrize("limits", [None, 5, [], "x", {"a": "b", "maxMessage": 5, "c": True, "d": 1.5}])
def test_limits_are_numbers_or_nothing(limits: Any) -> None:
    assert read_greeting(facts(limits=limits)).limits in ({}, {"maxMessage": 5})


def test_an_overlong_name_is_cut_and_a_name_that_is_none_is_empty() -> None:
    assert read_greeting(facts(name="n" * 4000)).name == "n" * 128
    assert read_greeting(facts(name=5)).name == ""


@given(
    st.dictionaries(
        st.sampled_from(["versions", "id", "epoch", "role", "name", "limits", "proof", "features"])
        | st.text(),
        st.none()
        | st.integers()
        | st.text()
        | st.binary()
        | st.lists(st.integers()).map(tuple)
        | st.just((1, 1)),
    )
)
def test_any_facts_are_a_peer_or_a_bad_greeting(received: dict[Any, Any]) -> None:
    try:
        info = read_greeting(received)
    except BadGreeting:
        return
    assert info.worker_id
    assert 0 <= info.epoch < 2**64
