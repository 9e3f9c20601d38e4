"""When a call may go on to another orchestrator, to which, and for how long one is set aside: by table."""

from __future__ import annotations

from random import Random

import pytest

from wrk_base import errors
from wrk_base.failover import (
    FIRST_ASIDE,
    LONGEST_ASIDE,
    Attempts,
    Preference,
    aside_seconds,
    at_fault,
    may_move,
)

A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"


def lost() -> errors.WrkError:
    return errors.Unavailable("lost tcp://a:1")


def drains() -> errors.WrkError:
    return errors.Unavailable("it stops", origin="orc-1", not_started=True)


def cut() -> errors.WrkError:
    return errors.Unavailable("it stopped before the answer was ready", origin="orc-1")


def racks_died() -> errors.WrkError:
    return errors.Unavailable("lost tcp://rack:1", origin="orc-1", data={"attempts": 4})


def racks_refused() -> errors.WrkError:
    return errors.Unavailable("it drains", origin="r1", data={"attempts": 2}, not_started=True)


def nobody_serves() -> errors.WrkError:
    return errors.NoWorkersAvailable("model m1: never seen here", origin="orc-1")


def nobody_fits() -> errors.WrkError:
    return errors.NoWorkersMatch("nobody has a gpu", origin="orc-1")


def full() -> errors.WrkError:
    return errors.CapacityExceeded("all at capacity", origin="orc-1", not_started=True)


def raised() -> errors.WrkError:
    return errors.Internal("it failed", origin="r1", data={"attempts": 1})


def malformed() -> errors.WrkError:
    return errors.BadRequest("no modelId", origin="orc-1", not_started=True)


def too_late() -> errors.WrkError:
    return errors.DeadlineExceeded("the deadline passed while it ran", origin="orc-1")


def silence() -> errors.WrkError:
    return errors.DeadlineExceeded("no answer from tcp://a:1 in time")


@pytest.mark.parametrize(
    ("error", "moves", "moves_once", "fault"),
    [
        (lost(), True, False, True),
        (drains(), True, True, True),
        (cut(), True, False, True),
        (racks_died(), False, False, False),
        (racks_refused(), True, True, False),
        (nobody_serves(), True, True, False),
        (nobody_fits(), True, True, False),
        (full(), True, True, False),
        (raised(), False, False, False),
        (malformed(), False, False, False),
        (too_late(), False, False, False),
        (silence(), False, False, True),
    ],
    ids=lambda value: str(value) if isinstance(value, errors.WrkError) else "",
)
def test_what_never_ran_moves_and_what_was_lost_moves_if_it_may_be_repeated(
    error: errors.WrkError, moves: bool, moves_once: bool, fault: bool
) -> None:
    assert may_move(error, repeatable=True) is moves
    assert may_move(error, repeatable=False) is moves_once
    assert at_fault(error) is fault


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.25), (2, 0.5), (3, 1.0), (5, 4.0), (6, 5.0), (1000, 5.0), (0, 0.25)]
)
def test_who_fails_again_is_set_aside_for_longer_up_to_a_bound(failures: int, seconds: float) -> None:
    assert aside_seconds(failures, 0.0) == seconds
    assert aside_seconds(failures, 0.999) == pytest.approx(0.75 * seconds, rel=0.01)


def three(*, ranked: bool = True) -> Preference:
    preference = Preference(Random(1))
    for rank, endpoint in enumerate((A, B, C)):
        preference.add(endpoint, rank if ranked else None)
    return preference


def test_calls_stay_where_they_are_answered() -> None:
    preference = three()
    assert {preference.pick((B, C), 0.0) for _ in range(5)} == {B}
    assert preference.pick((A, B, C), 1.0) == B, "a better rank alone moves nobody"
    preference.left(B)
    assert preference.pick((A, B, C), 2.0) == A


def test_a_refusal_sends_one_call_elsewhere_and_not_the_others() -> None:
    preference = three()
    assert preference.pick((A, B), 0.0) == A
    assert preference.pick((B,), 0.0) == B  # this call has tried A
    assert preference.pick((A, B), 0.0) == A


def test_who_failed_is_left_out_for_a_while_and_comes_back_by_itself() -> None:
    preference = three()
    assert preference.pick((A, B), 10.0) == A
    preference.failed(A, 10.0)
    assert preference.pick((A, B), 10.0) == B
    preference.failed(B, 11.0)
    assert preference.pick((A, B), 11.0) == A, "its time is over"


def test_a_client_with_one_address_uses_it_whatever_happened_to_it() -> None:
    preference = three()
    preference.failed(A, 0.0)
    assert preference.pick((A,), 0.0) == A


def test_of_several_that_are_set_aside_the_one_whose_time_ends_first_is_asked() -> None:
    preference = three()
    for at, endpoint in enumerate((C, B, A)):
        preference.failed(endpoint, at / 10)
    assert preference.pick((A, B, C), 0.2) == C


def test_a_loss_that_ended_many_calls_is_one_failure_and_success_forgives_all() -> None:
    preference = three()
    for _ in range(1000):
        preference.failed(A, 0.0)
    preference.left(B)
    preference.failed(B, 0.0)
    preference.failed(C, 0.0)
    assert preference.pick((A, B, C), FIRST_ASIDE) == A
    now = 0.0
    for _ in range(20):
        now += 2 * LONGEST_ASIDE
        preference.failed(A, now)
    preference.worked(A)
    preference.failed(A, now + LONGEST_ASIDE)
    preference.failed(B, now + LONGEST_ASIDE + FIRST_ASIDE)
    assert preference.pick((A, B), now + LONGEST_ASIDE + FIRST_ASIDE) == A


def test_what_was_heard_is_ranked_by_chance_so_that_clients_spread() -> None:
    first = set()
    for seed in range(50):
        preference = Preference(Random(seed))
        for endpoint in (A, B, C):
            preference.add(endpoint)
        first.add(preference.pick((A, B, C), 0.0))
    assert first == {A, B, C}


def test_who_is_forgotten_is_forgotten_and_nobody_is_nobody() -> None:
    preference = three()
    assert preference.pick((), 0.0) is None
    assert preference.pick((A,), 0.0) == A
    preference.drop(A)
    preference.failed(A, 0.0)
    preference.worked(A)
    assert preference.pick((B,), 0.0) == B


# --- one call's story


def test_the_error_that_is_told_is_the_one_that_tells_most() -> None:
    attempts = Attempts(repeatable=True)
    assert attempts.may_wait
    assert attempts.failed(("orc-1", 1), nobody_serves())
    assert not attempts.may_wait, "for a second opinion nobody is waited for"
    assert attempts.failed(("orc-2", 1), lost())
    assert isinstance(attempts.error, errors.NoWorkersAvailable)
    assert attempts.error.data["orchestrators"] == ["orc-1", "orc-2"]
    assert not attempts.error.not_started, "at the second it may have begun"


def test_what_never_began_anywhere_says_so() -> None:
    attempts = Attempts(repeatable=False)
    assert attempts.failed(("orc-1", 1), drains())
    assert attempts.may_wait
    assert attempts.failed(("orc-2", 1), drains())
    assert attempts.error is not None
    assert attempts.error.not_started
    assert attempts.tried == [("orc-1", 1), ("orc-2", 1)]


def test_a_failure_after_a_loss_does_not_make_it_never_begun() -> None:
    attempts = Attempts(repeatable=True)
    assert attempts.failed(("orc-1", 1), lost())
    assert attempts.failed(("orc-2", 1), drains())
    assert attempts.error is not None
    assert not attempts.error.not_started
